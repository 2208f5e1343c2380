"""Which back end runs a call: the first in its kind's list that supports it and is the faster.

What none of them supports is unrolled into steps, as is what acts inside of a step, zoneout and recurrent dropout. A
new back end is a module with one object and its name in the table. The rule is fixed and never timed at run time, so
that a run repeats to the bit; ``wnseq.nn.backend`` forces it.
"""

from typing import Any

from torch import Tensor

from wnseq._recurrence.backend import Backend
from wnseq._recurrence.call import Call, Sequence, States, make_call, restore
from wnseq._recurrence.cpu_gru import CPU_GRU
from wnseq._recurrence.cpu_lstm import CPU_LSTM
from wnseq._recurrence.cpu_lstm_float import CPU_LSTM_FLOAT
from wnseq._recurrence.cpu_min_rnn import CPU_MIN_RNN
from wnseq._recurrence.cpu_rnn import CPU_RNN
from wnseq._recurrence.custom_ops import CUSTOM_OPS
from wnseq._recurrence.parallel_scan import PARALLEL_SCAN
from wnseq._recurrence.reset_steps import RESET_STEPS
from wnseq._recurrence.single_step import SINGLE_STEP
from wnseq._recurrence.torch_kernel import TORCH_KERNEL
from wnseq._recurrence.unrolled import UNROLLED

BACKENDS: dict[str, tuple[Backend, ...]] = {
    "rnn": (CUSTOM_OPS, CPU_RNN, TORCH_KERNEL),
    "lstm": (CUSTOM_OPS, SINGLE_STEP, CPU_LSTM, RESET_STEPS, CPU_LSTM_FLOAT, TORCH_KERNEL),
    "gru": (CUSTOM_OPS, SINGLE_STEP, CPU_GRU, TORCH_KERNEL),
    "mingru": (CPU_MIN_RNN, PARALLEL_SCAN),
    "minlstm": (CPU_MIN_RNN, PARALLEL_SCAN),
}


def run(module: Any, flat: list[Tensor], x: Sequence, hx: Any, reset: Any = None) -> tuple[Sequence, Any]:
    """Run a module's layers over a sequence; arguments and errors as of :func:`wnseq._recurrence.call.make_call`.

    Returns:
        Output in the form of the input, and final states in that of the module.
    """
    call = make_call(module, flat, x, hx, reset)
    output, states = _run_mixed(module, call) if call.mixes_dtypes else select_backend(call).run(call)
    return restore(module, x, output, states)


def _run_mixed(module: Any, call: Call) -> tuple[Tensor, States]:
    """Run states of another dtype than the input's as torch does, which raises on nearly all, at every size."""
    try:
        if TORCH_KERNEL not in BACKENDS[call.kind]:
            raise RuntimeError("the input and the hidden state have different dtypes")
        return select_backend(call).run(call)
    except RuntimeError as error:
        dtypes = " and ".join(str(state.dtype) for state in call.states)
        raise RuntimeError(
            f"{str(error).rstrip('. ')}; {type(module).__name__}: the state must have the input's dtype "
            f"{call.x.dtype}, got {dtypes}; convert it, as with h.to({call.x.dtype})"
        ) from error


def select_backend(call: Call) -> Backend:
    """Return the back end that runs a call."""
    if call.rates is not None:
        return UNROLLED
    for candidate in (TORCH_KERNEL,) if call.mixes_dtypes else BACKENDS[call.kind]:
        if candidate.supports(call) and candidate.is_faster(call):
            return candidate
    return UNROLLED
