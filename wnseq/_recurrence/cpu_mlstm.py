"""The multiplicative LSTM's loop on a CPU, in float32 and under bfloat16 autocast.

Its gates are those of an LSTM that reads m_t = (W_im x_t) ⊙ (W_hm h_(t−1)) in the place of h. A step has two products,
by weights that are packed once: W_hm h, then both weights of the gates with x and m side by side. The gradients of the
weights are one product each over all steps. Under autocast x, h, m and the weights are rounded for the products; states
and gates stay float32. A backward direction runs on the reversed sequence.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import unrolled
from wnseq._recurrence.call import Call, States
from wnseq._recurrence.cpu_loops import CPULoop
from wnseq._recurrence.cpu_lstm import join_weights, run_gates, walk_back
from wnseq._recurrence.matmul import linear_of_many, prepacked_linear, transpose, weight_grad, weight_grads
from wnseq._torch_internals import needs_grad

MIN_STEPS = 16  # below it the steps one by one are the faster (docs/speed.md, "The multiplicative LSTM")


class CPUMLSTM(CPULoop):
    """Runs a padded multiplicative LSTM."""

    rule = f"{MIN_STEPS} steps in training or in bfloat16"

    def why_not(self, call: Call) -> str | None:
        """Return None if the products are in float32 or bfloat16, and no state is reset."""
        if call.product_dtype not in (torch.float32, torch.bfloat16):
            return "its products are in neither float32 nor bfloat16"
        if call.batch_sizes is not None or call.reset is not None:
            return "it is packed or reset"
        return super().why_not(call)

    def is_faster(self, call: Call) -> bool:
        """Return True if there are some steps, in training or with products in bfloat16."""
        is_bfloat16 = call.product_dtype == torch.bfloat16
        return call.steps >= MIN_STEPS and (is_bfloat16 or needs_grad(call.x, *call.states, *call.flat))

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction; output and states in the dtype that the steps have under autocast."""
        bias = weights[4] if len(weights) > 4 else None
        inputs = (x.flip(0) if reverse else x, *states, *weights[:4], bias, call.product_dtype)
        output, c = _MLSTM.apply(*inputs)  # type: ignore[no-untyped-call]
        dtype = torch.promote_types(call.product_dtype, states[1].dtype)
        output, c = output.to(dtype), c.to(dtype)
        return output.flip(0) if reverse else output, (output[-1], c)


class _MLSTM(torch.autograd.Function):
    """One layer forward in time; output and final c in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        w_im: Tensor,
        w_hm: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        steps, batch, features = x.shape
        size = h.shape[1]
        weight = join_weights(w_ih, w_hh, dtype)
        w_im, w_hm = w_im.to(dtype), w_hm.to(dtype)
        inputs = x.new_empty(steps, batch, features + size, dtype=dtype)  # x_t and m_t
        inputs[:, :, :features] = x
        hidden = x.new_empty(steps + 1, batch, size, dtype=dtype)
        hidden[0] = h
        gates = x.new_empty(steps, batch, 4 * size, dtype=torch.float32)  # i f g o
        cells = gates.new_empty(steps + 1, batch, size)
        cells[0] = c
        tanhs, output = torch.empty_like(cells[1:]), torch.empty_like(cells[1:])
        with torch.autocast("cpu", enabled=False):
            of_x = linear_of_many(x.to(dtype).flatten(0, 1), w_im).view(steps, batch, size)
            of_h = torch.empty_like(of_x)
            multiply, to_m = prepacked_linear(weight, bias, batch), prepacked_linear(w_hm, None, batch)

            def products() -> Iterator[Tensor]:
                before = hidden[0]
                parts = (of_x, of_h, inputs, inputs[:, :, features:], hidden[1:], output)
                for of_x_t, of_h_t, x_and_m, m, h_t, output_t in zip(*(part.unbind(0) for part in parts), strict=True):
                    of_h_t.copy_(to_m(before))
                    torch.mul(of_x_t, of_h_t, out=m)
                    yield multiply(x_and_m)
                    before = h_t.copy_(output_t)

            run_gates(products(), gates, cells, tanhs, output)
        given = (x, h, c, w_ih, w_hh, w_im, w_hm, bias)
        ctx.save_for_backward(*given, weight, inputs, hidden, of_x, of_h, gates, cells, tanhs)
        return output, cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: activation checkpointing gives them out no second time
        x, h, c, *weights = saved[:8]
        if unrolled.needs_graph(d_output, d_c):
            gradients = d_output, torch.zeros_like(h), d_c
            step = unrolled.STEPS["mlstm"]
            return (*unrolled.differentiable_backward(step, gradients, x, None, (h, c), weights, False), None)
        weight, inputs, hidden, of_x, of_h, gates, cells, tanhs = saved[8:]
        features, batch, dtype = x.shape[2], len(h), weight.dtype
        _, _, w_im, w_hm, bias = weights
        d_of_x, d_of_h = torch.empty_like(of_x), torch.empty_like(of_h)
        with torch.autocast("cpu", enabled=False):
            to_m = prepacked_linear(transpose(weight[:, features:]), None, batch)
            through = prepacked_linear(transpose(w_hm, dtype), None, batch)

            def to_h(t: int, d: Tensor) -> Tensor:
                d_m = to_m(d)
                torch.mul(d_m, of_h[t], out=d_of_x[t])
                return through(torch.mul(d_m, of_x[t], out=d_of_h[t]))

            d, d_h, d_c, d_bias = walk_back(d_output, torch.zeros_like(h), d_c, to_h, dtype, gates, cells, tanhs)
            rows, of_x_rows, x_and_m = d.flatten(0, 1), d_of_x.flatten(0, 1), inputs.flatten(0, 1)
            d_ih, d_hh = weight_grads(rows, x_and_m, features)
            d_im = weight_grad(of_x_rows, x_and_m[:, :features]).float()
            d_hm = weight_grad(d_of_h.flatten(0, 1), hidden[:-1].flatten(0, 1)).float()
            d_x = None
            if ctx.needs_input_grad[0]:
                d_x = (rows @ weight[:, :features] + of_x_rows @ w_im.to(dtype)).view(x.shape).to(x.dtype)
        d_weights = d_ih, d_hh, d_im, d_hm, d_bias if bias is not None else None
        return d_x, d_h.to(h.dtype), d_c.to(c.dtype), *d_weights, None


CPU_MLSTM = CPUMLSTM()
