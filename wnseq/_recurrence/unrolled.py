"""Layers as steps of a cell, one by one: slower than a kernel, but with every rule that torch has for its operators."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence.backend import LayerBackend, autocast, widen
from wnseq._recurrence.call import Call, States
from wnseq._recurrence.resets import mask_state, split_mask
from wnseq._recurrence.steps import gru_step, lstm_step, min_step, mlstm_step, rnn_step
from wnseq._recurrence.zoneout import regularise
from wnseq._torch_internals import is_wrapped
from wnseq.errors import ShapeError

Step = Callable[..., States]  # of input, states, w_ih, w_hh[, b_ih, b_hh][, w_hr]


class Unrolled(LayerBackend):
    """Runs what no other back end supports: transforms of ``torch.func``, zoneout, recurrent dropout."""

    name = "unrolled"

    def why_not(self, call: Call) -> str | None:
        """Return None: every call can run here."""
        return None

    def step(self, call: Call) -> Step:
        """Return the step of a call, with what acts inside of it."""
        step = STEPS[call.nonlinearity if call.kind == "rnn" else call.kind]
        return step if call.rates is None else regularise(step, call.rates, call.config.training)

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction."""
        output, states = unroll(self.step(call), x, call.batch_sizes, states, weights, reverse, call.reset)
        if call.rates is not None and call.kind == "lstm" and not call.projected:  # what torch's kernel lowers
            output, states, _ = autocast(output, states, [])
        return output, states


def unroll(
    step: Step,
    x: Tensor,
    batch_sizes: Tensor | None,
    states: States,
    weights: list[Tensor],
    reverse: bool,
    reset: Tensor | None = None,
) -> tuple[Tensor, States]:
    """Run one layer in one direction by its step."""
    inputs = list(x.unbind(0) if batch_sizes is None else torch.split(x, batch_sizes.tolist()))
    if not inputs:
        raise ShapeError("Expected sequence length to be larger than 0 in RNN, got no step")
    masks = [None] * len(inputs) if reset is None else split_mask(reset, batch_sizes, reverse)
    steps = list(zip(inputs, masks, strict=True))
    outputs: list[Tensor] = []
    for x_t, mask in reversed(steps) if reverse else steps:
        alive = x_t.shape[0]  # a packed batch is sorted: what ends early or, backward, starts late is at its end
        new = step(x_t, tuple(mask_state(s[:alive], mask) for s in states), *weights)
        outputs.append(new[0])
        if batch_sizes is not None:
            new = tuple(torch.cat([n, s[alive:].to(n.dtype)]) for n, s in zip(new, states, strict=True))
        states = new
    outputs = outputs[::-1] if reverse else outputs
    return torch.stack(outputs) if batch_sizes is None else torch.cat(outputs), states


def lstm(x: Tensor, states: States, *weights: Tensor, recurrent_dropout: float = 0.0) -> States:
    """Step an LSTM; with an odd number of weights the last one is the projection."""
    gates = len(weights) // 2 * 2
    h, c = lstm_step(x, (states[0], states[1]), *weights[:gates], recurrent_dropout=recurrent_dropout)
    return (F.linear(h, weights[gates]) if len(weights) > gates else h), c


def gru(x: Tensor, states: States, *weights: Tensor, recurrent_dropout: float = 0.0) -> States:
    """Step a GRU."""
    return (gru_step(x, states[0], *weights, recurrent_dropout=recurrent_dropout),)


def _rnn_tanh(x: Tensor, states: States, *weights: Tensor) -> States:
    return (rnn_step(x, states[0], *weights),)  # type: ignore[arg-type]


def _rnn_relu(x: Tensor, states: States, *weights: Tensor) -> States:
    return (rnn_step(x, states[0], *weights, nonlinearity="relu"),)  # type: ignore[arg-type, misc]


def _min_gru(x: Tensor, states: States, *weights: Tensor) -> States:
    return (min_step("mingru", x, states[0], *weights),)


def _min_lstm(x: Tensor, states: States, *weights: Tensor) -> States:
    return (min_step("minlstm", x, states[0], *weights),)


def _mlstm(x: Tensor, states: States, *weights: Tensor) -> States:
    return mlstm_step(x, (states[0], states[1]), *weights)


STEPS: dict[str, Step] = {"lstm": lstm, "gru": gru, "tanh": _rnn_tanh, "relu": _rnn_relu}
STEPS |= {"mingru": _min_gru, "minlstm": _min_lstm, "mlstm": _mlstm}


def needs_graph(*d: Tensor) -> bool:
    """Return True if a backward records what it does, or runs for a batch of gradients at once."""
    return torch.is_grad_enabled() or any(is_wrapped(each) for each in d)


@torch.enable_grad()
def differentiable_backward(
    step: Step,
    d: tuple[Tensor, ...],
    x: Tensor,
    batch_sizes: Tensor | None,
    states: States,
    weights: list[Tensor | None],
    reverse: bool,
    reset: Tensor | None = None,
) -> list[Tensor | None]:
    """Return the gradients of x, states and weights by the steps, so that they have derivatives too; float32 or wider.

    ``d`` holds the gradients of output and final states. None for what needs no gradient.
    """
    # views, so that the backward ends here and does not go on into what the inputs depend on, even on each other
    x, *initial = (tensor.view_as(tensor) for tensor in (x, *states))
    own = [None if weight is None else weight.view_as(weight) for weight in weights]
    present = [widen(weight) for weight in own if weight is not None]
    with torch.autocast(x.device.type, enabled=False):
        wide = tuple(widen(state) for state in initial)
        output, final = unroll(step, widen(x), batch_sizes, wide, present, reverse, reset)
    inputs = [x, *initial, *own]
    wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    gradients = iter(torch.autograd.grad([output, *final], wanted, [widen(part) for part in d], create_graph=True))
    return [next(gradients) if tensor is not None and tensor.requires_grad else None for tensor in inputs]


UNROLLED = Unrolled()
