"""The recurrences over a whole sequence: torch's fused kernels, one function a kind, and one loop over the steps.

``flat`` holds weights and biases in torch's order: for each layer and direction, ``w_ih, w_hh[, b_ih, b_hh][, w_hr]``.
With ``batch_sizes`` the input is the data of a packed sequence; it has no batch axis then, and ``batch_first`` is moot.

The fused kernels have no batching rule, so under ``torch.func.vmap`` the loop runs instead; and since torch's LSTM of
float32 on a CPU has no forward-mode derivative, so it does under ``torch.func.jvp``, ``jacfwd`` and ``hessian``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.cells import gru_step, lstm_step, rnn_step

__all__ = ["Plan", "gru", "lstm", "rnn"]

States = tuple[Tensor, ...]
Step = Callable[..., States]  # of input, states, w_ih, w_hh[, b_ih, b_hh]


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
    if _must_loop():

        def step(x: Tensor, states: States, *weights: Tensor) -> States:
            w_ih, w_hh, *biases = weights
            b_ih, b_hh = biases or (None, None)
            return (rnn_step(x, states[0], w_ih, w_hh, b_ih, b_hh, nonlinearity),)

        output, (h,) = _loop(step, x, batch_sizes, (h,), flat, plan)
        return output, h
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
    if _must_loop():
        gates = 4 if plan.bias else 2  # weights and biases of the gates; a projection comes after them

        def step(x: Tensor, states: States, *weights: Tensor) -> States:
            h, c = lstm_step(x, (states[0], states[1]), *weights[:gates])
            return (F.linear(h, weights[gates]) if len(weights) > gates else h), c

        output, (h, c) = _loop(step, x, batch_sizes, state, flat, plan)
    elif batch_sizes is None:
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
    if _must_loop():

        def step(x: Tensor, states: States, *weights: Tensor) -> States:
            return (gru_step(x, states[0], *weights),)

        output, (h,) = _loop(step, x, batch_sizes, (h,), flat, plan)
        return output, h
    if batch_sizes is None:
        return torch.gru(x, h, flat, *plan)
    return torch.gru(x, batch_sizes, h, flat, *plan[:-1])


def _must_loop() -> bool:
    """Tell whether a transform of ``torch.func`` is at work that the fused kernels have no rule for."""
    if torch.compiler.is_compiling():
        return False
    kinds = torch._C._functorch.TransformType  # torch has no public name for the transforms at work
    stack = torch._C._functorch.get_interpreter_stack()
    return any(transform.key() in (kinds.Vmap, kinds.Jvp) for transform in stack or ())


def _loop(
    step: Step, x: Tensor, batch_sizes: Tensor | None, states: States, flat: list[Tensor], plan: Plan
) -> tuple[Tensor, States]:
    """Run layers and directions step by step; arguments and results as of the fused kernels."""
    swap = plan.batch_first and batch_sizes is None
    x = x.transpose(0, 1) if swap else x  # (T, N, I), or (ΣN, I) packed
    places = states[0].shape[0]
    directions = 1 + plan.bidirectional
    each = len(flat) // places
    final: list[States] = []
    for place in range(places):
        weights = flat[place * each : (place + 1) * each]
        reverse = bool(place % directions)
        if not reverse:
            if place and plan.dropout:
                x = F.dropout(x, plan.dropout, plan.training)
            inputs = list(x.unbind(0) if batch_sizes is None else torch.split(x, batch_sizes.tolist()))
            outputs: list[Tensor] = []
        state = tuple(s[place] for s in states)
        steps: list[Tensor] = []
        for x_t in reversed(inputs) if reverse else inputs:
            alive = x_t.shape[0]  # a packed batch is sorted: what ends early or, backward, starts late is at its end
            new = step(x_t, tuple(s[:alive] for s in state), *weights)
            state = tuple(torch.cat([n, s[alive:].to(n.dtype)]) for n, s in zip(new, state, strict=True))
            steps.append(new[0])
        steps = steps[::-1] if reverse else steps
        outputs.append(torch.stack(steps) if batch_sizes is None else torch.cat(steps))
        final.append(state)
        if place % directions == directions - 1:
            x = torch.cat(outputs, -1)
    return x.transpose(0, 1) if swap else x, tuple(torch.stack(parts) for parts in zip(*final, strict=True))
