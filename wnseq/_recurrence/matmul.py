"""Matrix products with a weight: by oneDNN on a CPU, where torch would take MKL for float32, else by torch.

MKL needs two to three times oneDNN's time on an AMD EPYC; docs/speed.md has the measurements. On an Intel Xeon it is
the faster for float32 rows of some number, and for the gradients of weights.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._torch_internals import (
    HAS_AMX,
    HAS_MKL_PREPACKED,
    HAS_ONEDNN,
    HAS_ONEDNN_BF16,
    IS_MKL_FAST,
    is_recording,
    mkl_linear,
    mkl_prepack,
    needs_grad,
    onednn_linear,
    onednn_prepack,
)

MIN_FLOPS_ONEDNN = 2**20  # multiplications from which on oneDNN is the faster for few rows
MIN_ROWS_ONEDNN, MIN_ENTRIES_ONEDNN = 4, 2**20  # and on Intel's, where MKL reads a weight for fewer rows as fast
# Of a step's product on Intel's: from so many rows on MKL is the faster. It prepacks weights of so many entries, which
# smaller ones do not repay: those are transposed. A weight that lies transposed, as in a backward, is read as it is.
MIN_ROWS_MKL, MIN_ENTRIES_MKL_PREPACKED = 16, 2**16
MAX_ENTRIES_TO_TRANSPOSE, MAX_ENTRIES_TRANSPOSED = 2**20, 2**21  # of larger ones oneDNN's product is the faster
MIN_ENTRIES_WEIGHT_GRAD = (
    2**16
)  # entries of a weight's gradient; oneDNN transposes first, which smaller ones do not repay
MIN_FLOPS_AMX = 2**31  # multiplications from which on a transposed copy repays itself
TRANSPOSED_ROWS = 64  # a block of which the caches hold


def onednn_supports(*tensors: Tensor | None) -> bool:
    """Return True if oneDNN has products of these: float32, or bfloat16 where the processor has it, on a CPU."""
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        HAS_ONEDNN
        and bool(torch.backends.mkldnn.enabled)
        and not torch.compiler.is_compiling()
        and all(
            type(tensor) in (Tensor, torch.nn.Parameter)
            and tensor.is_cpu
            and tensor.dtype in (torch.float32, torch.bfloat16)
            and tensor.numel() > 0
            for tensor in given
        )
        and (HAS_ONEDNN_BF16 or all(tensor.dtype == torch.float32 for tensor in given))
    )


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b, without a gradient; b may be float32 where oneDNN takes bfloat16."""
    dense = w.is_contiguous() or w.mT.is_contiguous()  # any other takes oneDNN a thousand times as long
    by_mkl = IS_MKL_FAST and x.dtype == torch.float32 and x.shape[0] >= MIN_ROWS_MKL
    if dense and not by_mkl and onednn_supports(x, w, b):
        return onednn_linear(x, w, b)
    return F.linear(x, w, _in_dtype(b, w))


def _is_mkl_faster(w: Tensor, rows: int) -> bool:
    """Return True if a step's product with a transposed copy of the weight is faster by MKL than by oneDNN."""
    limit = MAX_ENTRIES_TRANSPOSED if w.mT.is_contiguous() else MAX_ENTRIES_TO_TRANSPOSE
    return IS_MKL_FAST and rows >= MIN_ROWS_MKL and w.numel() <= limit and w.dtype == torch.float32 and w.is_cpu


def _can_prepack_by_mkl(w: Tensor, rows: int) -> bool:
    """Return True if MKL's prepacked product is the fastest."""
    large = rows >= MIN_ROWS_MKL and w.numel() >= MIN_ENTRIES_MKL_PREPACKED
    return HAS_MKL_PREPACKED and IS_MKL_FAST and large and w.dtype == torch.float32 and w.is_cpu and w.is_contiguous()


def prepacked_linear(w: Tensor, b: Tensor | None, rows: int, fixed: bool = False) -> Callable[[Tensor], Tensor]:
    """Return :func:`linear` as a function of x alone, the weight prepacked once for products with so many rows.

    With ``fixed`` no product has another number of rows.
    """
    if fixed and _can_prepack_by_mkl(w, rows):
        by_mkl = mkl_prepack(w, rows)
        return lambda x: mkl_linear(x, by_mkl, w, b, rows)
    if _is_mkl_faster(w, rows):
        transposed = w.mT.contiguous()
        return (lambda x: x @ transposed) if b is None else (lambda x: torch.addmm(b, x, transposed))
    if rows and onednn_supports(w, b):
        packed = onednn_prepack(w, rows)
        return lambda x: onednn_linear(x, packed, b)
    return lambda x: F.linear(x, w, _in_dtype(b, w))


