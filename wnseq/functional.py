"""The formula and nothing else: w = g·v/‖v‖ and its inverse."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from wnseq.errors import ShapeError

_PLAIN = (Tensor, torch.nn.Parameter)  # no subclass: a fake tensor holds no values, a sharded one not all


def weight_norm(v: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Compose a weight from its direction and its scale.

    w[j] = g[j] · v[j] / ‖v[j]‖, where j runs over the axis ``dim`` and the norm over all the others.

    Args:
        v: Direction. Its length does not change w.
        g: Scale, one entry for each index of ``dim``; ``|g[j]|`` is the norm of w[j].
        dim: The output axis, counted from 0. Negative axes are refused, since ``torch``'s weight norm
            reads ``dim=-1`` as the whole tensor.
        groups: Into how many parts the first axis falls, each with outputs of its own, laid end to end in g: a
            transposed convolution, ``dim=1``, has them. It makes no difference where the output axis is the first.

    Shape:
        - v: any shape with at least one axis
        - g: ``(groups · v.shape[dim],)``, or ``(v.shape[0],)`` where dim is 0

    Returns:
        w, of v's shape, dtype and device. A row of zeros in v gives a row of zeros. The norm of half types is
        taken in float32.

    Raises:
        ShapeError: g is not one entry for each output.
        ValueError: ``dim`` is not an axis of v, or the groups do not divide its first one.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, equation 2.
    """
    _check_layout(v, dim, groups)
    if dim == 0 and _has_kernel(v, g) and not _is_recorded():
        w = _fused(v, g)
        if w is not None:
            return w
    square = _square(v, dim, groups)
    if g.shape != square.shape:
        each = f"each index of axis {dim} of v" + (f" in each of {groups} groups" if dim and groups > 1 else "")
        raise ShapeError(
            f"weight_norm: g must have shape {tuple(square.shape)}, one entry for {each}, "
            f"got {tuple(g.shape)}; flatten a column of scales with g.flatten()"
        )
    # A zero row is masked before the root, so that it gives 0 instead of 0/0 in every derivative too.
    scale = g.to(square.dtype) * square.masked_fill(square == 0, 1.0).rsqrt()
    parts, axis = _part(v, dim, groups)
    shape = [n if k in (0, axis) else 1 for k, n in enumerate(parts.shape)] if axis else [-1] + [1] * (v.ndim - 1)
    return (parts * scale.view(shape)).reshape(v.shape).to(v.dtype)


