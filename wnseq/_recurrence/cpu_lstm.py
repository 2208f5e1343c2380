"""LSTM layers whose products are taken in bfloat16 on a CPU, and whose states and gates are float32.

Torch's LSTM is no faster under bfloat16 autocast than without, though products of matrices run four times as fast: a
step multiplies few rows by a large matrix, and the matrix is laid out anew for the processor at each step. Here oneDNN
lays it out once for all steps. A step multiplies x and h, side by side, by both weights in one product, which oneDNN
adds up in float32 and rounds once; the gates are computed from it in float32, and h is rounded for the next product.
The gradients of both weights are one product over all steps, and so is that of x.

Inputs are padded and time first; a backward direction is run on the reversed sequence.
"""

from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import unrolled
from wnseq._recurrence.backend import cpu_loops_supported, is_forced, product_dtype
from wnseq._recurrence.matmul import prepacked_linear
from wnseq._torch_internals import needs_grad

BF16 = torch.bfloat16
STEPS, BATCH, SIZE = 32, 16, 640  # from which on the loop is taken
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def fits(
    x: Tensor, batch_sizes: Tensor | None, states: tuple[Tensor, ...], flat: list[Tensor], projected: bool
) -> bool:
    """Tell whether the loop takes an LSTM, and is the faster at its size.

    Args:
        x: Input, padded, in either order of its axes.
        batch_sizes: None if it is padded.
        states: Initial states ``(L·D, N, H)``.
        flat: Weights and biases.
        projected: Whether there is a projection.

    Note:
        Forward and backward of WNLSTM, composition and casts included, over torch's LSTM under the same autocast, on
        two cores with AVX-512 and its bfloat16 products: 2.1 times as fast at T×N×H = 70×20×1150, 1.3 at 35×64×1024,
        0.85 to 1.6 at 35×20×650, where torch's own time moves by half from hour to hour, but 0.8 at 16×16×512, and by
        itself 0.6 at 35×20×200 and at 1×1×512, and 0.5 at 256×32×128, where calls and the laying out of the weights
        cost more than the products. The backward is what gains: the forward alone takes 1.25 to 1.5 times torch's, so
        that inference is torch's.
    """
    if product_dtype(x) != BF16 or batch_sizes is not None or projected or not cpu_loops_supported(x, states, flat):
        return False
    _, batch, size = states[0].shape
    steps = x.numel() // (x.shape[-1] * batch)
    large = steps >= STEPS and batch >= BATCH and size >= SIZE
    return is_forced() or (large and needs_grad(x, *states, *flat))


