"""The recurrences over a whole sequence: torch's fused kernels, one function a kind.

``flat`` holds weights and biases in torch's order: for each layer and direction, ``w_ih, w_hh[, b_ih, b_hh][, w_hr]``.
With ``batch_sizes`` the input is the data of a packed sequence; it has no batch axis then, and ``batch_first`` is moot.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Plan", "gru", "lstm", "rnn"]


class Plan(NamedTuple):
    """How a recurrence runs, apart from its tensors."""

    bias: bool
    num_layers: int
    dropout: float
    training: bool
    bidirectional: bool
    batch_first: bool


def rnn(
    x: Tensor, batch_sizes: Tensor | None, h: Tensor, flat: list[Tensor], plan: Plan, nonlinearity: str
) -> tuple[Tensor, Tensor]:
    """Run Elman layers over a sequence.

    Args:
        x: Input.
        batch_sizes: Sequences alive at each step of a packed input; None for a padded one.
        h: Initial hidden states.
        flat: Weights and biases.
        plan: How to run.
        nonlinearity: ``tanh`` or ``relu``.

    Shape:
        - x: ``(T, N, I)``, ``(N, T, I)`` with ``plan.batch_first``, or packed ``(ΣN, I)``
        - h: ``(L·D, N, H)``

    Returns:
        Output and final hidden states.
    """
    run = torch.rnn_tanh if nonlinearity == "tanh" else torch.rnn_relu
    if batch_sizes is None:
        return run(x, h, flat, *plan)
    return run(x, batch_sizes, h, flat, *plan[:-1])


def lstm(
    x: Tensor, batch_sizes: Tensor | None, state: tuple[Tensor, Tensor], flat: list[Tensor], plan: Plan
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run LSTM layers over a sequence.

    Args:
        x: Input.
        batch_sizes: Sequences alive at each step of a packed input; None for a padded one.
        state: Initial hidden and cell states.
        flat: Weights and biases.
        plan: How to run.

    Shape:
        - x: ``(T, N, I)``, ``(N, T, I)`` with ``plan.batch_first``, or packed ``(ΣN, I)``
        - state: ``(L·D, N, P or H)`` and ``(L·D, N, H)``

    Returns:
        Output, and final hidden and cell states.
    """
    if batch_sizes is None:
        output, h, c = torch.lstm(x, state, flat, *plan)
    else:
        output, h, c = torch.lstm(x, batch_sizes, state, flat, *plan[:-1])
    return output, (h, c)


def gru(x: Tensor, batch_sizes: Tensor | None, h: Tensor, flat: list[Tensor], plan: Plan) -> tuple[Tensor, Tensor]:
    """Run GRU layers over a sequence.

    Args:
        x: Input.
        batch_sizes: Sequences alive at each step of a packed input; None for a padded one.
        h: Initial hidden states.
        flat: Weights and biases.
        plan: How to run.

    Shape:
        - x: ``(T, N, I)``, ``(N, T, I)`` with ``plan.batch_first``, or packed ``(ΣN, I)``
        - h: ``(L·D, N, H)``

    Returns:
        Output and final hidden states.
    """
    if batch_sizes is None:
        return torch.gru(x, h, flat, *plan)
    return torch.gru(x, batch_sizes, h, flat, *plan[:-1])
