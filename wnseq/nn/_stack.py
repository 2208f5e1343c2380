"""RNNStack: recurrent layers of different widths on top of each other."""

import itertools
from collections import abc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wnseq._recurrence.call import Sequence
from wnseq._torch_internals import has_hooks
from wnseq.errors import ShapeError
from wnseq.nn._dropout import LockedDropout
from wnseq.nn._module import bound_of, call_with

State = Tensor | tuple[Tensor, Tensor]


class RNNStack(nn.Module):
    """Recurrent layers of widths of their own, on top of each other, with locked dropout between them.

    Each runs by its own kernel, in one call. The states of all layers lie side by side, along the features.

    Args:
        layers: Recurrent modules of one layer and one direction, of wnseq or torch, all of one kind and not
            batch_first; each reads as many features as the one before puts out.
        dropout: Probability of a zero in the output of each layer but the last, by one mask for all steps.

    Shape:
        - input: ``(T, N, I)``, or a ``PackedSequence``
        - hx and the final state: ``(1, N, H)``, H being the sum of the layers' hidden sizes; of LSTMs a pair, in whose
          first a projected layer has its projected size; zeros if not given
        - reset: as of :class:`wnseq.WNLSTM`, for layers that take it
        - output: ``(T, N, H_L)``, of the last layer, packed as the input is

    Raises:
        ValueError: There are no layers, or they do not fit on top of each other.
        ShapeError: Input or state have the wrong shape.

    State:
        layers.k.*: the parameters of layer k, from 0.

    Example:
        >>> from wnseq.nn import WNLSTM
        >>> rnn = RNNStack([WNLSTM(40, 115), WNLSTM(115, 40)], dropout=0.2)
        >>> output, (h, c) = rnn(torch.randn(7, 2, 40))
        >>> output.shape, h.shape
        (torch.Size([7, 2, 40]), torch.Size([1, 2, 155]))

    Source:
        Merity et al. 2018, arXiv 1708.02182, section 5: 1150, 1150 and 400 units over an embedding of 400.
    """

    def __init__(self, layers: Iterable[nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = LockedDropout(dropout)
        self._bound: dict[int, Any] = {}  # as of a WNModule
        if not self.layers:
            raise ValueError("RNNStack: layers must have at least one layer, got none")
        features = None
        for k, layer in enumerate(self.layers):
            for name, only in (("num_layers", 1), ("bidirectional", False), ("batch_first", False)):
                if getattr(layer, name, None) != only:
                    got = repr(getattr(layer, name)) if hasattr(layer, name) else f"a {type(layer).__name__}"
                    raise ValueError(f"RNNStack: layers[{k}] must be a recurrent module with {name}={only}, got {got}")
            if features is not None and layer.input_size != features:
                raise ValueError(
                    f"RNNStack: layers[{k}] must have input_size {features}, the output of the one before, got "
                    f"{layer.input_size}"
                )
            features = _sizes(layer)[0]

    def forward(
        self, input: Sequence, hx: State | None = None, reset: Sequence | None = None
    ) -> tuple[Sequence, State]:
        """Run over a sequence."""
        return self._advance(bound_of(self) or self.layers, input, hx, reset)

    def bind(self) -> Callable[..., tuple[Sequence, State]]:
        """Compose the weights once, for a loop; return a function that calls the stack with them, hooks and all."""
        layers: list[Any] = list(self.layers)
        calls = [layer.bind() if hasattr(layer, "bind") else layer for layer in layers]

        def call(*args: Any, **kwargs: Any) -> tuple[Sequence, State]:
            if has_hooks(self):
                return call_with(self, calls, *args, **kwargs)  # type: ignore[no-any-return]
            return self._advance(calls, *args, **kwargs)

        return call

    def _advance(
        self, calls: Iterable[Callable[..., Any]], x: Sequence, hx: State | None = None, reset: Sequence | None = None
    ) -> tuple[Sequence, State]:
        states, final = self._split(hx), []
        more = () if reset is None else (reset,)
        for k, (call, state) in enumerate(zip(calls, states, strict=True)):
            x, state = call(self.dropout(x) if k else x, state, *more)
            final.append(state)
        if isinstance(final[0], tuple):
            h, c = (torch.cat(parts, -1) for parts in zip(*final, strict=True))
            return x, (h, c)
        return x, torch.cat(final, -1)

    def _split(self, hx: State | None) -> abc.Sequence[Any]:
        """Return the state of each layer."""
        if hx is None:
            return [None] * len(self.layers)
        parts = list(hx) if isinstance(hx, tuple | list) else [hx]
        if len(parts) > 2:
            raise ShapeError(f"RNNStack: the state must be a tensor or a pair (h, c), got {len(parts)} tensors")
        for part in parts:
            if not isinstance(part, Tensor):
                raise TypeError(f"RNNStack: each state must be a tensor, got {type(part).__name__}")
        sizes = list(zip(*map(_sizes, self.layers), strict=True))[: len(parts)]
        for part, of_layers in zip(parts, sizes, strict=False):
            if part.shape[-1] != sum(of_layers):
                raise ShapeError(
                    f"RNNStack: the state must have {sum(of_layers)} features, those of the layers "
                    f"{', '.join(map(str, of_layers))}, got {part.shape[-1]}"
                )
        split = [torch.split(part, list(of_layers), -1) for part, of_layers in zip(parts, sizes, strict=False)]
        return split[0] if len(parts) == 1 else list(zip(*split, strict=True))


def _sizes(layer: Any) -> tuple[int, int]:
    """Return the features of a layer's output and of its cell state."""
    return getattr(layer, "proj_size", 0) or layer.hidden_size, layer.hidden_size


def stack_layers(
    layer: Callable[..., nn.Module], input_size: int, sizes: abc.Sequence[int], dropout: float = 0.0
) -> nn.Module:
    """Make recurrent layers of given widths: one module where all are equal, else an :class:`RNNStack`.

    Args:
        layer: Class of recurrent layers, or a function with its arguments.
        input_size: Features of the input.
        sizes: Hidden size of each layer.
        dropout: That between layers, which one module drops entry by entry and a stack by one mask for all steps.

    Example:
        >>> type(stack_layers(nn.LSTM, 4, [11, 11])).__name__, type(stack_layers(nn.LSTM, 4, [11, 4])).__name__
        ('LSTM', 'RNNStack')
    """
    if len(set(sizes)) == 1:
        return layer(input_size, sizes[0], len(sizes), dropout=dropout if len(sizes) > 1 else 0.0)
    return RNNStack([layer(*each) for each in itertools.pairwise([input_size, *sizes])], dropout)