def lstm(
    x: Tensor, states: tuple[Tensor, ...], weights: list[Tensor], reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one LSTM layer in one direction.

    Args:
        x: Input.
        states: Initial hidden and cell state.
        weights: w_ih, w_hh and, if there are, both biases, in float32.
        reverse: Whether to walk from the last step to the first.

    Shape:
        - x: ``(T, N, I)``; states: ``(N, H)``

    Returns:
        Output and final states, in bfloat16 as torch's are.
    """
    biases = weights[2:] or (None, None)
    output, h, c = _LSTM.apply(x.flip(0) if reverse else x, *states, *weights[:2], *biases)  # type: ignore[no-untyped-call]
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
        weight = _side_by_side(w_ih, w_hh)
        bias = None if b_ih is None or b_hh is None else b_ih + b_hh
        inputs = _inputs(x, h)  # (T + 1, N, I + H)
        gates = x.new_empty(steps, batch, 4 * size, dtype=torch.float32)  # i f g o
        cells = x.new_empty(steps + 1, batch, size, dtype=torch.float32)
        cells[0] = c
        tanhs = torch.empty_like(cells[1:])
        times = prepacked_linear(weight, bias, batch)
        hidden = inputs[1:, :, features:].unbind(0)
        parts = zip(
            inputs.unbind(0),
            gates.unbind(0),
            *(part.unbind(0) for part in gates.chunk(4, 2)),
            cells.unbind(0),
            cells[1:].unbind(0),
            tanhs.unbind(0),
            hidden,
            strict=False,
        )
        minus_one = gates.new_tensor(-1.0)
        for x_and_h, a, i, f, g, o, old, new, tanh, h_t in parts:
            a.copy_(times(x_and_h))
            g.mul_(2)
            a.sigmoid_()
            torch.add(minus_one, g, alpha=2, out=g)  # tanh x = 2σ(2x) − 1, and torch's σ is ten times as fast
            torch.mul(f, old, out=new).addcmul_(i, g)
            torch.mul(new, 2, out=tanh).sigmoid_()
            torch.add(minus_one, tanh, alpha=2, out=tanh)
            torch.mul(o, tanh, out=h_t)
        ctx.save_for_backward(x, h, c, w_ih, w_hh, b_ih, b_hh, weight, inputs, gates, cells, tanhs)
        output = inputs[1:, :, features:].contiguous()
        return output, output[-1].clone(), cells[-1].to(BF16)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        x, h, c, w_ih, w_hh, b_ih, b_hh, weight, inputs, gates, cells, tanhs = ctx.saved_tensors
        if torch.is_grad_enabled():
            gradients, weights = (d_output, d_h, d_c), [w_ih, w_hh, b_ih, b_hh]
            return tuple(unrolled.differentiable(unrolled.lstm, gradients, x, None, (h, c), weights, reverse=False))
        features = x.shape[2]
        d, d_h, d_c, d_bias = _back(d_output, d_h, d_c, weight[:, features:], gates, cells, tanhs)
        rows = d.flatten(0, 1)
        d_weight = rows.mT @ inputs[:-1].flatten(0, 1)
        d_ih, d_hh = (part.float() for part in d_weight.split((features, h.shape[1]), 1))
        d_x = (rows @ weight[:, :features]).view(x.shape).to(x.dtype) if ctx.needs_input_grad[0] else None
        d_biases = (d_bias, d_bias) if b_ih is not None else (None, None)
        return d_x, d_h.to(h.dtype), d_c.to(c.dtype), d_ih, d_hh, *d_biases


def _back(
    d_output: Tensor, d_h: Tensor, d_c: Tensor, w_hh: Tensor, gates: Tensor, cells: Tensor, tanhs: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Walk back through the steps; return the gradients of what enters the gates, of h, of c and of each bias.

    On its own, so that its memory is free again when the gradients of the weights are made.
    """
    steps, batch, size = d_output.shape
    i, f, g, o = gates.chunk(4, 2)
    local = torch.empty_like(gates)  # first ∂h/∂a of o and ∂c/∂a of the others, then the gradients of a
    d_i, d_f, d_g, d_o = local.chunk(4, 2)
    _sigmoid_backward(tanhs, o, grad_input=d_o)
    _sigmoid_backward(g, i, grad_input=d_i)
    _sigmoid_backward(cells[:-1], f, grad_input=d_f)
    _tanh_backward(i, g, grad_input=d_g)
    to_c = torch.ops.aten.tanh_backward(o, tanhs)  # ∂h/∂c
    d = torch.empty_like(local, dtype=BF16)
    # rows a power of two apart fall on the same places of a cache, and take three times as long to transpose
    recurrent = w_hh.new_empty(4 * size, size + 32)[:, :size].copy_(w_hh)
    times = prepacked_linear(recurrent.mT, None, batch)
    d_h, d_c = d_h.float(), d_c.to(torch.float32, copy=True)
    parts = zip(
        d_output.to(torch.float32, copy=True).unbind(0),
        to_c.unbind(0),
        f.unbind(0),
        local.unbind(0),
        d_o.unbind(0),
        local[..., : 3 * size].view(steps, batch, 3, size).unbind(0),
        d.unbind(0),
        strict=True,
    )
    for now, to_c_t, f_t, all_t, d_o_t, d_ifg_t, d_t in reversed(list(parts)):
        now.add_(d_h)
        d_c.addcmul_(now, to_c_t)
        d_o_t.mul_(now)
        d_ifg_t.mul_(d_c.unsqueeze(1))
        d_c.mul_(f_t)
        d_h = times(d_t.copy_(all_t))
    return d, d_h, d_c, local.sum((0, 1))


def _side_by_side(w_ih: Tensor, w_hh: Tensor) -> Tensor:
    """Put both weights beside each other in bfloat16: ``(4·H, I + H)``."""
    features, size = w_ih.shape[1], w_hh.shape[1]
    weight = w_ih.new_empty(len(w_ih), features + size, dtype=BF16)
    weight[:, :features] = w_ih
    weight[:, features:] = w_hh
    return weight


def _inputs(x: Tensor, h: Tensor) -> Tensor:
    """Put x beside the place of the h that goes with it: ``(T + 1, N, I + H)``, only h being of use in the last."""
    steps, batch, features = x.shape
    inputs = x.new_empty(steps + 1, batch, features + h.shape[1], dtype=BF16)
    inputs[:-1, :, :features] = x
    inputs[0, :, features:] = h
    return inputs
