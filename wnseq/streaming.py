"""The product of few rows with a weight, in which the weight's way from memory takes all the time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.products import by_onednn

__all__ = ["LEAST", "captured", "linear", "records"]

# Multiplications from which on oneDNN is the faster; microseconds of torch's own → oneDNN, on an AMD EPYC with AVX-512:
#   rows × weight       1 thread      2 threads
#   1 × 1536·512        50 → 57
#   1 × 2048·512        60 → 67       58 → 42
#   1 × 2048·1024      115 → 103     111 → 72
#   1 × 10000·650     1253 → 648    1348 → 317
#   4 × 1024·256        51 → 50
#   20 × 512·128        35 → 32
#   20 × 2048·1024    1010 → 518     678 → 290
LEAST = 2**20


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
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
    if not captured() and _large(x, w) and _plain(x, w, b) and not records(x, w, b):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
        return y
    return F.linear(x, w, b)


def captured() -> bool:
    """Tell whether a graph is being captured, in which a shape is no number to decide on."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _large(x: Tensor, w: Tensor) -> bool:
    """Tell whether oneDNN is the faster."""
    return x.dim() == 2 and w.dim() == 2 and x.shape[0] * w.numel() >= LEAST


def _plain(*tensors: Tensor | None) -> bool:
    """Tell whether these are float32 that oneDNN takes, and no one transforms or casts what is done with them."""
    return (
        by_onednn(*tensors)
        and all(tensor is None or tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def records(*tensors: Tensor | None) -> bool:
    """Tell whether there may be a backward through these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
