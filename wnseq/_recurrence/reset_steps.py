"""The LSTM with resets by kernels that have none, on a CPU: in front of a border a step of its own empties the state.

The input of such a step is zero but for a mark, a feature whose weights close the input and the forget gate: c and with
it h become zero to 1e-13, and so do the gradients that cross. The gates are shut no tighter, since processors are slow
with the subnormal numbers that came of it. A sequence grows by as many steps as it has borders; a second mark keeps the
cell state of a shorter one while the longest goes on.
"""

from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence.backend import LayerBackend, autocast, unpack
from wnseq._recurrence.call import Call, States
from wnseq._recurrence.cpu_loops import why_no_loop
from wnseq._recurrence.cpu_lstm import CPU_LSTM
from wnseq._recurrence.cpu_lstm_float import CPU_LSTM_FLOAT
from wnseq._recurrence.steps import gate_slice
from wnseq._torch_internals import HAS_ONEDNN_LSTM

# Of the number of steps, by the dtype of the products: beyond it the loop is the faster (docs/speed.md, "Resets").
MAX_GROWTH = {torch.float32: 1.2, torch.bfloat16: 2.0}
CLOSED = 30.0  # σ(−30) is 1e-13
LARGEST_CELL = 1e4  # what crosses a border of an initial cell state of this size is lost in rounding


class ResetSteps(LayerBackend):
    """Runs a padded LSTM without a projection where oneDNN has its kernel."""

    name = "reset_steps"
    rule = "resets of which no sequence has many"

    def why_not(self, call: Call) -> str | None:
        """Return None if states of a padded LSTM are reset, in float32 or bfloat16."""
        if call.reset is None:
            return "no state is reset"
        if call.batch_sizes is not None or call.projected:
            return "it takes no packed sequence and no projection"
        if not HAS_ONEDNN_LSTM or not torch.backends.mkldnn.enabled:
            return "oneDNN, which has the LSTM, is missing or turned off"
        if call.product_dtype not in MAX_GROWTH:
            return "its products are neither in float32 nor in bfloat16"
        return why_no_loop(call)

    def is_faster(self, call: Call) -> bool:
        """Return True if no sequence has many borders."""
        if call.reset is None or self.why_not(call) is not None:  # before the mask is read
            return False
        return call.steps + _most_borders(call.reset) <= MAX_GROWTH[call.product_dtype] * call.steps

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction, or by the loop if what is large or not finite would cross a border."""
        if states[1].detach().abs().max() <= LARGEST_CELL:
            output, final = _run(call, *autocast(x, states, weights), reverse)
            if final[1].detach().isfinite().all():  # zero times NaN is NaN, so that it would be there still
                return output, final
        return CPU_LSTM_FLOAT.layer(call, x, states, weights, reverse)


def _run(call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool) -> tuple[Tensor, States]:
    """Run one layer in one direction, all in the dtype of the products."""
    reset: Any = call.reset
    if reverse:  # a border is met from its other side
        x, reset = x.flip(0), torch.cat([torch.zeros_like(reset[:1]), reset[1:].flip(0)])
    steps, batch, _ = x.shape
    states = tuple(state.masked_fill(reset[0].unsqueeze(1), 0) for state in states)
    longest = steps + _most_borders(reset)
    if longest == steps:
        output, final = _kernel(call, x, states, weights)
    else:
        rows, source = _places(reset, longest)
        w_ih, own = _with_marks(weights)
        spread = _Spread.apply(x.flatten(0, 1), rows, source, own)  # type: ignore[no-untyped-call]
        output, final = _kernel(call, spread.view(longest, batch, -1), states, [w_ih, *weights[1:]])
        output = _Collect.apply(output.flatten(0, 1), rows, source)  # type: ignore[no-untyped-call]
        output = output.view(steps, batch, -1)
    final = (output[-1].clone(), *final[1:])
    return output.flip(0) if reverse else output, final


def _kernel(call: Call, x: Tensor, states: States, weights: list[Tensor]) -> tuple[Tensor, States]:
    """Run a layer without resets by what is the faster."""
    call = call._replace(reset=None)
    if CPU_LSTM.is_faster(call) and CPU_LSTM.why_not(call) is None:
        return CPU_LSTM.layer(call, x, states, weights, False)
    given = [state.unsqueeze(0) for state in states]
    output, *final = torch.lstm(x, given, weights, call.config.bias, 1, 0.0, call.config.training, False, False)
    return output, tuple(state.squeeze(0) for state in final)


def _places(reset: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Return the place of each row among those of all steps, and for each place its row.

    After the rows come two of our own, that of a step that empties the state and that of one that keeps it.
    """
    steps, batch = reset.shape
    places = torch.arange(steps).unsqueeze(1) + reset.cumsum(0) - reset[:1].long()  # (T, N)
    rows = (places * batch + torch.arange(batch)).flatten()
    after = torch.arange(longest).unsqueeze(1) > places[-1]
    source = steps * batch + after.long().flatten()
    return rows, source.index_copy_(0, rows, torch.arange(steps * batch))


def _with_marks(weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the input weight with columns for the marks, and the inputs of the steps of our own.

    A mark outweighs whatever h and the biases bring: no entry of h is larger than 1.
    """
    w_ih, w_hh, b_ih, b_hh, _ = unpack(weights)
    features, size = w_ih.shape[1], w_hh.shape[1]
    marks = 2 + -(features + 2) % 4  # in bfloat16 oneDNN takes 1.07 times as long for 130 features as for 132
    with torch.no_grad():
        bound = CLOSED + w_hh.to(torch.promote_types(w_hh.dtype, torch.float32)).abs().sum(1)
        for bias in (b_ih, b_hh):
            bound = bound if bias is None else bound + bias.abs()
        columns = w_ih.new_zeros(len(w_ih), marks)
        for gate, keep in (("input", -1), ("forget", 1)):
            part = gate_slice("lstm", gate, size)
            columns[part, 0], columns[part, 1] = -bound[part], keep * bound[part]
        own = w_ih.new_zeros(2, features + marks)
        own[:, features : features + 2].fill_diagonal_(1)
    return torch.cat([w_ih, columns], 1), own


def _most_borders(reset: Tensor) -> int:
    """Return the largest number of borders inside a sequence."""
    return int(reset[1:].sum(0).max())


class _Spread(torch.autograd.Function):
    """Puts rows at their places among rows of our own, which may be longer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, source: Tensor, own: Tensor) -> Tensor:
        ctx.save_for_backward(rows, source)
        count, ctx.features = x.shape
        both = x.new_empty(count + len(own), own.shape[1])
        both[:count, : ctx.features] = x
        both[:count, ctx.features :] = 0
        both[count:] = own
        return both.index_select(0, source)  # half the time of index_copy_

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        return _Collect.apply(d[:, : ctx.features], *ctx.saved_tensors), None, None, None  # type: ignore[no-untyped-call]


class _Collect(torch.autograd.Function):
    """Returns the rows at their places."""

    @staticmethod
    def forward(ctx: Any, spread: Tensor, rows: Tensor, source: Tensor) -> Tensor:
        ctx.save_for_backward(rows, source)
        return spread.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        own = d.new_zeros(2, d.shape[1])
        return _Spread.apply(d, *ctx.saved_tensors, own), None, None  # type: ignore[no-untyped-call]


RESET_STEPS = ResetSteps()
