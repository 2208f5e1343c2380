"""The Elman layer's loop on a CPU: torch steps through a cell that autograd records, with a product and its gradients a
step; the loop has one product each for those gradients.
"""

from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import cpu_loops, unrolled
from wnseq._recurrence.backend import autocast, unpack
from wnseq._recurrence.call import Call, States
from wnseq._torch_internals import needs_grad

# Below them torch's layer is the faster: steps and N·H², in training.
MIN_STEPS_TRAIN, MIN_FLOPS_TRAIN = 32, 2**20


class CPURNN(cpu_loops.CPULoop):
    """Runs an Elman layer, padded or packed."""

    rule = f"resets, {MIN_STEPS_TRAIN} steps with N·H² of {MIN_FLOPS_TRAIN} in training"

    def why_not(self, call: Call) -> str | None:
        """Return None if the products are in float32, or states are reset."""
        if call.reset is None and call.product_dtype != torch.float32:
            return "its products are not in float32"
        return super().why_not(call)

    def is_faster(self, call: Call) -> bool:
        """Return True if layers of some size train, or if states are reset."""
        if call.reset is not None:
            return True
        is_long = call.steps >= MIN_STEPS_TRAIN and call.batch * call.states[0].shape[2] ** 2 >= MIN_FLOPS_TRAIN
        return is_long and needs_grad(call.x, *call.states, *call.flat)

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction; output and state in the dtype of the products, as torch's are."""
        x, states, weights = autocast(x, states, weights)
        w_ih, w_hh, b_ih, b_hh, _ = unpack(weights)
        relu = call.nonlinearity == "relu"
        inputs = (x, call.batch_sizes, *states, w_ih, w_hh, b_ih, b_hh, relu, reverse, call.reset)
        output, h = _RNN.apply(*inputs)  # type: ignore[no-untyped-call]
        return output, (h,)


class _RNN(torch.autograd.Function):
    """One layer; all in the dtype of the products."""

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
        relu: bool,
        reverse: bool,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        bias = None if b_ih is None or b_hh is None else b_ih + b_hh
        rows, sizes = cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
        with torch.autocast("cpu", enabled=False):
            output, final = cpu_loops.rnn_forward(rows, sizes, h, w_ih, w_hh, bias, relu, reverse, reset)
        output = output.view(*x.shape[:-1], -1)
        ctx.save_for_backward(x, batch_sizes, h, w_ih, w_hh, b_ih, b_hh, output, reset)
        ctx.flags = relu, reverse
        return cpu_loops.unsaved(ctx, output), final

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        x, batch_sizes, h, w_ih, w_hh, b_ih, b_hh, output, reset = ctx.saved_tensors
        (relu, reverse), wants_x = ctx.flags, ctx.needs_input_grad[0]
        if unrolled.needs_graph(d_output, d_h):
            step, weights = unrolled.STEPS["relu" if relu else "tanh"], [w_ih, w_hh, b_ih, b_hh]
            first, *others = unrolled.differentiable_backward(
                step, (d_output, d_h), x, batch_sizes, (h,), weights, reverse, reset
            )
            return first, None, *others, None, None, None
        d_rows, rows, sizes = cpu_loops.as_rows(d_output), cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
        with torch.autocast("cpu", enabled=False):
            d_x, d_h, d_ih, d_hh, d_bias = cpu_loops.rnn_backward(
                d_rows, d_h, rows, sizes, h, w_ih, w_hh, relu, reverse, cpu_loops.as_rows(output), wants_x, reset
            )
        d_biases = cpu_loops.of_both_biases(d_bias) if b_ih is not None else (None, None)
        return d_x.view(x.shape) if wants_x else None, None, d_h, d_ih, d_hh, *d_biases, None, None, None


CPU_RNN = CPURNN()
