"""The GRU's loop on a CPU, in float32 and under bfloat16 autocast.

Torch steps through a GRU cell that autograd records, with MKL's products, and adds up the weights' gradients step by
step; the loop has oneDNN's products and one each for those gradients. Under autocast x, h and the weights are rounded
for the products; states, gates and biases stay float32.
"""

from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import cpu_loops, unrolled
from wnseq._recurrence.backend import unpack, widen
from wnseq._recurrence.call import Call, States
from wnseq._torch_internals import needs_grad

# Below them torch's GRU is the faster (docs/speed.md, "The GRU's loop").
MIN_STEPS_TRAIN, MIN_FLOPS_TRAIN = 32, 2**15  # steps and N·H², in training
MIN_STEPS, MIN_FLOPS = 8, 2**20  # in float32, in inference too


class CPUGRU(cpu_loops.CPULoop):
    """Runs a GRU, padded or packed."""

    rule = (
        f"resets, {MIN_STEPS_TRAIN} steps with N·H² of {MIN_FLOPS_TRAIN} in training, {MIN_STEPS} with N·H² of "
        f"{MIN_FLOPS} in float32"
    )

    def why_not(self, call: Call) -> str | None:
        """Return None if the products are in float32 or bfloat16, or states are reset."""
        if call.reset is None and call.product_dtype not in (torch.float32, torch.bfloat16):
            return "its products are in neither float32 nor bfloat16"
        return super().why_not(call)

    def is_faster(self, call: Call) -> bool:
        """Return True if the layers have some size, or if states are reset."""
        if call.reset is not None:
            return True
        steps, flops = call.steps, call.batch * call.states[0].shape[2] ** 2
        if steps >= MIN_STEPS and flops >= MIN_FLOPS and call.product_dtype == torch.float32:
            return True
        is_long = steps >= MIN_STEPS_TRAIN and flops >= MIN_FLOPS_TRAIN
        return is_long and needs_grad(call.x, *call.states, *call.flat)

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction; output and state in the dtype of the given state, as torch's are."""
        (h,), dtype = states, call.product_dtype
        w_ih, w_hh, b_ih, b_hh, _ = unpack(weights)
        inputs = (x.to(dtype), call.batch_sizes, widen(h), w_ih.to(dtype), w_hh.to(dtype), b_ih, b_hh)
        output, final = _GRU.apply(*inputs, reverse, call.reset)  # type: ignore[no-untyped-call]
        return output.to(h.dtype), (final.to(h.dtype),)


class _GRU(torch.autograd.Function):
    """One layer; x and the weights in the dtype of the products, the rest in float32 at least."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        batch_sizes: Tensor | None,
        h: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        reverse: bool,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            rows, sizes = cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
            output, final, gates, inner = cpu_loops.gru_forward(rows, sizes, h, w_ih, w_hh, b_ih, b_hh, reverse, reset)
        output = output.view(*x.shape[:-1], -1)
        ctx.save_for_backward(x, batch_sizes, h, w_ih, w_hh, b_ih, b_hh, output, gates, inner, reset)
        ctx.reverse = reverse
        return cpu_loops.unsaved(ctx, output), final

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        x, batch_sizes, h, w_ih, w_hh, b_ih, b_hh, output, gates, inner, reset = ctx.saved_tensors
        if unrolled.needs_graph(d_output, d_h):
            d, weights = (d_output, d_h), [w_ih, w_hh, b_ih, b_hh]
            first, *others = unrolled.differentiable_backward(
                unrolled.gru, d, x, batch_sizes, (h,), weights, ctx.reverse, reset
            )
            return first, None, *others, None, None
        d_rows, rows, sizes = cpu_loops.as_rows(d_output), cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
        saved = (cpu_loops.as_rows(output), gates, inner)
        with torch.autocast("cpu", enabled=False):
            d_x, d_h, d_ih, d_hh, *d_biases = cpu_loops.gru_backward(
                d_rows, d_h, rows, sizes, h, w_ih, w_hh, ctx.reverse, *saved, ctx.needs_input_grad[0], reset
            )
        first = d_x.view(x.shape) if ctx.needs_input_grad[0] else None
        return first, None, d_h, d_ih, d_hh, *(d_biases if b_ih is not None else (None, None)), None, None


CPU_GRU = CPUGRU()
