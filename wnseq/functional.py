"""The formula w = g·v/‖v‖, its inverse, and the shapes in which g may lie. No other module divides by a norm."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._torch_internals import HAS_FUSED_WEIGHT_NORM, fused_weight_norm, is_recording
from wnseq.errors import ShapeError

__all__ = [
    "Layout",
    "compose",
    "decompose",
    "decompose_like",
    "direction_norm",
    "exp_weight_norm",
    "log_scale",
    "row_norm",
    "scale_shape",
    "shrinkage",
    "weight_norm",
]

Layout = tuple[int, int]  # output axis of a weight, groups of its first axis


def weight_norm(v: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Compose a weight from its direction and its scale.

    w[j] = g[j] · v[j] / ‖v[j]‖, where j runs over the axis ``dim`` and the norm over all others

    Args:
        v: Direction, with at least one axis. Its length does not change w.
        g: Scale, of shape ``(v.shape[dim],)``, or ``(groups · v.shape[dim],)`` if dim is not 0.
        dim: Output axis, counted from 0. A negative one is refused: torch's weight norm reads -1 as the whole tensor.
        groups: Parts of the first axis, each with outputs of its own, as in a transposed convolution (dim 1). They are
            laid end to end in g. No effect if dim is 0.

    Returns:
        w, of v's shape, dtype and device. A row of zeros in v gives a row of zeros. Half types are reduced in float32.

    Raises:
        ShapeError: g does not have one entry for each output.
        ValueError: ``dim`` is not an axis of v, or the groups do not divide its first axis.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, equation 2.
    """
    _check_layout(v, dim, groups)
    # the kernel has no batching rule and no forward-mode derivative, and a graph would fix the check for rows of zeros
    if dim == 0 and has_kernel(v, g) and not is_recording(v, g):
        w = _fused(v, g)
        if w is not None:
            return w
    parts, square, _ = _square(v, dim, groups)
    if g.shape != square.shape:
        each = f"each index of axis {dim} of v" + (f" in each of {groups} groups" if dim and groups > 1 else "")
        raise ShapeError(
            f"weight_norm: g must have shape {tuple(square.shape)}, one entry for {each}, "
            f"got {tuple(g.shape)}; flatten a column of scales with g.flatten()"
        )
    # A zero row is masked before the root, so that it gives 0 instead of 0/0 in every derivative too.
    scale = g.to(square.dtype) * square.masked_fill(square == 0, 1.0).rsqrt()
    shape = [n if k in (0, dim + 1) else 1 for k, n in enumerate(parts.shape)] if dim else [-1] + [1] * (v.ndim - 1)
    return (parts * scale.view(shape)).reshape(v.shape).to(v.dtype)


