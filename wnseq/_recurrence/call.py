"""Recurrent layers, ours and torch's, over one input of any form: unbatched, batched or packed."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from wnseq._recurrence import dispatch
from wnseq.errors import ShapeError

Sequence = Tensor | PackedSequence
States = tuple[Tensor, ...]


def run(module: Any, flat: list[Tensor], x: Sequence, hx: Any) -> tuple[Sequence, Any]:
    """Run layers over a sequence, checking what is given.

    Args:
        module: Says what it is and how it runs by the attributes of torch's recurrent modules.
        flat: Weights and biases in torch's order.
        x: Input, in each form that torch's modules take.
        hx: Initial states in the form of the module: of an LSTM a pair. None for zeros.

    Returns:
        Output in the form of the input, and final states in that of the module.

    Raises:
        ShapeError: Input or states do not fit.
        TypeError: Input or states are of the wrong type.
        ValueError: The input's dtype is not that of the weights.
    """
    label, states = type(module).__name__, _states(module, hx)
    if isinstance(x, PackedSequence):
        data, batch_sizes, order, back = x
        if data.ndim != 2:
            raise ShapeError(f"{label}: input must have 2 dimensions, got {data.ndim}")
        batch: Any = batch_sizes[0].item()
        if states is not None and torch.compiler.is_compiling():  # a graph cannot branch on what a tensor holds
            torch._check(batch == states[0].shape[1])  # type: ignore[no-untyped-call]
        states = _initial(module, states, data, batch, flat[0].dtype)
        if order is not None:
            states = tuple(state.index_select(1, order) for state in states)
        output, states = _recur(module, data, batch_sizes, states, flat)
        if back is not None:
            states = tuple(state.index_select(1, back) for state in states)
        return PackedSequence(output, batch_sizes, order, back), _as_given(module, states)

    if not isinstance(x, Tensor):
        raise TypeError(f"{label}: input must be a tensor or a PackedSequence, got {type(x).__name__}")
    dims = x.ndim
    if dims not in (2, 3):
        raise ShapeError(f"{label}: Expected input to be 2D or 3D, got {dims}D instead")
    for state in states or ():
        if state.ndim != dims:
            raise ShapeError(
                f"{label}: For {'batched 3-D' if dims == 3 else 'unbatched 2-D'} input, each state should also be "
                f"{dims}-D but got {state.ndim}-D"
            )
    axis = 0 if module.batch_first else 1
    if dims == 2:
        x = x.unsqueeze(axis)
        states = states and tuple(state.unsqueeze(1) for state in states)
    states = _initial(module, states, x, x.shape[axis], flat[0].dtype)
    output, states = _recur(module, x, None, states, flat)
    if dims == 2:
        output, states = output.squeeze(axis), tuple(state.squeeze(1) for state in states)
    return output, _as_given(module, states)


def _states(module: Any, hx: Any) -> States | None:
    """Put the given states in a tuple."""
    if hx is None:
        return None
    label = type(module).__name__
    if module.mode == "LSTM":
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


def _as_given(module: Any, states: States) -> Any:
    """Give states in the form of the module."""
    return states if module.mode == "LSTM" else states[0]


def _initial(module: Any, states: States | None, x: Tensor, batch: int, dtype: torch.dtype) -> States:
    """Check input and given states, or make zeros."""
    label = type(module).__name__
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"{label}: input dtype ({x.dtype}) does not match weight dtype ({dtype}); "
            f"convert the input with x.to({dtype}) or the module with module.to({x.dtype})"
        )
    if x.shape[-1] != module.input_size:
        raise ShapeError(f"{label}: input must have {module.input_size} features, got {x.shape[-1]}")
    places, size = module.num_layers * (1 + module.bidirectional), module.hidden_size
    sizes = (module.proj_size or size, size) if module.mode == "LSTM" else (size,)
    if states is None:
        return tuple(x.new_zeros(places, batch, size) for size in sizes)
    for k, (state, size) in enumerate(zip(states, sizes, strict=True)):
        if state.shape != (places, batch, size):
            raise ShapeError(
                f"{label}: Expected hidden{f'[{k}]' if len(sizes) > 1 else ''} size {(places, batch, size)}, "
                f"got {tuple(state.shape)}"
            )
    return states


def _recur(
    module: Any, x: Tensor, batch_sizes: Tensor | None, states: States, flat: list[Tensor]
) -> tuple[Tensor, States]:
    """Run by the kernel of the kind."""
    plan = dispatch.RNNConfig(
        module.bias, module.num_layers, module.dropout, module.training, module.bidirectional, module.batch_first
    )
    if module.mode == "LSTM":
        h, c = states
        return dispatch.lstm(x, batch_sizes, (h, c), flat, plan)
    if module.mode == "GRU":
        output, h = dispatch.gru(x, batch_sizes, states[0], flat, plan)
    else:
        output, h = dispatch.rnn(x, batch_sizes, states[0], flat, plan, module.nonlinearity)
    return output, (h,)
