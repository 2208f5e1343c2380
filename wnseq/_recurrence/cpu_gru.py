"""GRU layers by the loop of :mod:`wnseq._recurrence.cpu_loops` in a CPU's eager mode, for float32 and under bfloat16 autocast.

Torch's GRU goes through the steps of a cell that autograd records one by one, and adds up the gradients of its weights
step by step. The loop takes them in one product each at the end, and its products from oneDNN. Under autocast x, h and
the weights are rounded for the products; states, gates and biases are float32.
"""

from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import cpu_loops, unrolled
from wnseq._recurrence.backend import cpu_loops_supported, is_forced, product_dtype
from wnseq._torch_internals import needs_grad

LONG, SMALL = 32, 2**15  # steps and N·H² from which on the loop is taken in training
SHORT, LARGE = 8, 2**20  # and in float32, in inference too


def fits(x: Tensor, batch_sizes: Tensor | None, h: Tensor, flat: list[Tensor]) -> bool:
    """Tell whether the loop takes a GRU, and is the faster at its size.

    Args:
        x: Input, padded, in either order of its axes, or packed.
        batch_sizes: None if it is padded.
        h: Initial hidden states ``(L·D, N, H)``.
        flat: Weights and biases.

    Note:
        Time of WNGRU, composition included, over that of torch's GRU, on two cores with AVX-512 and bfloat16 products;
        in bfloat16 inference is torch's:

        ==========  ===================  =====================  ====================
        T×N×H       float32, training    float32, inference     bfloat16, training
        ==========  ===================  =====================  ====================
        35×20×650   0.50                 0.52                   0.83
        35×20×200   0.79                 1.03                   0.77
        256×32×128  0.73                 1.04                   0.67
        35×1×512    0.72                 1.15                   0.65
        35×4×512    0.41                 0.64                   0.74
        16×16×512   0.61                 0.72                   0.99
        8×20×650    0.71                 0.69                   1.26
        8×20×200    1.12                 1.26                   1.14
        35×20×64    1.04                 2.02                   0.75
        35×3×16     1.13                 2.95                   1.01
        ==========  ===================  =====================  ====================
    """
    dtype = product_dtype(x)
    if dtype not in (torch.float32, torch.bfloat16) or not cpu_loops_supported(x, (h,), flat):
        return False
    batch, size = h.shape[1:]
    steps = len(batch_sizes) if batch_sizes is not None else x.numel() // (x.shape[-1] * batch)
    large = steps >= SHORT and batch * size**2 >= LARGE and dtype == torch.float32
    long = steps >= LONG and batch * size**2 >= SMALL and needs_grad(x, h, *flat)
    return is_forced() or large or long


def gru(
    x: Tensor, batch_sizes: Tensor | None, h: Tensor, weights: list[Tensor], reverse: bool
) -> tuple[Tensor, Tensor]:
    """Run one GRU layer in one direction.

    Args:
        x: Input.
        batch_sizes: Sequences alive at each step of a packed input; None for a padded one.
        h: Initial hidden state.
        weights: w_ih, w_hh and, if there are, both biases, in float32.
        reverse: Whether to walk from the last step to the first.

    Shape:
        - x: ``(T, N, I)``, or packed ``(ΣN, I)``; h: ``(N, H)``

    Returns:
        Output and final state, in h's dtype as torch's are.
    """
    dtype = product_dtype(x)
    w_ih, w_hh, *biases = weights
    b_ih, b_hh = biases or (None, None)
    given = (x.to(dtype), batch_sizes, h.float(), w_ih.to(dtype), w_hh.to(dtype), b_ih, b_hh, reverse)
    output, final = _GRU.apply(*given)  # type: ignore[no-untyped-call]
    return output.to(h.dtype), final.to(h.dtype)


class _GRU(torch.autograd.Function):
    """One layer; x and the weights in the dtype of the products, the rest in float32."""

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
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            rows, sizes = cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
            output, final, gates, inner = cpu_loops.gru_forward(rows, sizes, h, w_ih, w_hh, b_ih, b_hh, reverse)
        output = output.view(*x.shape[:-1], -1)
        ctx.save_for_backward(x, batch_sizes, h, w_ih, w_hh, b_ih, b_hh, output, gates, inner)
        ctx.reverse = reverse
        return output, final

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        x, batch_sizes, h, w_ih, w_hh, b_ih, b_hh, output, gates, inner = ctx.saved_tensors
        if torch.is_grad_enabled():
            d, weights = (d_output, d_h), [w_ih, w_hh, b_ih, b_hh]
            first, *others = unrolled.differentiable(unrolled.gru, d, x, batch_sizes, (h,), weights, ctx.reverse)
            return first, None, *others, None
        d_rows, rows, sizes = cpu_loops.as_rows(d_output), cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
        kept = (cpu_loops.as_rows(output), gates, inner)
        with torch.autocast("cpu", enabled=False):
            d_x, d_h, d_ih, d_hh, *d_biases = cpu_loops.gru_backward(
                d_rows, d_h, rows, sizes, h, w_ih, w_hh, ctx.reverse, *kept, wants_x=ctx.needs_input_grad[0]
            )
        first = d_x.view(x.shape) if ctx.needs_input_grad[0] else None
        return first, None, d_h, d_ih, d_hh, *(d_biases if b_ih is not None else (None, None)), None