def exp_weight_norm(v: Tensor, s: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Compose a weight whose scale is exponential, w = e^s · v/‖v‖; s from :func:`log_scale`, the rest as weight_norm.

    Note:
        The paper found this form no better, and a little slower to optimise.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.1.
    """
    return weight_norm(v, s.exp(), dim, groups)


def log_scale(g: Tensor) -> Tensor:
    """Return s = log g for :func:`exp_weight_norm`; raise ValueError if an entry of g is not greater than zero."""
    refused = int((~(g > 0)).sum())
    if refused:
        raise ValueError(
            f"log_scale: every scale must be greater than 0, got {refused} of {g.numel()} that are not; "
            "move a negative sign into v and leave out rows of zeros, or keep the scale direct with weight_norm"
        )
    return g.log()


def decompose(w: Tensor, dim: int = 0, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Split a weight into a direction and a scale; arguments, shapes and errors as of :func:`weight_norm`.

    v = w and g = ‖w‖; of k entries, the j-th row of zeros has g = 0 and v = e_(j mod k), and so stays trainable

    Returns:
        v and g, new tensors of w's dtype and device.
    """
    g = row_norm(w, dim, groups)
    outer = w  # (out, …)
    if dim:
        outer = w.view(groups, w.shape[0] // groups, *w.shape[1:]).movedim(dim + 1, 1)  # (groups, out / groups, …)
    rows = outer.flatten(0, 1) if dim else outer  # (out, …)
    v = rows.reshape(rows.shape[0], -1) if rows.numel() else rows
    if rows.numel():
        zero = g == 0
        turn = (zero.cumsum(0) - 1).clamp(min=0) % v.shape[1]
        v = torch.where(zero.unsqueeze(1), F.one_hot(turn, v.shape[1]).to(v.dtype), v)
    v = v.view(outer.shape)
    return (v.movedim(1, dim + 1) if dim else v).reshape(w.shape).contiguous(), g


def row_norm(w: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Return ‖w[j]‖ for each output j, of the shape of g and w's dtype; arguments and errors as of weight_norm."""
    _check_layout(w, dim, groups)
    _, square, size = _square(w, dim, groups)
    zero = square == 0
    norm = square.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)
    return (norm if size is None else norm * size).to(w.dtype)


def compose(v: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Compose a weight from a scale of any shape that a checkpoint holds.

    Args:
        v: Direction.
        g: As of :func:`weight_norm`; or with v's axes, all but one of length 1, as torch keeps it: the norm is taken
            over all axes but that one; or of shape ``()``, one scale for the whole weight.
        dim: Output axis of a g with one axis.
        groups: Parts of the first axis, for a g with one axis.

    Raises:
        ShapeError: g has none of these shapes.
    """
    if dim == 0 and g.shape == v.shape[:1]:
        return weight_norm(v, g, dim, groups)
    rows, dim, groups = _along(v, g, dim, groups)
    return weight_norm(rows, g.flatten(), dim, groups).view(v.shape)


def decompose_like(w: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Split a weight into v and a scale of the shape of a given g, whose entries are not read; see :func:`compose`."""
    rows, dim, groups = _along(w, g, dim, groups)
    v, scale = decompose(rows, dim, groups)
    return v.view(w.shape), scale.view(g.shape)


def direction_norm(v: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Return the ‖v‖ by which each entry of g is divided, in g's shape and v's dtype; see :func:`compose`."""
    rows, dim, groups = _along(v, g, dim, groups)
    return row_norm(rows, dim, groups).view(g.shape)


def scale_shape(shape: tuple[int, ...], dim: int | None, output_axis: int = 0, groups: int = 1) -> tuple[int, ...]:
    """Return the shape of g for a weight of a shape.

    Args:
        shape: Shape of the weight.
        dim: Axis along which g lies, counted from 0; None for one scale of the whole weight.
        output_axis: Axis of the outputs, along which g has one axis itself.
        groups: Parts of the first axis, each with outputs of its own, if output_axis is not 0.

    Raises:
        ValueError: ``dim`` is not an axis of the weight.
    """
    if dim is None:
        return ()
    if isinstance(dim, bool) or not isinstance(dim, int) or not 0 <= dim < len(shape):
        raise ValueError(
            f"dim must be an axis of the weight of shape {shape}, counted from 0, or None for one scale of the whole "
            f"weight, got {dim!r}"
        )
    if dim == output_axis and (dim == 0 or groups == 1):
        return (shape[dim],)
    return tuple(length if axis == dim else 1 for axis, length in enumerate(shape))


def shrinkage(norm: Tensor, amount: float) -> Tensor:
    """Return max(0, 1 − amount/norm): by what the proximal step of a group lasso scales groups of these norms."""
    return torch.where(norm > amount, 1 - amount / norm, 0.0)


def _fused(v: Tensor, g: Tensor) -> Tensor | None:
    """Compose by torch's fused kernel; return None if a row is zeros or of a length whose square it cannot hold."""
    w, norms = fused_weight_norm(v, as_column(g, v))
    if not in_kernel_s_range(norms.detach()):
        return None
    if w.grad_fn is not None:  # the kernel's own derivative takes ‖v‖ for a constant when it is differentiated again
        w.grad_fn.register_hook(functools.partial(_differentiable_gradients, v, g))
    return w


def _differentiable_gradients(
    v: Tensor, g: Tensor, from_kernel: tuple[Tensor | None, ...], d_w: tuple[Tensor | None, ...]
) -> Any:
    """Replace the kernel's gradients of v and g if they may be differentiated again."""
    if not torch.is_grad_enabled() or d_w[0] is None:
        return None
    own_ones = gradients(d_w[0], v, g)
    return tuple(None if kernel is None else own for own, kernel in zip(own_ones, from_kernel, strict=True))


def gradients(d_w: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of v and of the column of g, from what has every derivative."""
    norms = as_column(row_norm(v), v)
    unit = v / norms
    d_g = as_column((d_w * unit).reshape(len(v), -1).sum(1), v)
    return as_column(g, v) / norms * (d_w - unit * d_g), d_g


def as_column(g: Tensor, v: Tensor) -> Tensor:
    """Return one entry for each row of v in a shape that multiplies v."""
    return g.view(-1, *[1] * (v.ndim - 1))  # (out, 1, …)


def has_kernel(v: Tensor, g: Tensor) -> bool:
    """Return True if torch's fused kernel takes v and g, whose outputs lie along the first axis."""
    return (  # one pass over memory, ten times as fast; on CUDA the check for zeros would make the host wait
        HAS_FUSED_WEIGHT_NORM
        and holds_values(v)
        and holds_values(g)
        and v.is_cpu
        and g.is_cpu
        and v.dtype in (torch.float32, torch.float64)
        and g.dtype == v.dtype
        and g.shape == v.shape[:1]
        and v.numel() > 0
        and v.is_contiguous()
        and g.is_contiguous()  # it writes the norms in g's own layout
    )


def holds_values(tensor: Tensor) -> bool:
    """Return True if no dispatch is overridden: a fake tensor holds no values, a sharded one not all."""
    return type(tensor) is Tensor or issubclass(type(tensor), torch.nn.Parameter)


def _check_layout(w: Tensor, dim: int, groups: int) -> None:
    if not 0 <= dim < w.ndim:
        raise ValueError(
            f"weight_norm: dim must be an axis of a tensor with {w.ndim} axes, counted from 0, got {dim}; "
            "torch's weight_norm reads dim=-1 as the whole tensor, so no negative axis is taken here"
        )
    if groups < 1 or w.shape[0] % groups:
        raise ValueError(f"weight_norm: groups must divide the first axis of shape {tuple(w.shape)}, got {groups}")


def _square(w: Tensor, dim: int, groups: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return w in parts, ‖w[j]‖² for each output j, and None; in float32 for half types.

    The outputs lie along the first axis of the parts, and along ``dim + 1`` if dim is not 0. Where a square could leave
    the range of the dtype, each row is divided by its largest entry, and those are the last result.
    """
    if not w.is_floating_point():
        raise TypeError(
            f"weight_norm: the weight must be of a real floating-point dtype, got {w.dtype}; convert it, as with "
            "w.float(), or normalise real and imaginary parts by themselves"
        )
    if w.dtype in (torch.float16, torch.bfloat16):
        w = w.float()
    parts = w.view(groups, w.shape[0] // groups, *w.shape[1:]) if dim else w
    square = _sum_of_squares(parts, dim)
    if w.numel() == 0 or (
        holds_values(w) and w.is_cpu and not is_recording(w) and _lies_within(square.detach(), 1e-20, 1e20)
    ):
        return parts, square, None
    others = [axis for axis in range(1, parts.ndim) if axis != dim + 1 or not dim]
    # w does not depend on the length of v, so that no derivative goes through this one
    size = torch.linalg.vector_norm(parts.detach(), math.inf, others, keepdim=True) if others else parts.detach().abs()
    size = size.masked_fill(size < torch.finfo(w.dtype).tiny, 1.0)
    parts = parts / size
    return parts, _sum_of_squares(parts, dim), size.flatten()


def _sum_of_squares(parts: Tensor, dim: int) -> Tensor:
    if dim:
        return parts.square().sum([axis for axis in range(parts.ndim) if axis not in (0, dim + 1)]).flatten()
    rows = parts.reshape(parts.shape[0], parts.numel() // max(parts.shape[0], 1))
    return rows.square().sum(1)  # not a product of matrices, which autocast would compute in half precision


def in_kernel_s_range(norms: Tensor) -> bool:
    """Return True if no row is zeros or of a length whose square the fused kernel cannot hold."""
    return _lies_within(norms, 1e-10, 1e10)


def _lies_within(values: Tensor, least: float, most: float) -> bool:
    low, high = torch.aminmax(values)
    return least < low.item() and high.item() < most


def _along(v: Tensor, g: Tensor, dim: int, groups: int) -> tuple[Tensor, int, int]:
    """View v so that the flattened g has one entry for each of its outputs; return the view and its layout."""
    if g.ndim == 1 and g.shape[0] == v.shape[dim] * (groups if dim else 1):
        return v, dim, groups
    if g.numel() == 1 and g.ndim in (0, v.ndim):  # if torch's axis has length 1, all others are the whole weight
        return v.reshape(1, -1), 0, 1
    long = [axis for axis, length in enumerate(g.shape) if length != 1]
    if g.ndim == v.ndim and len(long) == 1 and g.shape[long[0]] == v.shape[long[0]]:
        return v, long[0], 1
    flat = (v.shape[dim] * (groups if dim else 1),)
    raise ShapeError(
        f"compose: g must have one entry for each index of one axis of v, whose shape is {tuple(v.shape)}: "
        f"{flat}, or v's shape with all axes but one of length 1, or (); got {tuple(g.shape)}"
    )
