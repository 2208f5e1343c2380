"""The forms in which a checkpoint spells a weight-normalised weight, and the ways between them.

======================  ===================================================  ============
form                    keys of the weight ``w``                             shape of g
======================  ===================================================  ============
wnseq                   ``w_v``, ``w_g``                                     ``(out,)``
plain                   ``w``
torch_hooks             ``w_v``, ``w_g``                                     ``(out, 1)``
torch_parametrizations  ``parametrizations.w.original1``, ``….original0``    ``(out, 1)``
======================  ===================================================  ============

The last two are what ``torch.nn.utils.weight_norm`` and ``torch.nn.utils.parametrizations.weight_norm`` write.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from wnseq.weight_norm import ShapeError, decompose, weight_norm

__all__ = ["FORMS", "Form", "plain_weight", "respell", "stored", "to_wnseq"]

Form = Literal["plain", "wnseq", "torch_hooks", "torch_parametrizations"]
FORMS: tuple[Form, ...] = get_args(Form)


def stored(name: str) -> tuple[str, str]:
    """Name the two parameters in which a composed weight is stored.

    Args:
        name: Name of the composed weight, such as ``weight_ih_l0``.

    Returns:
        The names of v and of g.
    """
    return f"{name}_v", f"{name}_g"


def to_wnseq(state_dict: Mapping[str, Any], weights: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Respell weights of any known form in the form of wnseq.

    Args:
        state_dict: Entries of a checkpoint; left as they are.
        weights: Names of the composed weights to look for.
        prefix: What stands before each name, with its final dot.

    Returns:
        A new dictionary. Keys that spell none of the weights are kept.
    """
    entries = dict(state_dict)
    for name in weights:
        v_key, g_key = (prefix + part for part in stored(name))
        plain = prefix + name
        original = f"{prefix}parametrizations.{name}.original"
        if plain in entries:
            entries[v_key], entries[g_key] = decompose(entries.pop(plain))
        elif f"{original}0" in entries and f"{original}1" in entries:
            entries[g_key], entries[v_key] = entries.pop(f"{original}0"), entries.pop(f"{original}1")
        g = entries.get(g_key)
        if isinstance(g, Tensor) and g.ndim > 1 and g.numel() == g.shape[0]:  # torch keeps the axes of v, of length 1
            entries[g_key] = g.flatten()
    return entries


def respell(state_dict: Mapping[str, Any], weights: Iterable[str], form: Form, prefix: str = "") -> dict[str, Any]:
    """Respell weights of any known form in any other.

    Args:
        state_dict: Entries of a checkpoint; left as they are.
        weights: Names of the composed weights to look for.
        form: The form to write: ``plain``, ``wnseq``, ``torch_hooks`` or ``torch_parametrizations``.
        prefix: What stands before each name, with its final dot.

    Returns:
        A new dictionary. Keys that spell none of the weights are kept.

    Raises:
        ValueError: There is no such form.

    Note:
        A plain weight is split over its first axis. A g that lies along another axis, as torch's may, keeps its shape
        in every form that has a g.

    Example:
        >>> import torch
        >>> sorted(respell(torch.nn.LSTM(3, 4, bias=False).state_dict(), ["weight_hh_l0"], "torch_hooks"))
        ['weight_hh_l0_g', 'weight_hh_l0_v', 'weight_ih_l0']
    """
    if form not in FORMS:
        raise ValueError(f"respell: form must be one of {', '.join(FORMS)}, got {form!r}")
    entries = dict(state_dict)
    for name in weights:
        plain = prefix + name
        if form == "plain" and plain in entries:
            continue  # splitting and composing it again would cost its last bit
        entries = to_wnseq(entries, [name], prefix)
        v_key, g_key = (prefix + part for part in stored(name))
        if form == "wnseq" or v_key not in entries or g_key not in entries:
            continue
        v, g = entries.pop(v_key), entries.pop(g_key)
        if form == "plain":
            entries[plain] = plain_weight(v, g)
            continue
        if g.ndim == 1:
            g = g.view(-1, *[1] * (v.ndim - 1))  # (out, 1, …)
        if form == "torch_parametrizations":
            v_key, g_key = (f"{prefix}parametrizations.{name}.original{k}" for k in (1, 0))
        entries[v_key], entries[g_key] = v, g
    return entries


def plain_weight(v: Tensor, g: Tensor) -> Tensor:
    """Compose a weight whose output axis is read from the shape of g.

    w = g·v/‖v‖, the norm being taken over all axes but the one along which g has its entries.

    Args:
        v: Direction.
        g: Scale, in any of the shapes in which checkpoints keep it.

    Shape:
        - v: any shape with at least one axis
        - g: ``(v.shape[0],)``; or v's with all axes but one of length 1, as torch keeps it; or ``()``, one scale for
          the whole weight

    Returns:
        w, of v's shape, dtype and device.

    Raises:
        ShapeError: g has none of these shapes.
    """
    long = [axis for axis, length in enumerate(g.shape) if length != 1]
    if g.ndim == 1 and g.shape == v.shape[:1]:
        return weight_norm(v, g)
    if g.numel() == 1 and g.ndim in (0, v.ndim):  # where torch's axis has length 1, all others make the whole weight
        return weight_norm(v.reshape(1, -1), g.reshape(1)).view(v.shape)
    if g.ndim == v.ndim and len(long) == 1 and g.shape[long[0]] == v.shape[long[0]]:
        return weight_norm(v, g.flatten(), long[0])
    raise ShapeError(
        f"plain_weight: g must have one entry for each index of one axis of v, whose shape is {tuple(v.shape)}: "
        f"{tuple(v.shape[:1])}, or v's shape with all axes but one of length 1, or (); got {tuple(g.shape)}"
    )
