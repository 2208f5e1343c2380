"""The values that the gates of recurrent layers take over a sequence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from wnseq._recurrence.call import Call, make_call
from wnseq._recurrence.steps import gates_of_step
from wnseq._recurrence.unrolled import Unrolled
from wnseq.nn._module import refresh_computed


class _GateReader(Unrolled):
    """Runs layers step by step, and keeps the gates of each step."""

    def __init__(self) -> None:
        self.layers: list[list[dict[str, Tensor]]] = []  # of each layer and direction, of each step

    def step(self, call: Call) -> Callable[..., Any]:
        """Return the step of the next layer or direction."""
        step = super().step(call)
        kept: list[dict[str, Tensor]] = []
        self.layers.append(kept)

        def reading(x: Tensor, states: tuple[Tensor, ...], *weights: Tensor) -> Any:
            kept.append(gates_of_step(call.kind, x, states, weights))
            return step(x, states, *weights)

        return reading


def gate_values(
    module: nn.Module, input: Tensor | PackedSequence, hx: Any = None, reset: Any = None
) -> dict[str, dict[str, Tensor]]:
    """Return the value of each gate of recurrent layers at each position of a sequence.

    Args:
        module: Recurrent layers of any kind, weight-normalised or not, torch's too; cells are none. An Elman net has
            no gate.
        input: As for the module, like the next ones.
        hx: See input.
        reset: See input.

    Shape:
        - each value: ``(T, N, H)``, also with batch_first; ``(ΣN, H)`` of a packed input, in its order

    Returns:
        By the end of the parameters' names, ``l0``, ``l0_reverse``, ``l1``, … the values by gate: ``input``,
        ``forget`` and ``output`` of LSTMs, ``reset`` and ``update`` of GRUs, ``keep`` of minGRU and minLSTM, the share
        of the state that stays. What keeps the state is ``forget``, ``update`` or ``keep``.

    Raises:
        TypeError: The module has no recurrent layers of its own, as a cell and an RNNStack, each of whose layers has.

    Note:
        It runs step by step, without a gradient, and much slower than the layers themselves. Between the layers of a
        module in training mode there is its dropout.

    Example:
        >>> import wnseq
        >>> gates = gate_values(wnseq.WNGRU(4, 6, num_layers=2), torch.randn(5, 3, 4))
        >>> [*gates], [*gates["l1"]], gates["l1"]["update"].shape
        (['l0', 'l1'], ['reset', 'update'], torch.Size([5, 3, 6]))
    """
    layers: Any = module
    if not (hasattr(layers, "mode") and hasattr(layers, "num_layers")):
        raise TypeError(f"gate_values: module must be recurrent layers, as WNLSTM, got {type(layers).__name__}")
    reader = _GateReader()
    with torch.no_grad():
        refresh_computed(layers)
        own = hasattr(layers, "_weights")  # which torch's layers have not
        flat = layers._weights() if own else [getattr(layers, name) for name in layers._flat_weights_names]
        reader.run(make_call(layers, flat, input, hx, reset))
    ends = ("", "_reverse") if layers.bidirectional else ("",)
    names = [f"l{layer}{end}" for layer in range(layers.num_layers) for end in ends]
    join = torch.cat if isinstance(input, PackedSequence) else torch.stack
    found = {}
    for name, steps in zip(names, reader.layers, strict=True):
        steps = steps[::-1] if name.endswith("reverse") else steps
        found[name] = {gate: join([step[gate] for step in steps]) for gate in steps[0]}
    return found
