"""TODO."""

import torch
from torch import Tensor


def is_tracing() -> bool:
    """Tell whether a graph is being captured, in which a shape is no number to decide on."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def needs_grad(*tensors: Tensor | None) -> bool:
    """Tell whether there may be a backward through these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
