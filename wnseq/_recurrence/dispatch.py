"""Which back end runs a call: the first in its kind's list that can run it and is the faster.

What none of them can is unrolled into steps, as is what acts inside of a step, zoneout and recurrent dropout. A new
back end is a module with one object and its name in the table. The rule is fixed and never timed at run time, so that a
run repeats to the bit; ``wnseq.nn.backend`` forces it, and ``wnseq.nn.explain_backend`` says what it chose.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from wnseq._recurrence.backend import Backend, forced_backends
from wnseq._recurrence.call import Call, Sequence, States, make_call, restore
from wnseq._recurrence.cpu_gru import CPU_GRU
from wnseq._recurrence.cpu_lstm import CPU_LSTM
from wnseq._recurrence.cpu_lstm_float import CPU_LSTM_FLOAT
from wnseq._recurrence.cpu_min_rnn import CPU_MIN_RNN
from wnseq._recurrence.cpu_mlstm import CPU_MLSTM
from wnseq._recurrence.cpu_rnn import CPU_RNN
from wnseq._recurrence.custom_ops import CUSTOM_OPS
from wnseq._recurrence.parallel_scan import PARALLEL_SCAN
from wnseq._recurrence.reset_steps import RESET_STEPS
from wnseq._recurrence.single_step import SINGLE_STEP
from wnseq._recurrence.torch_kernel import TORCH_KERNEL
from wnseq._recurrence.unrolled import UNROLLED
from wnseq._torch_internals import is_tracing

BACKENDS: dict[str, tuple[Backend, ...]] = {
    "rnn": (CUSTOM_OPS, CPU_RNN, TORCH_KERNEL, UNROLLED),
    "lstm": (CUSTOM_OPS, SINGLE_STEP, CPU_LSTM, RESET_STEPS, CPU_LSTM_FLOAT, TORCH_KERNEL, UNROLLED),
    "gru": (CUSTOM_OPS, SINGLE_STEP, CPU_GRU, TORCH_KERNEL, UNROLLED),
    "mingru": (CPU_MIN_RNN, PARALLEL_SCAN, UNROLLED),
    "minlstm": (CPU_MIN_RNN, PARALLEL_SCAN, UNROLLED),
    "mlstm": (CPU_MLSTM, UNROLLED),
}


def run(module: Any, flat: list[Tensor], x: Sequence, hx: Any, reset: Any = None) -> tuple[Sequence, Any]:
    """Run a module's layers over a sequence; arguments and errors as of :func:`wnseq._recurrence.call.make_call`.

    Returns:
        Output in the form of the input, and final states in that of the module.
    """
    call = make_call(module, flat, x, hx, reset)
    if call.mixes_dtypes:
        output, states = _run_mixed(module, call)
    else:
        chosen = select_backend(call)
        if _records is not None:
            _records.append(_explain(call, chosen))
        output, states = chosen.run(call)
    return restore(module, x, output, states)


def _run_mixed(module: Any, call: Call) -> tuple[Tensor, States]:
    """Run states of another dtype than the input's as torch does, which raises on nearly all, at every size."""
    try:
        if TORCH_KERNEL not in BACKENDS[call.kind]:
            raise RuntimeError("the input and the hidden state have different dtypes")
        return (TORCH_KERNEL if TORCH_KERNEL.why_not(call) is None else UNROLLED).run(call)
    except RuntimeError as error:
        dtypes = " and ".join(str(state.dtype) for state in call.states)
        raise RuntimeError(
            f"{str(error).rstrip('. ')}; {type(module).__name__}: the state must have the input's dtype "
            f"{call.x.dtype}, got {dtypes}; convert it, as with h.to({call.x.dtype})"
        ) from error


def select_backend(call: Call) -> Backend:
    """Return the back end that runs a call.

    Raises:
        RuntimeError: None of those that are forced can run it.
    """
    traced = is_tracing()
    for name in forced_backends():
        for candidate in BACKENDS[call.kind]:
            if name == "auto":
                # the cheaper question first, but in a graph no size before it is known that one may be compared
                if traced:
                    fits = _why_not(candidate, call) is None and candidate.is_faster(call)
                else:
                    fits = candidate.is_faster(call) and _why_not(candidate, call) is None
            else:
                fits = name == candidate.name and _why_not(candidate, call) is None
            if fits:
                return candidate
    raise RuntimeError(_refusal(call))


def _why_not(candidate: Backend, call: Call) -> str | None:
    if call.rates is not None and candidate is not UNROLLED:
        return "zoneout and recurrent dropout act inside of a step"
    return candidate.why_not(call)


def _refusal(call: Call) -> str:
    """Return why no forced back end can run a call."""
    forced = forced_backends()
    reasons = [f"{each.name}: {_why_not(each, call)}" for each in BACKENDS[call.kind] if each.name in forced]
    reasons += [f"{name}: a {call.kind} has none" for name in forced if name not in _names(call.kind)]
    given = ", ".join(map(repr, forced))
    return (
        f"No available kernel. backend({given}) can not run this {call.kind} of {call.steps} steps: "
        f"{'; '.join(reasons)}. Leave the context, or name what runs it then, as in backend({given}, 'auto')"
    )


def _names(kind: str) -> list[str]:
    return [each.name for each in BACKENDS[kind]]


# ---- What was chosen, and why


class BackendChoice(NamedTuple):
    """What ran one call of recurrent layers.

    Args:
        kind: ``rnn``, ``lstm``, ``gru``, ``mingru``, ``minlstm`` or ``mlstm``.
        steps: T.
        batch: N.
        hidden_size: H.
        name: The back end, as :func:`wnseq.nn.backend` takes it.
        skipped: For each one before it in the table why it did not run.
    """

    kind: str
    steps: int
    batch: int
    hidden_size: int
    name: str
    skipped: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        size = f"{self.kind} {self.steps}x{self.batch}x{self.hidden_size}: {self.name}"
        return "\n".join([size, *(f"  not {name}: {reason}" for name, reason in self.skipped)])


_records: list[BackendChoice] | None = None


@contextmanager
def explain_backend() -> Iterator[list[BackendChoice]]:
    """Record which back end runs each call of recurrent layers, and why those before it in the table do not.

    Returns:
        A list, one entry for each call in the context, as it runs; a graph that was captured before adds none.

    Example:
        >>> import torch, wnseq
        >>> with explain_backend() as choices, torch.no_grad():
        ...     output, h = wnseq.WNRNN(4, 6)(torch.randn(3, 2, 4))
        >>> print(choices[0])
        rnn 3x2x6: torch
          not custom_ops: no graph is captured
          not cpu_loop: slower, but for resets, 32 steps with N·H² of 1048576 in training
    """
    global _records
    before, _records = _records, []
    try:
        yield _records
    finally:
        _records = before


def _explain(call: Call, chosen: Backend) -> BackendChoice:
    """Return the choice of a call with its reasons."""
    skipped = []
    forced = forced_backends()
    for each in BACKENDS[call.kind]:
        if each is chosen:
            break
        reason = _why_not(each, call)
        if reason is None and "auto" not in forced:
            reason = f"backend({', '.join(map(repr, forced))}) is active"
        skipped.append((each.name, reason or f"slower, but for {each.rule}"))
    size = call.states[-1].shape[2]
    return BackendChoice(call.kind, call.steps, call.batch, size, chosen.name, tuple(skipped))