def exp_weight_norm(v: Tensor, s: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Compose a weight whose scale is exponential, w = e^s · v/‖v‖.

    Args:
        v: Direction, as in :func:`weight_norm`.
        s: Logarithm of the scale, from :func:`log_scale`.
        dim: The output axis, counted from 0.
        groups: Parts of the first axis, likewise.

    Shape:
        - v: any shape with at least one axis
        - s: that of g

    Returns:
        w, of v's shape, dtype and device.

    Note:
        The paper tried this form and found it no better and a little slower to optimise.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.1.
    """
    return weight_norm(v, s.exp(), dim, groups)


def log_scale(g: Tensor) -> Tensor:
    """Turn scales into the logarithms that :func:`exp_weight_norm` takes, s = log g.

    Args:
        g: Scales, all greater than zero.

    Shape:
        - g: any shape

    Returns:
        s, of g's shape.

    Raises:
        ValueError: g has an entry that is zero, negative or not a number: no s gives it.
    """
    refused = int((~(g > 0)).sum())
    if refused:
        raise ValueError(
            f"log_scale: every scale must be greater than 0, got {refused} of {g.numel()} that are not; "
            "move a negative sign into v and leave out rows of zeros, or keep the scale direct with weight_norm"
        )
    return g.log()


def decompose(w: Tensor, dim: int = 0, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Split a weight into a direction and a scale that compose to it again.

    v = w and g = ‖w‖ for every row that has a length; the j-th row of zeros gets g = 0 and the unit vector
    e_(j mod k), so that it stays trainable.

    Args:
        w: The weight.
        dim: The output axis, counted from 0.
        groups: Parts of the first axis, as in :func:`weight_norm`.

    Shape:
        - w: any shape with at least one axis, k entries in each row

    Returns:
        v, of w's shape, and g, of the shape that :func:`weight_norm` takes; both new tensors of w's dtype and device.

    Raises:
        ValueError: ``dim`` is not an axis of w, or the groups do not divide its first one.

    Example:
        >>> import torch
        >>> v, g = decompose(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> g.tolist(), v.tolist()
        ([5.0, 0.0], [[3.0, 4.0], [1.0, 0.0]])
        >>> weight_norm(v, g).tolist()
        [[3.0, 4.0], [0.0, 0.0]]
    """
    g = norm(w, dim, groups)
    parts, axis = _part(w.detach(), dim, groups)
    outer = parts.movedim(axis, 1) if axis else parts  # (groups, out / groups, …), or (out, …)
    rows = outer.flatten(0, 1) if axis else outer  # (out, …)
    v = rows.reshape(rows.shape[0], -1) if rows.numel() else rows
    if rows.numel():
        zero = g == 0
        turn = (zero.cumsum(0) - 1).clamp(min=0) % v.shape[1]
        v = torch.where(zero.unsqueeze(1), F.one_hot(turn, v.shape[1]).to(v.dtype), v)
    v = v.view(outer.shape)
    return (v.movedim(1, axis) if axis else v).reshape(w.shape).contiguous(), g


def norm(w: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Take the norm of each row of a weight, ‖w[j]‖ over all axes but ``dim``.

    Args:
        w: The weight.
        dim: The output axis, counted from 0.
        groups: Parts of the first axis, as in :func:`weight_norm`.

    Shape:
        - w: any shape with at least one axis

    Returns:
        The norms, of the shape of g and of w's dtype; for half types the sum is taken in float32.

    Raises:
        ValueError: ``dim`` is not an axis of w, or the groups do not divide its first one.
    """
    _check_layout(w, dim, groups)
    return _square(w, dim, groups).sqrt().to(w.dtype)


def _fused(v: Tensor, g: Tensor) -> Tensor | None:
    """Compose by torch's kernel; None where a row of zeros makes it divide by zero.

    Torch's derivative of the kernel is the fastest there is, since no Python runs in it, but takes ‖v‖ for a constant
    when it is differentiated itself. So where that is asked for, a hook puts ours in the place of its results.
    """
    w, norms = torch._weight_norm_interface(v, g.view(-1, *[1] * (v.ndim - 1)), 0)
    if int(norms.count_nonzero()) < len(v):
        return None
    if w.grad_fn is not None:
        w.grad_fn.register_hook(functools.partial(_replace, v, g))
    return w


def _replace(v: Tensor, g: Tensor, found: tuple[Tensor | None, ...], d_w: tuple[Tensor, ...]) -> Any:
    """Give the gradients of v and g, those that were asked for, if they may be differentiated in their turn."""
    if not torch.is_grad_enabled():
        return None
    d_v, d_g = _gradients(d_w[0], v, g)
    ours = (d_v, d_g.view(-1, *[1] * (v.ndim - 1)))
    return tuple(None if theirs is None else our for our, theirs in zip(ours, found, strict=True))


def _gradients(d_w: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Take the gradients of v and g in a way that can be differentiated again."""
    column = [-1] + [1] * (v.ndim - 1)
    square = _square(v, 0, 1)
    norms = square.masked_fill(square == 0, 1.0).sqrt().view(column)
    unit = v / norms
    d_g = (d_w * unit).reshape(len(v), -1).sum(1)
    return g.view(column) / norms * (d_w - unit * d_g.view(column)), d_g


def _is_recorded() -> bool:
    """Tell whether something is at work that the fused kernel has no rule for.

    It has neither a batching rule nor a forward-mode derivative, and what captures graphs would take the check for rows
    of zeros for a constant.
    """
    return bool(
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _has_kernel(v: Tensor, g: Tensor) -> bool:
    """Tell whether torch's fused kernel takes a pair whose outputs lie along the first axis.

    It reads and writes each entry once, forward and backward. Both together take 0.4 ms at 2600×650 on two cores, and
    the formula, operation by operation, 4.8 ms. On CUDA the check for rows of zeros would make the host wait.
    """
    return (
        type(v) in _PLAIN
        and type(g) in _PLAIN
        and v.is_cpu
        and g.is_cpu
        and v.dtype in (torch.float32, torch.float64)
        and g.dtype == v.dtype
        and g.shape == v.shape[:1]
        and v.numel() > 0
        and v.is_contiguous()
    )


def _check_layout(w: Tensor, dim: int, groups: int) -> None:
    if not 0 <= dim < w.ndim:
        raise ValueError(
            f"weight_norm: dim must be an axis of a tensor with {w.ndim} axes, counted from 0, got {dim}; "
            "torch's weight_norm reads dim=-1 as the whole tensor, so no negative axis is taken here"
        )
    if groups < 1 or w.shape[0] % groups:
        raise ValueError(f"weight_norm: groups must divide the first axis of shape {tuple(w.shape)}, got {groups}")


def _square(w: Tensor, dim: int, groups: int) -> Tensor:
    """Take ‖w[j]‖² over all axes but ``dim``: one entry for each j of each group, in float32 for half types."""
    if w.dtype in (torch.float16, torch.bfloat16):
        w = w.float()
    parts, axis = _part(w, dim, groups)
    if axis:
        return parts.square().sum([k for k in range(parts.ndim) if k not in (0, axis)]).flatten()
    rows = w.reshape(w.shape[0], w.numel() // max(w.shape[0], 1))
    return rows.square().sum(1)  # not a product of matrices, which autocast would take in half precision


def _part(w: Tensor, dim: int, groups: int) -> tuple[Tensor, int]:
    """View a weight so that its outputs lie along the first axis and the one returned, or along the first alone."""
    if dim == 0:
        return w, 0
    return w.view(groups, w.shape[0] // groups, *w.shape[1:]), dim + 1


Layout = tuple[int, int]  # output axis of a weight, groups of its first axis


def compose(v: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Compose a weight whose scale may lie along an axis of its own, read from the shape of g.

    w = g·v/‖v‖, the norm being taken over all axes but the one along which g has its entries.

    Args:
        v: Direction.
        g: Scale, in any of the shapes in which checkpoints keep it.
        dim: Output axis, along which a g of one axis lies.
        groups: Parts of the first axis, each with outputs of its own.

    Shape:
        - v: any shape with at least one axis
        - g: as :func:`wnseq.functional` takes it; or v's with all axes but one of length 1, as torch keeps it; or
          ``()``, one scale for the whole weight

    Returns:
        w, of v's shape, dtype and device.

    Raises:
        ShapeError: g has none of these shapes.
    """
    if dim == 0 and g.shape == v.shape[:1]:
        return weight_norm(v, g, dim, groups)
    rows, dim, groups = _along(v, g, dim, groups)
    return weight_norm(rows, g.flatten(), dim, groups).view(v.shape)


def decompose_like(w: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Split a weight into a direction and a scale that lies as another one does.

    Args:
        w: The weight.
        g: A scale in one of the shapes that :func:`plain_weight` takes; its entries are not read.
        dim: Output axis, along which a g of one axis lies.
        groups: Parts of the first axis, each with outputs of its own.

    Shape:
        - w: any shape with at least one axis
        - g: as in :func:`plain_weight`

    Returns:
        v, of w's shape, and its scale, of g's.

    Raises:
        ShapeError: g has none of the shapes that :func:`plain_weight` takes.
    """
    rows, dim, groups = _along(w, g, dim, groups)
    v, scale = decompose(rows, dim, groups)
    return v.view(w.shape), scale.view(g.shape)


def direction_norm(v: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Take the norms ‖v‖ that stand below a scale, one for each of its entries.

    Args:
        v: Direction.
        g: Its scale, in one of the shapes that :func:`plain_weight` takes; its entries are not read.
        dim: Output axis, along which a g of one axis lies.
        groups: Parts of the first axis, each with outputs of its own.

    Shape:
        - v and g: as in :func:`plain_weight`

    Returns:
        The norms, of g's shape and v's dtype.

    Raises:
        ShapeError: g has none of the shapes that :func:`plain_weight` takes.
    """
    rows, dim, groups = _along(v, g, dim, groups)
    return norm(rows, dim, groups).view(g.shape)


def _along(v: Tensor, g: Tensor, dim: int, groups: int) -> tuple[Tensor, int, int]:
    """View v so that the entries of g, laid flat, are the scales of its outputs; the layout of the view."""
    if g.ndim == 1 and g.shape[0] == v.shape[dim] * (groups if dim else 1):
        return v, dim, groups
    if g.numel() == 1 and g.ndim in (0, v.ndim):  # where torch's axis has length 1, all others make the whole weight
        return v.reshape(1, -1), 0, 1
    long = [axis for axis, length in enumerate(g.shape) if length != 1]
    if g.ndim == v.ndim and len(long) == 1 and g.shape[long[0]] == v.shape[long[0]]:
        return v, long[0], 1
    flat = (v.shape[dim] * (groups if dim else 1),)
    raise ShapeError(
        f"plain_weight: g must have one entry for each index of one axis of v, whose shape is {tuple(v.shape)}: "
        f"{flat}, or v's shape with all axes but one of length 1, or (); got {tuple(g.shape)}"
    )
