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

from wnseq._torch_internals import is_tracing, needs_grad

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
MIN_ENTRIES_WEIGHT_GRAD = (
    2**16
)  # entries of a product of columns from which on oneDNN, which transposes first, is the faster


def onednn_supports(*tensors: Tensor | None) -> bool:
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
    if dense and onednn_supports(x, w, b):
        return _onednn_linear(x, w, b)
    return F.linear(x, w, b)


def prepacked_linear(w: Tensor, b: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
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
    if rows and onednn_supports(w, b):
        laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(w, rows)
        return lambda x: _onednn_linear(x, laid_out, b)
    return lambda x: F.linear(x, w, b)


def weight_grad(d: Tensor, x: Tensor) -> Tensor:
    """Multiply columns, dᵀ x: the gradient of a weight that went from x to what d is the gradient of.

    Args:
        d: Rows.
        x: As many rows.

    Shape:
        - d: ``(N, O)``; x: ``(N, I)``

    Returns:
        The product, ``(O, I)``.
    """
    if d.dtype == torch.float32 and d.shape[1] * x.shape[1] >= MIN_ENTRIES_WEIGHT_GRAD and onednn_supports(d, x):
        return _onednn_linear(d.mT, x.contiguous().mT, None)
    return d.mT @ x


def _onednn_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, w, b, "none", [], "")
    return y


# Multiplications from which on oneDNN is the faster; microseconds of torch's own → oneDNN, on an AMD EPYC with AVX-512:
#   rows × weight       1 thread      2 threads
#   1 × 1536·512        50 → 57
#   1 × 2048·512        60 → 67       58 → 42
#   1 × 2048·1024      115 → 103     111 → 72
#   1 × 10000·650     1253 → 648    1348 → 317
#   4 × 1024·256        51 → 50
#   20 × 512·128        35 → 32
#   20 × 2048·1024    1010 → 518     678 → 290
MIN_FLOPS_ONEDNN = 2**20


def memory_bound_linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Multiply rows with a weight, as ``torch.nn.functional.linear`` does.

    y = x Wᵀ + b

    In inference with float32 on a CPU, where the product is large enough, by oneDNN instead of the library that torch
    takes there, which uses one thread for one row, and reads at a third of the rate of memory what no cache holds.

    Args:
        x: Rows.
        w: The weight.
        b: The bias.

    Shape:
        - x: ``(N, I)``, or any that ``torch.nn.functional.linear`` takes; w: ``(O, I)``; b: ``(O,)``

    Returns:
        y, ``(N, O)``. It differs from torch's in the last bits.

    Example:
        >>> w = torch.randn(2048, 512)
        >>> with torch.no_grad():
        ...     linear(torch.randn(1, 512), w).shape
        torch.Size([1, 2048])
    """
    if not is_tracing() and _is_large(x, w) and _is_plain_float32(x, w, b) and not needs_grad(x, w, b):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
        return y
    return F.linear(x, w, b)


def _is_large(x: Tensor, w: Tensor) -> bool:
    """Tell whether oneDNN is the faster."""
    return x.dim() == 2 and w.dim() == 2 and x.shape[0] * w.numel() >= MIN_FLOPS_ONEDNN


def _is_plain_float32(*tensors: Tensor | None) -> bool:
    """Tell whether these are float32 that oneDNN takes, and no one transforms or casts what is done with them."""
    return (
        onednn_supports(*tensors)
        and all(tensor is None or tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )
