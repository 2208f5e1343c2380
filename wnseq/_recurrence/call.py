"""One call of recurrent layers as a value: what a back end gets to run, checked and in one form."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from wnseq._recurrence.packed import check_packed
from wnseq._torch_internals import check_size, is_autocast
from wnseq.errors import ShapeError

Sequence = Tensor | PackedSequence
States = tuple[Tensor, ...]
KINDS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn", "RNN_RELU": "rnn", "MINGRU": "mingru"}
KINDS |= {"MINLSTM": "minlstm", "MLSTM": "mlstm"}
_PAIRED = ("LSTM", "MLSTM")  # with a cell state
_CAST = (torch.float32, torch.bfloat16, torch.float16)  # what autocast casts, float64 not


class RNNConfig(NamedTuple):
    """What torch's kernels take after their tensors, in their order."""

    bias: bool
    num_layers: int
    dropout: float
    training: bool
    bidirectional: bool
    batch_first: bool  # not for a packed input, which has no batch axis


class StepRates(NamedTuple):
    """Probabilities of what acts inside of a step."""

    zoneout: tuple[float, ...]  # of each state
    candidate: float  # of recurrent dropout, 0 in evaluation


class Call(NamedTuple):
    """A batched or packed input with states and weights, and how to run the layers over it."""

    kind: str  # rnn, lstm, gru, mingru, minlstm or mlstm
    x: Tensor  # (T, N, I), (N, T, I) with config.batch_first, or packed (ΣN, I)
    batch_sizes: Tensor | None  # sequences alive at each step of a packed input
    states: States  # (L·D, N, P or H), of an LSTM also (L·D, N, H)
    flat: list[Tensor]  # for each layer and direction w_ih, w_hh[, b_ih, b_hh][, w_hr]; of min… w_ih[, b_ih]; of
    # mlstm w_ih, w_hh, w_im, w_hm[, b_ih]
    config: RNNConfig
    nonlinearity: str  # of an Elman layer, tanh or relu
    reset: Tensor | None = None  # (T, N), or packed (ΣN,): true where a border lies before a step
    rates: StepRates | None = None  # None if nothing acts inside of a step

    @property
    def batch(self) -> int:
        """Return N."""
        return self.states[0].shape[1]

    @property
    def steps(self) -> int:
        """Return T."""
        return len(self.batch_sizes) if self.batch_sizes is not None else self.x.shape[int(self.config.batch_first)]

    @property
    def projected(self) -> bool:
        """Return True if the layers are an LSTM with a projection."""
        return self.states[0].shape[2] != self.states[-1].shape[2]

    @property
    def mixes_dtypes(self) -> bool:
        """Return True if a state has another dtype than the input, and one that autocast does not cast."""
        others = [state.dtype for state in self.states if state.dtype != self.x.dtype]
        return bool(others) and not (is_autocast(self.x.device.type) and all(dtype in _CAST for dtype in others))

    @property
    def product_dtype(self) -> torch.dtype:
        """Return the dtype of the matrix products on a CPU: autocast's, or the input's."""
        casts = torch.is_autocast_enabled("cpu") and self.x.dtype != torch.float64  # which autocast leaves alone
        return torch.get_autocast_dtype("cpu") if casts else self.x.dtype


def make_call(module: Any, flat: list[Tensor], x: Sequence, hx: Any, reset: Any = None) -> Call:
    """Check what a module was given, and bring it into the form of a call.

    Args:
        module: Has the attributes of torch's recurrent modules, and the rates of regularisers if it has any.
        flat: Weights and biases in torch's order.
        x: Input, in each form that torch's modules take.
        hx: Initial states in the form of the module: of an LSTM a pair. None for zeros.
        reset: Where the state is zero, in the form of x without its features. None for nowhere.

    Raises:
        ShapeError: Input, states or mask do not fit.
        TypeError: Input, states or mask are of the wrong type.
        ValueError: The input's dtype is not that of the weights.
    """
    mode: str = module.mode
    label, states, batch_sizes = type(module).__name__, _as_tuple(module, mode, hx), None
    given = x
    if isinstance(x, PackedSequence):
        check_packed(label, x)
        x, batch_sizes, order, _ = x
        batch: Any = batch_sizes[0].item()
        if states is not None and torch.compiler.is_compiling():  # a graph cannot branch on what a tensor holds
            check_size(batch == states[0].shape[1])
        states = _check_or_make_states(module, mode, states, x, batch, flat[0].dtype)
        if order is not None:
            states = tuple(state.index_select(1, order) for state in states)
    else:
        if not isinstance(x, Tensor):
            raise TypeError(f"{label}: input must be a tensor or a PackedSequence, got {type(x).__name__}")
        dims = x.ndim
        if dims not in (2, 3):
            tensor = " tensor" if mode.startswith("RNN") else ""  # as torch has it
            raise ShapeError(f"{label}: Expected input to be 2D or 3D, got {dims}D{tensor} instead")
        if any(state.ndim != dims for state in states or ()):
            form = "batched 3-D" if dims == 3 else "unbatched 2-D"
            got = [f"{state.ndim}-D" for state in states or ()]
            names = f"hx should also be {dims}-D but got {got[0]} tensor"
            if mode in _PAIRED:
                names = f"hx and cx should also be {dims}-D but got ({', '.join(got)}) tensors"
            raise ShapeError(f"For {form} input, {names} in {label}")
        axis = 0 if module.batch_first else 1
        if dims == 2:
            x = x.unsqueeze(axis)
            states = states and tuple(state.unsqueeze(1) for state in states)
        states = _check_or_make_states(module, mode, states, x, x.shape[axis], flat[0].dtype)
    config = RNNConfig(
        module.bias, module.num_layers, module.dropout, module.training, module.bidirectional, module.batch_first
    )
    mask = None if reset is None else _check_reset(module, reset, given)
    nonlinearity = "relu" if mode == "RNN_RELU" else "tanh"
    rates = _step_rates(module, len(states))
    return Call(KINDS[mode], x, batch_sizes, states, flat, config, nonlinearity, mask, rates)


