"""Products with a weight over a sequence, by oneDNN on a CPU, and by torch's choice elsewhere.

For float32 torch asks MKL, which on an AMD EPYC takes twice oneDNN's time, and three times where few rows meet a large
weight that oneDNN has laid out for the processor once for all steps:

==================  =====  =======  =========  ========
rows × weight, µs   MKL    oneDNN   laid out   laying
==================  =====  =======  =========  ========
20 × 600·200        42     31       25         107
20 × 1950·650       443    190      134        283
20 × 3450·1150      1509   684      479        755
700 × 1950·650      11220  5040
==================  =====  =======  =========  ========

Nothing here is recorded for a backward: this is for those who go back by hand.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["HAS_ONEDNN", "by_onednn", "linear", "outer", "repeated"]

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
WIDE = 2**16  # entries of a product of columns from which on oneDNN, which transposes first, is the faster


def by_onednn(*tensors: Tensor | None) -> bool:
    """Tell whether oneDNN takes products of these: float32, or bfloat16 where the processor has it, on a CPU."""
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        HAS_ONEDNN
        and bool(torch.backends.mkldnn.enabled)
        and not torch.compiler.is_compiling()
        and all(
            type(each) in (Tensor, torch.nn.Parameter)
            and each.is_cpu
            and each.dtype in (torch.float32, torch.bfloat16)
            and each.numel() > 0
            for each in given
        )
        and (all(each.dtype == torch.float32 for each in given) or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
    )


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Multiply rows with a weight, y = x Wᵀ + b.

    Args:
        x: Rows.
        w: The weight.
        b: The bias; in float32 if it likes where oneDNN takes bfloat16.

    Shape:
        - x: ``(N, I)``; w: ``(O, I)``; b: ``(O,)``

    Returns:
        y, ``(N, O)``.
    """
    dense = w.is_contiguous() or w.mT.is_contiguous()  # any other takes oneDNN a thousand times as long
    if dense and by_onednn(x, w, b):
        return _linear(x, w, b)
    return F.linear(x, w, b)


def repeated(w: Tensor, b: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """Make a function that multiplies rows with one weight again and again.

    Args:
        w: The weight.
        b: The bias, as in :func:`linear`.
        rows: Of most products.

    Shape:
        - w: ``(O, I)``; b: ``(O,)``

    Returns:
        The function of x, ``(N, I)``, that gives :func:`linear` of it.
    """
    if rows and by_onednn(w, b):
        laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(w, rows)
        return lambda x: _linear(x, laid_out, b)
    return lambda x: F.linear(x, w, b)


def outer(d: Tensor, x: Tensor) -> Tensor:
    """Multiply columns, dᵀ x: the gradient of a weight that went from x to what d is the gradient of.

    Args:
        d: Rows.
        x: As many rows.

    Shape:
        - d: ``(N, O)``; x: ``(N, I)``

    Returns:
        The product, ``(O, I)``.
    """
    if d.dtype == torch.float32 and d.shape[1] * x.shape[1] >= WIDE and by_onednn(d, x):
        return _linear(d.mT, x.contiguous().mT, None)
    return d.mT @ x


def _linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, w, b, "none", [], "")
    return y
