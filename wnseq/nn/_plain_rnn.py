"""torch's RNN, LSTM and GRU, without weight normalisation, run by wnseq's kernels."""

from typing import Any

from torch import Tensor, nn

from wnseq._recurrence import dispatch
from wnseq._recurrence.call import Sequence
from wnseq.nn._arguments import check_rate
from wnseq.nn._dropout import drop_recurrent_weights
from wnseq.nn._fx import record_call, tracer_of


class _Plain(nn.RNNBase):
    """Layers of torch with weight drop."""

    weight_drop: float

    def __init__(self, *args: Any, weight_drop: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight_drop = check_rate(type(self).__name__, "weight_drop", weight_drop)

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        return super().extra_repr() + (f", weight_drop={self.weight_drop}" if self.weight_drop else "")


class RNN(_Plain, nn.RNN):
    """``torch.nn.RNN`` run by wnseq's kernels; see :class:`LSTM`.

    On a CPU layers of some size train faster from about 32 steps on, where they differ in the last bits.
    """

    def forward(self, input: Sequence, hx: Tensor | None = None, reset: Sequence | None = None) -> tuple[Any, Tensor]:
        """Run over a sequence; ``reset`` is that of :class:`wnseq.WNLSTM`."""
        output: tuple[Any, Tensor] = _run(self, input, hx, reset)
        return output


class LSTM(_Plain, nn.LSTM):
    """``torch.nn.LSTM`` run by wnseq's kernels: its arguments, shapes, state and results, as WNLSTM without v and g.

    On a CPU it is faster under bfloat16 autocast, in large layers and in single steps.

    Args:
        weight_drop: That of :class:`wnseq.WNLSTM`, by keyword; the other arguments are torch's.

    Note:
        ``torch.compile`` runs it in eager mode, as it does torch's. To script or quantise, load its state dict into a
        ``torch.nn.LSTM``.
    """

    def forward(
        self, input: Sequence, hx: tuple[Tensor, Tensor] | None = None, reset: Sequence | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run over a sequence; ``reset`` is that of :class:`wnseq.WNLSTM`."""
        output: tuple[Any, tuple[Tensor, Tensor]] = _run(self, input, hx, reset)
        return output


class GRU(_Plain, nn.GRU):
    """``torch.nn.GRU`` run by wnseq's kernels; see :class:`LSTM`.

    On a CPU it is faster from about 32 steps of a layer of some size on, where it differs in the last bits.
    """

    def forward(self, input: Sequence, hx: Tensor | None = None, reset: Sequence | None = None) -> tuple[Any, Tensor]:
        """Run over a sequence; ``reset`` is that of :class:`wnseq.WNLSTM`."""
        output: tuple[Any, Tensor] = _run(self, input, hx, reset)
        return output


def _run(module: _Plain, *arguments: Any) -> Any:
    arguments = arguments if arguments[-1] is not None else arguments[:-1]  # without reset they are torch's
    tracer = tracer_of(arguments)
    if tracer is not None:
        return record_call(module, tracer, arguments)
    return dispatch.run(module, drop_recurrent_weights(module, _flat_weights(module)), *arguments)


def _flat_weights(module: nn.RNNBase) -> list[Tensor]:
    """Read weights and biases by name: functional_call and parametrisations replace the attributes."""
    return [getattr(module, name) for name in module._flat_weights_names]
