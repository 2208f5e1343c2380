"""Torch's LSTM and GRU with torch's parameters, run by the kernels of this library: the twins of WNLSTM and WNGRU."""

from typing import Any

from torch import Tensor, nn

from wnseq import sequence
from wnseq.sequence import Sequence

__all__ = ["GRU", "LSTM"]


class LSTM(nn.LSTM):
    """LSTM layers without weight normalisation, run as those of WNLSTM are.

    A ``torch.nn.LSTM`` in all but its forward, which on a CPU is faster where the loops of this library are: under
    bfloat16 autocast, where the layer is large, and in single steps. ``wnseq.weight_normalize`` makes a WNLSTM of it.

    Args:
        args: Those of ``torch.nn.LSTM``.
        kwargs: Likewise.

    Shape:
        - input, hx and output as of ``torch.nn.LSTM``

    Raises:
        ShapeError: Input or state do not fit.
        TypeError: An argument has the wrong type, or the state is not a pair.
        ValueError: The input's dtype is not the module's.

    Note:
        A graph is captured around it, not through it: ``torch.compile`` leaves it to eager mode, as it does torch's. To
        script or quantise, load its state dict into a ``torch.nn.LSTM``.

    Example:
        >>> import torch
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> rnn, x = LSTM(40, 128, num_layers=2), torch.randn(35, 20, 40)
        >>> theirs = torch.nn.LSTM(40, 128, num_layers=2)
        >>> theirs.load_state_dict(rnn.state_dict())
        <All keys matched successfully>
        >>> torch.allclose(rnn(x)[0], theirs(x)[0], atol=1e-6)
        True
    """

    def forward(self, input: Sequence, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run over a sequence; see the class for shapes."""
        return sequence.run(self, _flat(self), input, hx)


class GRU(nn.GRU):
    """GRU layers without weight normalisation, run as those of WNGRU are.

    A ``torch.nn.GRU`` in all but its forward, which on a CPU is faster where the loop of this library is: from some 32
    steps of a layer of some size on. It differs in the last bits there. ``wnseq.weight_normalize`` makes a WNGRU of it.

    Args:
        args: Those of ``torch.nn.GRU``.
        kwargs: Likewise.

    Shape:
        - input, hx and output as of ``torch.nn.GRU``

    Raises:
        ShapeError: Input or state do not fit.
        TypeError: An argument has the wrong type.
        ValueError: The input's dtype is not the module's.

    Note:
        As of :class:`LSTM`.
    """

    def forward(self, input: Sequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Run over a sequence; see the class for shapes."""
        return sequence.run(self, _flat(self), input, hx)


def _flat(module: nn.RNNBase) -> list[Tensor]:
    """Read weights and biases as they are now: ``torch.func.functional_call`` and parametrisations put others there."""
    return [getattr(module, name) for name in module._flat_weights_names]
