"""A layer as steps of a cell, one by one: slower than a kernel, and open to whatever torch can do with its own."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence.steps import gru_step, lstm_step

States = tuple[Tensor, ...]
Step = Callable[..., States]  # of input, states, w_ih, w_hh[, b_ih, b_hh][, w_hr]
Sizes = Tensor | None  # of a packed batch. Aliases, as torch.compile does not read the annotations of a closure.
Flat = list[Tensor]
Result = tuple[Tensor, States]
Layer = Callable[[Tensor, Sizes, States, Flat, bool], Result]  # one direction of one layer, time first


def gru(x: Tensor, states: States, *weights: Tensor) -> States:
    """Take a step of a GRU."""
    return (gru_step(x, states[0], *weights),)


def lstm(x: Tensor, states: States, *weights: Tensor) -> States:
    """Take a step of an LSTM; a projection is what is odd among its weights and biases."""
    gates = len(weights) // 2 * 2
    h, c = lstm_step(x, (states[0], states[1]), *weights[:gates])
    return (F.linear(h, weights[gates]) if len(weights) > gates else h), c


def layer(step: Step) -> Layer:
    """Make a layer of one direction out of a step."""

    def layer(x: Tensor, batch_sizes: Sizes, states: States, weights: Flat, reverse: bool) -> Result:
        inputs = list(x.unbind(0) if batch_sizes is None else torch.split(x, batch_sizes.tolist()))
        outputs: list[Tensor] = []
        for x_t in reversed(inputs) if reverse else inputs:
            alive = x_t.shape[0]  # a packed batch is sorted: what ends early or, backward, starts late is at its end
            new = step(x_t, tuple(s[:alive] for s in states), *weights)
            states = tuple(torch.cat([n, s[alive:].to(n.dtype)]) for n, s in zip(new, states, strict=True))
            outputs.append(new[0])
        outputs = outputs[::-1] if reverse else outputs
        return torch.stack(outputs) if batch_sizes is None else torch.cat(outputs), states

    return layer


def differentiable(
    step: Step,
    d: tuple[Tensor, ...],
    x: Tensor,
    batch_sizes: Sizes,
    states: States,
    weights: list[Tensor | None],
    reverse: bool,
) -> list[Tensor | None]:
    """Go back through a layer in a way that can be differentiated again: through its steps, in float32.

    Args:
        step: What the layer does at each.
        d: Gradients of output and final states.
        x: Input.
        batch_sizes: Sequences alive at each step of a packed input; None for a padded one.
        states: Initial states.
        weights: Weights and biases.
        reverse: Direction.

    Returns:
        Gradients of x, states and weights; None where none is asked for.
    """
    # views, since what the inputs depend on, even on each other, is not to be gone through
    x, *initial = (each.view_as(each) for each in (x, *states))
    own = [None if each is None else each.view_as(each) for each in weights]
    present = [each.float() for each in own if each is not None]
    with torch.autocast(x.device.type, enabled=False):
        output, final = layer(step)(x.float(), batch_sizes, tuple(each.float() for each in initial), present, reverse)
    given = [x, *initial, *own]
    wanted = [each for each in given if each is not None and each.requires_grad]
    found = iter(torch.autograd.grad([output, *final], wanted, [each.float() for each in d], create_graph=True))
    return [next(found) if each is not None and each.requires_grad else None for each in given]
