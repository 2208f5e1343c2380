"""The formula and nothing else: w = g·v/‖v‖, its inverse, and the composition of many weights in one go."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ShapeError", "compose", "decompose", "exp_weight_norm", "log_scale", "norm", "weight_norm"]


class ShapeError(ValueError, RuntimeError):
    """A tensor of the wrong shape: a ValueError, and the RuntimeError that torch raises there."""


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Compose a weight from its direction and its scale.

    w[j] = g[j] · v[j] / ‖v[j]‖, where j runs over the axis ``dim`` and the norm over all the others.

    Args:
        v: Direction. Its length does not change w.
        g: Scale, one entry for each index of ``dim``; ``|g[j]|`` is the norm of w[j].
        dim: The output axis, counted from 0. Negative axes are refused, since ``torch``'s weight norm
            reads ``dim=-1`` as the whole tensor.

    Shape:
        - v: any shape with at least one axis
        - g: ``(v.shape[dim],)``

    Returns:
        w, of v's shape, dtype and device. A row of zeros in v gives a row of zeros. The norm of half types is
        taken in float32.

    Raises:
        ShapeError: g is not one entry for each index of ``dim``.
        ValueError: ``dim`` is not an axis of v.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, equation 2.
    """
    square = _square(v, dim)
    if g.shape != (v.shape[dim],):
        raise ShapeError(
            f"weight_norm: g must have shape {(v.shape[dim],)}, one entry for each index of axis {dim} of v, "
            f"got {tuple(g.shape)}; flatten a column of scales with g.flatten()"
        )
    # A zero row is masked before the root, so that it gives 0 instead of 0/0 in every derivative too.
    scale = g.to(square.dtype) * square.masked_fill(square == 0, 1.0).rsqrt()
    return (v * scale.view([-1 if axis == dim else 1 for axis in range(v.ndim)])).to(v.dtype)


def exp_weight_norm(v: Tensor, s: Tensor, dim: int = 0) -> Tensor:
    """Compose a weight whose scale is exponential, w = e^s · v/‖v‖.

    Args:
        v: Direction, as in :func:`weight_norm`.
        s: Logarithm of the scale, from :func:`log_scale`.
        dim: The output axis, counted from 0.

    Shape:
        - v: any shape with at least one axis
        - s: ``(v.shape[dim],)``

    Returns:
        w, of v's shape, dtype and device.

    Note:
        The paper tried this form and found it no better and a little slower to optimise.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.1.
    """
    return weight_norm(v, s.exp(), dim)


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


def decompose(w: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Split a weight into a direction and a scale that compose to it again.

    v = w and g = ‖w‖ for every row that has a length; the j-th row of zeros gets g = 0 and the unit vector
    e_(j mod k), so that it stays trainable.

    Args:
        w: The weight.
        dim: The output axis, counted from 0.

    Shape:
        - w: any shape with at least one axis, k entries in each row

    Returns:
        v, of w's shape, and g, of shape ``(w.shape[dim],)``; both new tensors of w's dtype and device.

    Raises:
        ValueError: ``dim`` is not an axis of w.

    Example:
        >>> import torch
        >>> v, g = decompose(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> g.tolist(), v.tolist()
        ([5.0, 0.0], [[3.0, 4.0], [1.0, 0.0]])
        >>> weight_norm(v, g).tolist()
        [[3.0, 4.0], [0.0, 0.0]]
    """
    g = norm(w, dim)
    rows = w.detach().movedim(dim, 0)  # (out, …)
    v = rows.reshape(rows.shape[0], -1) if rows.numel() else rows
    if rows.numel():
        zero = g == 0
        turn = (zero.cumsum(0) - 1).clamp(min=0) % v.shape[1]
        v = torch.where(zero.unsqueeze(1), F.one_hot(turn, v.shape[1]).to(v.dtype), v)
    return v.view(rows.shape).movedim(0, dim).contiguous(), g


def norm(w: Tensor, dim: int = 0) -> Tensor:
    """Take the norm of each row of a weight, ‖w[j]‖ over all axes but ``dim``.

    Args:
        w: The weight.
        dim: The output axis, counted from 0.

    Shape:
        - w: any shape with at least one axis

    Returns:
        The norms, of shape ``(w.shape[dim],)`` and of w's dtype; for half types the sum is taken in float32.

    Raises:
        ValueError: ``dim`` is not an axis of w.
    """
    return _square(w, dim).sqrt().to(w.dtype)


def compose(vs: Sequence[Tensor], gs: Sequence[Tensor]) -> list[Tensor]:
    """Compose many weights, each over its first axis, in one go.

    Args:
        vs: Directions.
        gs: Scales, one vector for each direction.

    Shape:
        - vs: each with at least one axis
        - gs: ``(v.shape[0],)`` each

    Returns:
        The weights, in the order given.
    """
    return [weight_norm(v, g) for v, g in zip(vs, gs, strict=True)]


def _square(w: Tensor, dim: int) -> Tensor:
    """Take ‖w[j]‖² over all axes but ``dim``: one entry for each j, in float32 for half types."""
    if not 0 <= dim < w.ndim:
        raise ValueError(
            f"weight_norm: dim must be an axis of a tensor with {w.ndim} axes, counted from 0, got {dim}; "
            "torch's weight_norm reads dim=-1 as the whole tensor, so no negative axis is taken here"
        )
    if w.dtype in (torch.float16, torch.bfloat16):
        w = w.float()
    rows = w.movedim(dim, 0).reshape(w.shape[dim], w.numel() // max(w.shape[dim], 1))
    return rows.square().sum(1)  # not a product of matrices, which autocast would take in half precision
