"""The LSTM's loop on a CPU in any precision, padded or packed, with or without a projection: it resets states.

Torch's LSTM, oneDNN's in float32, is the faster where no state is reset.
"""

from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import cpu_loops, unrolled
from wnseq._recurrence.backend import autocast, unpack
from wnseq._recurrence.call import Call, States
from wnseq._torch_internals import HAS_ONEDNN_LSTM


class CPULSTMFloat(cpu_loops.CPULoop):
    """Runs any LSTM."""

    rule = "resets"

    def why_not(self, call: Call) -> str | None:
        """Return None if the products are in float32, or states are reset."""
        if call.reset is None and call.product_dtype != torch.float32:
            return "its products are not in float32"
        return super().why_not(call)

    def is_faster(self, call: Call) -> bool:
        """Return True if states are reset."""
        return call.reset is not None

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction; output and states in the dtypes that torch's have under autocast."""
        dtype = states[-1].dtype
        x, states, weights = autocast(x, states, weights)
        w_ih, w_hh, b_ih, b_hh, w_hr = unpack(weights)
        output, h, c = _LSTM.apply(  # type: ignore[no-untyped-call]
            x, call.batch_sizes, *states, w_ih, w_hh, b_ih, b_hh, w_hr, reverse, call.reset
        )
        if call.batch_sizes is None and w_hr is None and HAS_ONEDNN_LSTM:
            return output, (h, c)
        return (output if w_hr is not None else output.to(dtype)), (h if w_hr is not None else h.to(dtype), c.to(dtype))


class _LSTM(torch.autograd.Function):
    """One layer; all in the dtype of the products."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        batch_sizes: Tensor | None,
        h: Tensor,
        c: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        w_hr: Tensor | None,
        reverse: bool,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        bias = None if b_ih is None or b_hh is None else b_ih + b_hh
        rows, sizes = cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
        with torch.autocast("cpu", enabled=False):
            output, new_h, new_c, *saved = cpu_loops.lstm_forward(
                rows, sizes, h, c, w_ih, w_hh, bias, w_hr, reverse, reset
            )
        output = output.view(*x.shape[:-1], -1)
        ctx.save_for_backward(x, batch_sizes, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, output, *saved, reset)
        ctx.reverse = reverse
        return cpu_loops.unsaved(ctx, output), new_h, new_c

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        x, batch_sizes, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, output, gates, cells, reset = ctx.saved_tensors
        if unrolled.needs_graph(d_output, d_h, d_c):
            d, weights = (d_output, d_h, d_c), [w_ih, w_hh, b_ih, b_hh, w_hr]
            first, *others = unrolled.differentiable_backward(
                unrolled.lstm, d, x, batch_sizes, (h, c), weights, ctx.reverse, reset
            )
            return first, None, *others, None, None
        d_rows, rows, sizes = cpu_loops.as_rows(d_output), cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
        saved = cpu_loops.as_rows(output), gates, cells
        with torch.autocast("cpu", enabled=False):
            d_x, *gradients, d_bias, d_hr = cpu_loops.lstm_backward(
                d_rows, d_h, d_c, rows, sizes, h, c, w_ih, w_hh, w_hr, ctx.reverse, *saved, reset
            )
        d_biases = cpu_loops.of_both_biases(d_bias) if b_ih is not None else (None, None)
        return d_x.view(x.shape), None, *gradients, *d_biases, d_hr if w_hr is not None else None, None, None


CPU_LSTM_FLOAT = CPULSTMFloat()