def restore(module: Any, x: Sequence, output: Tensor, states: States) -> tuple[Sequence, Any]:
    """Return the results of a call in the form of the module's input x and states."""
    if isinstance(x, PackedSequence):
        _, batch_sizes, order, inverse = x
        if inverse is not None:
            states = tuple(state.index_select(1, inverse) for state in states)
        result: Sequence = PackedSequence(output, batch_sizes, order, inverse)
    elif x.ndim == 2:
        result = output.squeeze(0 if module.batch_first else 1)
        states = tuple(state.squeeze(1) for state in states)
    else:
        result = output
    return result, states if len(states) > 1 else states[0]


def _step_rates(module: Any, states: int) -> StepRates | None:
    """Read the rates of the regularisers of a step, which torch's modules have not."""
    zoneout = tuple(getattr(module, name, 0.0) for name in ("zoneout", "zoneout_cell")[:states])
    candidate = getattr(module, "recurrent_dropout", 0.0) if module.training else 0.0
    return StepRates(zoneout, candidate) if any(zoneout) or candidate else None


def _as_tuple(module: Any, mode: str, hx: Any) -> States | None:
    if hx is None:
        return None
    label = type(module).__name__
    if mode in _PAIRED:
        if not isinstance(hx, tuple | list):
            raise TypeError(f"{label}: the state must be a pair (h, c), got {type(hx).__name__}")
        if len(hx) != 2:
            raise ShapeError(f"{label}: the state must be a pair (h, c), got {len(hx)} tensors")
        states: States = tuple(hx)
    else:
        states = (hx,)
    for state in states:
        if not isinstance(state, Tensor):
            raise TypeError(f"{label}: each state must be a tensor, got {type(state).__name__}")
    return states


def _check_or_make_states(
    module: Any, mode: str, states: States | None, x: Tensor, batch: int, dtype: torch.dtype
) -> States:
    """Check input and given states, or make zeros."""
    label = type(module).__name__
    if x.dtype != dtype and not is_autocast(x.device.type):
        raise ValueError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({dtype}). "
            f"Convert input: input.to({dtype}), or convert model: model.to({x.dtype}), a {label}"
        )
    if x.shape[-1] != module.input_size:
        raise ShapeError(
            f"input.size(-1) must be equal to input_size. Expected {module.input_size}, got {x.shape[-1]} in {label}"
        )
    count, size = module.num_layers * (1 + module.bidirectional), module.hidden_size
    sizes = (getattr(module, "proj_size", 0) or size, size) if mode in _PAIRED else (size,)
    if states is None:
        return tuple(x.new_zeros(count, batch, size) for size in sizes)
    for k, (state, size) in enumerate(zip(states, sizes, strict=True)):
        if state.shape != (count, batch, size):
            raise ShapeError(
                f"Expected hidden{f'[{k}]' if len(sizes) > 1 else ''} size {(count, batch, size)}, "
                f"got {list(state.shape)} in {label}"
            )
    return states


def _check_reset(module: Any, reset: Any, x: Sequence) -> Tensor:
    """Check a mask against the input that it belongs to; return it time first, or packed."""
    label, packed = type(module).__name__, isinstance(x, PackedSequence)
    if not isinstance(reset, PackedSequence if packed else Tensor):
        form = "a PackedSequence, packed as the input is" if packed else "a tensor"
        raise TypeError(f"{label}: reset must be {form}, got {type(reset).__name__}")
    given: Any = reset
    mask: Tensor = given.data if packed else given
    data: Any = x.data if packed else x
    if mask.dtype != torch.bool:
        raise TypeError(f"{label}: reset must have dtype torch.bool, got {mask.dtype}; convert it with reset.bool()")
    if mask.shape != data.shape[:-1]:
        raise ShapeError(
            f"{label}: reset must have the input's shape without its features, {tuple(data.shape[:-1])}, "
            f"got {tuple(mask.shape)}"
        )
    if mask.device != data.device:
        raise ValueError(f"{label}: reset must be on the input's device, {data.device}, got {mask.device}")
    if isinstance(x, PackedSequence):
        pairs = zip(reset[1:3], x[1:3], strict=True)  # a graph cannot branch on what a tensor holds
        if not torch.compiler.is_compiling() and any(a is not b and not _equal(a, b) for a, b in pairs):
            raise ShapeError(f"{label}: reset must be packed as the input is, with its lengths in its order")
        return mask
    if x.ndim == 2:
        return mask.unsqueeze(1)
    return mask.transpose(0, 1) if module.batch_first else mask


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)