def _in_dtype(b: Tensor | None, w: Tensor) -> Tensor | None:
    """Return a bias in the dtype of a weight: under autocast it may be float32, which only oneDNN's product takes."""
    return None if b is None else b.to(w.dtype)


def prepacked_add(w: Tensor, rows: int, fixed: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of y and x that adds x Wᵀ to y in place, as :func:`prepacked_linear` does."""
    if not (fixed and _can_prepack_by_mkl(w, rows)) and _is_mkl_faster(w, rows):
        transposed = w.mT.contiguous()
        return lambda y, x: torch.addmm(y, x, transposed, out=y)  # which FlopCounterMode counts, addmm_ it does not
    multiply = prepacked_linear(w, None, rows, fixed)
    return lambda y, x: y.add_(multiply(x))


def linear_of_many(x: Tensor, w: Tensor) -> Tensor:
    """Return x Wᵀ for many rows, without a gradient."""
    return x @ transpose(w) if by_tiles(x, len(w)) else linear(x, w)


def by_tiles(x: Tensor, outputs: int) -> bool:
    """Return True if AMX computes a large product, twice as fast where neither factor is a transposed view."""
    return HAS_AMX and x.numel() * outputs >= MIN_FLOPS_AMX and x.dtype == torch.bfloat16 and x.is_cpu


def transpose(w: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the transpose as a tensor of its own, in a dtype, by blocks: up to five times as fast as torch's."""
    rows, columns = w.shape
    result = w.new_empty(columns, rows, dtype=dtype)
    for top in range(0, rows, TRANSPOSED_ROWS):
        part = slice(top, top + TRANSPOSED_ROWS)
        result[:, part] = w[part].mT
    return result


def weight_grad(d: Tensor, x: Tensor) -> Tensor:
    """Return dᵀ x ``(O, I)``, the gradient of a weight, from d ``(N, O)`` and x ``(N, I)``, without a gradient."""
    if by_tiles(x, d.shape[1]):
        return transpose(transpose(x) @ d)
    if IS_MKL_FAST and d.dtype == torch.float32:
        return d.mT @ x
    if d.dtype == torch.float32 and d.shape[1] * x.shape[1] >= MIN_ENTRIES_WEIGHT_GRAD and onednn_supports(d, x):
        return onednn_linear(d.mT, x.contiguous().mT, None)
    return d.mT @ x


def weight_grads(d: Tensor, x: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """Return :func:`weight_grad` of two weights whose inputs, the first of so many features, lie side by side in x.

    Both are float32.
    """
    if by_tiles(x, d.shape[1]):
        product = transpose(x) @ d
        return transpose(product[:features], torch.float32), transpose(product[features:], torch.float32)
    both = weight_grad(d, x)
    return both[:, :features].float(), both[:, features:].float()


def memory_bound_linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Multiply rows by a weight, as ``torch.nn.functional.linear`` does, for few rows and a large weight.

    y = x Wᵀ + b

    In inference with float32 on a CPU a large product is oneDNN's. MKL's, torch's choice there, uses one thread for one
    row on an AMD EPYC, and reads a weight that no cache holds at a third of the memory's rate; on an Intel Xeon it is
    slower from four rows on.

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
        ...     memory_bound_linear(torch.randn(1, 512), w).shape
        torch.Size([1, 2048])
    """
    return onednn_linear(x, w, b) if is_memory_bound(x, w, b) else F.linear(x, w, b)


def is_memory_bound(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """Return True if the product of few rows is faster by oneDNN, and may be its."""
    return (
        not is_recording(x, w, b)
        and x.dim() == w.dim() == 2
        and _is_large(x.shape[0], w.numel())
        and onednn_supports(x, w, b)
        and all(tensor is None or tensor.dtype == torch.float32 for tensor in (x, w, b))
        and not torch.is_autocast_enabled("cpu")
        and not needs_grad(x, w, b)
    )


def _is_large(rows: int, entries: int) -> bool:
    if IS_MKL_FAST:
        return rows >= MIN_ROWS_ONEDNN and entries >= MIN_ENTRIES_ONEDNN
    return rows * entries >= MIN_FLOPS_ONEDNN
