"""The LSTM's loop on a CPU under bfloat16 autocast: bfloat16 products, float32 states and gates.

Torch's LSTM gains little from bfloat16, since the weight is packed for the processor at each step. Here oneDNN packs it
once. A step multiplies x and h, side by side, by both weights in one product, accumulated in float32 and rounded once;
the gates are computed from it in float32, and h is rounded for the next product. The gradients of both weights are one
product over all steps, and so is that of x. A backward direction runs on the reversed sequence.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import unrolled
from wnseq._recurrence.backend import unpack
from wnseq._recurrence.call import Call, States
from wnseq._recurrence.cpu_loops import CPULoop, of_both_biases
from wnseq._recurrence.lstm_gradient import is_gradient_wrong
from wnseq._recurrence.matmul import prepacked_linear, transpose, weight_grads
from wnseq._torch_internals import needs_grad

BF16 = torch.bfloat16
# Below them, and in inference, torch's LSTM is the faster (docs/speed.md, "The bf16 recurrence").
MIN_HIDDEN = 640
MIN_HIDDEN_WIDE, MIN_COLUMNS_WIDE = 384, 1400  # a smaller H, if both weights together have so many columns, I + H
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class CPULSTM(CPULoop):
    """Runs a padded LSTM without a projection."""

    rule = f"H of {MIN_HIDDEN} in training, or of {MIN_HIDDEN_WIDE} with I + H of {MIN_COLUMNS_WIDE}"

    def why_not(self, call: Call) -> str | None:
        """Return None if the products are in bfloat16, and no state is reset."""
        if call.product_dtype != BF16:
            return "its products are not in bfloat16"
        if call.batch_sizes is not None or call.projected or call.reset is not None:
            return "it is packed, projected or reset"
        return super().why_not(call)

    def is_faster(self, call: Call) -> bool:
        """Return True if large layers train, or layers of which torch's LSTM has a wrong gradient."""
        size = call.states[0].shape[2]
        is_wide = size >= MIN_HIDDEN_WIDE and size + call.x.shape[-1] >= MIN_COLUMNS_WIDE
        is_large = size >= MIN_HIDDEN or is_wide
        return (is_large and needs_grad(call.x, *call.states, *call.flat)) or is_gradient_wrong(call)

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction; output and states in bfloat16, as torch's are."""
        w_ih, w_hh, b_ih, b_hh, _ = unpack(weights)
        inputs = (x.flip(0) if reverse else x, *states, w_ih, w_hh, b_ih, b_hh)
        output, h, c = _LSTM.apply(*inputs)  # type: ignore[no-untyped-call]
        return output.flip(0) if reverse else output, (h, c)


class _LSTM(torch.autograd.Function):
    """One layer forward in time."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, features = x.shape
        size = h.shape[1]
        weight = join_weights(w_ih, w_hh, BF16)
        bias = None if b_ih is None or b_hh is None else b_ih + b_hh
        inputs = _inputs(x, h)  # (T + 1, N, I + H)
        gates = x.new_empty(steps, batch, 4 * size, dtype=torch.float32)  # i f g o
        cells = x.new_empty(steps + 1, batch, size, dtype=torch.float32)
        cells[0] = c
        tanhs = torch.empty_like(cells[1:])
        multiply = prepacked_linear(weight, bias, batch)
        run_gates(map(multiply, inputs.unbind(0)), gates, cells, tanhs, inputs[1:, :, features:])
        ctx.save_for_backward(x, h, c, w_ih, w_hh, b_ih, b_hh, weight, inputs, gates, cells, tanhs)
        output = inputs[1:, :, features:].contiguous()
        return output, output[-1].clone(), cells[-1].to(BF16)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        x, h, c, w_ih, w_hh, b_ih, b_hh, weight, inputs, gates, cells, tanhs = ctx.saved_tensors
        if unrolled.needs_graph(d_output, d_h, d_c):
            gradients, weights = (d_output, d_h, d_c), [w_ih, w_hh, b_ih, b_hh]
            return tuple(unrolled.differentiable_backward(unrolled.lstm, gradients, x, None, (h, c), weights, False))
        features = x.shape[2]
        multiply = prepacked_linear(transpose(weight[:, features:]), None, len(h))
        d, d_h, d_c, d_bias = walk_back(d_output, d_h, d_c, lambda t, d: multiply(d), BF16, gates, cells, tanhs)
        rows = d.flatten(0, 1)
        d_ih, d_hh = weight_grads(rows, inputs[:-1].flatten(0, 1), features)
        d_x = (rows @ weight[:, :features]).view(x.shape).to(x.dtype) if ctx.needs_input_grad[0] else None
        d_biases = of_both_biases(d_bias) if b_ih is not None else (None, None)
        return d_x, d_h.to(h.dtype), d_c.to(c.dtype), d_ih, d_hh, *d_biases


def run_gates(products: Iterator[Tensor], gates: Tensor, cells: Tensor, tanhs: Tensor, hidden: Tensor) -> None:
    """Compute gates, cell states and outputs of all steps.

    Args:
        products: Computes for one step after the other what enters the gates, ``(N, 4·H)``; it may read the output of
            the step before.
        gates: To be filled with i, f, g and o, ``(T, N, 4·H)``.
        cells: To be filled, ``(T + 1, N, H)``; the first is given.
        tanhs: To be filled with tanh c, ``(T, N, H)``.
        hidden: To be filled with h, ``(T, N, H)``.
    """
    parts = zip(
        gates.unbind(0),
        *(part.unbind(0) for part in gates.chunk(4, 2)),
        cells.unbind(0),
        cells[1:].unbind(0),
        tanhs.unbind(0),
        hidden.unbind(0),
        products,  # the last, so that none is computed beyond the last step
        strict=False,
    )
    minus_one = gates.new_tensor(-1.0)
    for a, i, f, g, o, old, new, tanh, h, product in parts:
        a.copy_(product)
        g.mul_(2)
        a.sigmoid_()
        torch.add(minus_one, g, alpha=2, out=g)  # tanh x = 2σ(2x) − 1, and torch's σ is ten times as fast
        torch.mul(f, old, out=new).addcmul_(i, g)
        torch.mul(new, 2, out=tanh).sigmoid_()
        torch.add(minus_one, tanh, alpha=2, out=tanh)
        torch.mul(o, tanh, out=h)


def walk_back(
    d_output: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    to_h: Callable[[int, Tensor], Tensor],
    dtype: torch.dtype,
    gates: Tensor,
    cells: Tensor,
    tanhs: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of what enters the gates, in a dtype, of h, of c and of the bias.

    A step computes its local derivatives while its gates are in the cache; over all steps at once they would not be.
    ``to_h`` maps a step and the gradient of what enters its gates to that of the h before.
    """
    batch, size = d_h.shape
    d = torch.empty_like(gates, dtype=dtype)
    d_h, d_c = d_h.float(), d_c.to(torch.float32, copy=True)
    d_bias = gates.new_zeros(4 * size)
    now, to_c, local = (gates.new_empty(batch, columns) for columns in (size, size, 4 * size))
    d_i, d_f, d_g, d_o = local.chunk(4, 1)
    d_ifg = local[:, : 3 * size].view(batch, 3, size)
    parts = zip(
        range(len(d)),
        d_output.unbind(0),
        *(part.unbind(0) for part in gates.chunk(4, 2)),
        cells[:-1].unbind(0),
        tanhs.unbind(0),
        d.unbind(0),
        strict=True,
    )
    for t, d_output_t, i, f, g, o, old, tanh, d_t in reversed(list(parts)):
        _sigmoid_backward(tanh, o, grad_input=d_o)  # ∂h/∂a of o, and ∂c/∂a of the others
        _sigmoid_backward(g, i, grad_input=d_i)
        _sigmoid_backward(old, f, grad_input=d_f)
        _tanh_backward(i, g, grad_input=d_g)
        _tanh_backward(o, tanh, grad_input=to_c)  # ∂h/∂c
        now.copy_(d_output_t).add_(d_h)
        d_c.addcmul_(now, to_c)
        d_o.mul_(now)
        d_ifg.mul_(d_c.unsqueeze(1))
        d_c.mul_(f)
        d_bias.add_(local.sum(0))
        d_h = to_h(t, d_t.copy_(local))
    return d, d_h, d_c, d_bias


def join_weights(w_ih: Tensor, w_hh: Tensor, dtype: torch.dtype) -> Tensor:
    """Return both weights side by side in a dtype: ``(4·H, I + H)``."""
    features, size = w_ih.shape[1], w_hh.shape[1]
    weight = w_ih.new_empty(len(w_ih), features + size, dtype=dtype)
    weight[:, :features] = w_ih
    weight[:, features:] = w_hh
    return weight


def _inputs(x: Tensor, h: Tensor) -> Tensor:
    """Return x beside a slot for the h of the same step: ``(T + 1, N, I + H)``, with only h used in the last."""
    steps, batch, features = x.shape
    inputs = x.new_empty(steps + 1, batch, features + h.shape[1], dtype=BF16)
    inputs[:-1, :, :features] = x
    inputs[0, :, features:] = h
    return inputs


CPU_LSTM = CPULSTM()
