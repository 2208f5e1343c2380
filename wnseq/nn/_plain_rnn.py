"""torch's LSTM and GRU, without weight normalisation, run by wnseq's kernels."""

from typing import Any

from torch import Tensor, nn

from wnseq._recurrence import dispatch
from wnseq._recurrence.call import Sequence
from wnseq.nn._fx import record_call, tracer_of


class LSTM(nn.LSTM):
    """``torch.nn.LSTM`` run by wnseq's kernels: its arguments, shapes, state and results, as WNLSTM without v and g.

    On a CPU it is faster under bfloat16 autocast, in large layers and in single steps.

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


class GRU(nn.GRU):
    """``torch.nn.GRU`` run by wnseq's kernels; see :class:`LSTM`.

    On a CPU it is faster from about 32 steps of a layer of some size on, where it differs in the last bits.
    """

    def forward(self, input: Sequence, hx: Tensor | None = None, reset: Sequence | None = None) -> tuple[Any, Tensor]:
        """Run over a sequence; ``reset`` is that of :class:`wnseq.WNLSTM`."""
        output: tuple[Any, Tensor] = _run(self, input, hx, reset)
        return output


def _run(module: nn.RNNBase, *arguments: Any) -> Any:
    arguments = arguments if arguments[-1] is not None else arguments[:-1]  # without reset they are torch's
    tracer = tracer_of(arguments)
    if tracer is not None:
        return record_call(module, tracer, arguments)
    return dispatch.run(module, _flat_weights(module), *arguments)


def _flat_weights(module: nn.RNNBase) -> list[Tensor]:
    """Read weights and biases by name: functional_call and parametrisations replace the attributes."""
    return [getattr(module, name) for name in module._flat_weights_names]
