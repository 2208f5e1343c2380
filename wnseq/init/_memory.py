"""The start in which recurrent modules remember."""

from typing import Any

import torch
from torch import Tensor, nn

from wnseq._recurrence.call import KINDS
from wnseq._recurrence.steps import GATES, gate_slice
from wnseq.init._scales import KEEPING
from wnseq.nn._arguments import check_inside
from wnseq.nn._min_rnn import Minimal
from wnseq.nn._module import WNModule

_CELLS: dict[type[nn.Module], str] = {nn.LSTMCell: "lstm", nn.GRUCell: "gru"}


@torch.no_grad()
def memory_bias_(model: nn.Module, value: float = 1.0) -> None:
    """Set the bias of the gate that keeps the state, in every recurrent layer and cell of a model, in place.

    b_ih = value and b_hh = 0 of the forget gate, of a GRU's update gate; −value of a minGRU's, which forgets

    Args:
        model: Any module. Elman layers have no gate, and stay as they are.
        value: The bias, before the gate's sigmoid.

    Raises:
        ValueError: The model has no recurrent layer or cell with a gate and a bias, or the value is not finite.

    Example:
        >>> rnn = torch.nn.LSTM(2, 3)
        >>> memory_bias_(rnn)
        >>> (rnn.bias_ih_l0 + rnn.bias_hh_l0)[3:6].tolist()
        [1.0, 1.0, 1.0]

    Source:
        Gers, Schmidhuber & Cummins 2000, Learning to forget; Jozefowicz, Zaremba & Sutskever 2015.
    """
    value = check_inside("memory_bias_", "value", value, -float("inf"), float("inf"), "a finite number")
    found = [part for module in model.modules() for part in _gates_that_keep(module)]
    if not found:
        raise ValueError(
            f"memory_bias_: {type(model).__name__} has no recurrent layer or cell with a gate that keeps its state and "
            "a bias; leave it out for Elman layers"
        )
    for kind, name, rows in found:
        of_input = -value if kind == "mingru" else value
        rows.fill_(of_input if name.startswith("bias_ih") else 0.0)


def _kind(module: Any) -> str:
    """Return the kind of a recurrent module, as in GATES, and "" for any other."""
    if isinstance(module, nn.RNNBase):
        return str(KINDS.get(module.mode, ""))
    if isinstance(module, (WNModule, Minimal)):
        return str(getattr(module, "kind", ""))
    return next((kind for cell, kind in _CELLS.items() if isinstance(module, cell)), "")


def _gates_that_keep(module: Any) -> list[tuple[str, str, Tensor]]:
    """Return the kind, the name of the bias and its entries of the gate, for each bias of a recurrent module."""
    kind = _kind(module)
    gate = next((gate for gate in KEEPING if gate in GATES.get(kind, ())), None)
    if gate is None:
        return []
    rows = gate_slice(kind, gate, module.hidden_size)
    biases = [(name, bias) for name, bias in module.named_parameters(recurse=False) if name.startswith("bias_")]
    return [(kind, name, bias[rows]) for name, bias in biases]
