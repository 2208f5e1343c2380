"""Large composed weights in memory that is used again, and the gradient of v in the memory of the gradient of w.

Otherwise each is a new block at each step. glibc hands a freed one back to the kernel, which clears its pages for the
next: two to four times as many page faults as the layers of torch.nn cause.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from wnseq._torch_internals import (
    CAN_REUSE_WEIGHTS,
    fused_weight_norm,
    fused_weight_norm_backward,
    has_memory_alone,
    is_recording,
    is_wrapped,
    needs_grad,
    references,
)
from wnseq.functional import as_column, compose, gradients, has_kernel, holds_values, in_kernel_s_range

MIN_ENTRIES = 2**22  # of a weight whose memory is used again, 16 MB in float32; smaller ones were slower so
BLOCK = 2**20  # entries that are composed at a time and then copied: few calls, and no large block that is freed


class Memory:
    """One composed weight's memory, for the next one of the same shape once nothing else refers to it.

    A graph, a view, an array or another thread that holds a weight keeps its memory from being written.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def take(self, like: Tensor) -> Tensor:
        """Return the memory, or a new tensor of the same shape and dtype; nobody else gets it before :meth:`keep`."""
        try:
            kept = self._kept.pop()  # of several threads one gets it
        except IndexError:
            return torch.empty_like(like)
        fits = holds_values(kept) and kept.shape == like.shape and kept.dtype == like.dtype
        return kept if fits and has_memory_alone(kept) else torch.empty_like(like)

    def keep(self, tensor: Tensor) -> None:
        """Keep a tensor that :meth:`take` returned, instead of an older one."""
        self._kept[:] = [tensor]


def compose_in(memory: Memory, v: Tensor, g: Tensor, dim: int, groups: int) -> Tensor:
    """Compose a weight as :func:`wnseq.functional.compose` does, a large one that has a backward in reused memory."""
    if v.numel() >= MIN_ENTRIES and CAN_REUSE_WEIGHTS and dim == 0 and has_kernel(v, g) and needs_grad(v, g):
        w = None if is_recording(v, g) else _compose_blocks(memory, v, g)
        if w is not None:
            return w
    return compose(v, g, dim, groups)


def _blocks(v: Tensor) -> Iterator[slice]:
    """Yield slices of rows, each of few megabytes."""
    rows = max(1, BLOCK * len(v) // v.numel())
    for first in range(0, len(v), rows):
        yield slice(first, first + rows)


def _compose_blocks(memory: Memory, v: Tensor, g: Tensor) -> Tensor | None:
    """Compose by torch's fused kernel; return None if it cannot hold the norm of a row."""
    w, column = memory.take(v.detach()), as_column(g.detach(), v)
    norms = torch.empty_like(column)
    with torch.no_grad():
        for rows in _blocks(v):
            w[rows], norms[rows] = fused_weight_norm(v[rows], column[rows])
    composed = None
    if in_kernel_s_range(norms):
        composed = _Composed.apply(v, g, [w], norms)  # type: ignore[no-untyped-call]
    memory.keep(w)
    return composed


class _Composed(torch.autograd.Function):
    """A weight that was composed, as a tensor of its own in the same memory."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, g: Tensor, w: list[Tensor], norms: Tensor) -> Tensor:
        ctx.save_for_backward(v, g, norms)
        return w[0].detach()  # which counts a write into either, so that autograd notices one

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> tuple[Tensor | None, ...]:
        v, g, norms = ctx.saved_tensors
        if torch.is_grad_enabled() or is_wrapped(d[0]) or is_recording(*d) or not holds_values(d[0]):
            d_v, d_g = gradients(d[0], v, g)
        else:
            d_v = d[0] if _is_unheld(d) else torch.empty_like(v)
            d_g, column = torch.empty_like(norms), as_column(g, v)
            for rows in _blocks(v):
                part = d[0][rows].contiguous(), v[rows], column[rows], norms[rows]
                d_v[rows], d_g[rows] = fused_weight_norm_backward(*part)
        needed = ctx.needs_input_grad
        return d_v if needed[0] else None, d_g.view(g.shape) if needed[1] else None, None, None


def _is_unheld(d: tuple[Tensor, ...]) -> bool:
    """Return True if a backward may write into its gradient, which nothing else can see."""
    return d[0].is_contiguous() and has_memory_alone(d[0]) and references(d) == _references_if_unheld()


@functools.cache
def _references_if_unheld() -> tuple[int, int]:
    """Count the references to a gradient that its backward alone holds, which differ with the versions."""
    with torch.enable_grad():
        one = torch.ones((), device="cpu", requires_grad=True)
        (_Probe.apply(one) * 1.0).backward()  # type: ignore[no-untyped-call]
    return _Probe.found


class _Probe(torch.autograd.Function):
    """Counts the references to its gradient."""

    found: tuple[int, int]

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> Any:
        _Probe.found = references(d)
        return d
