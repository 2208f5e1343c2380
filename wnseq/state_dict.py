"""The forms in which a checkpoint spells a weight-normalised weight, and the ways between them.

======================  ===================================================  ============
form                    keys of the weight ``w``                             shape of g
======================  ===================================================  ============
wnseq                   ``w_v``, ``w_g``                                     ``(out,)``
plain                   ``w``
torch_hooks             ``w_v``, ``w_g``                                     ``(out, 1)``
torch_parametrizations  ``parametrizations.w.original1``, ``….original0``    ``(out, 1)``
======================  ===================================================  ============

torch's g has the axes of v, all but one of length 1, and so shows along which one it lies. It may be another than the
output axis, as on a transposed convolution by default: such a g keeps its shape in every form.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from wnseq.functional import Layout, compose, decompose, decompose_like

__all__ = ["FORMS", "Form", "convert_keys", "convert_keys_like", "find_halves", "find_pairs", "param_names", "to_wnseq"]

Form = Literal["plain", "wnseq", "torch_hooks", "torch_parametrizations"]
FORMS: tuple[Form, ...] = get_args(Form)
_V_KEYS = re.compile(r"(?P<prefix>(?:.*\.)?)(?:parametrizations\.(?P<torch>[^.]+)\.original1|(?P<name>[^.]+)_v)")
_HALF_KEYS = re.compile(
    r"(?P<stem>(?:.*\.)?(?:parametrizations\.[^.]+\.original|weight(?:_[ih]h)?(?:_l\d+(?:_reverse)?)?_))(?P<end>[01vg])"
)
_OTHER_HALF = {"v": "g", "g": "v", "0": "1", "1": "0"}
_SAME = "like must be a state dict of the same model"


def param_names(name: str) -> tuple[str, str]:
    """Return the names of the v and g in which the weight of a name is stored."""
    return f"{name}_v", f"{name}_g"


def to_wnseq(state_dict: Mapping[str, Any], weights: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Convert the keys of weights from any form to wnseq's; arguments as of :func:`convert_keys`."""
    entries = dict(state_dict)
    for name, (dim, groups) in _layouts(weights).items():
        v_key, g_key = (prefix + part for part in param_names(name))
        plain, (v_original, g_original) = prefix + name, _original_keys(name, prefix)
        if plain in entries:
            entries[v_key], entries[g_key] = decompose(entries.pop(plain), dim, groups)
        elif v_original in entries and g_original in entries:
            entries[v_key], entries[g_key] = entries.pop(v_original), entries.pop(g_original)
        if _lies_along(entries.get(g_key), entries.get(v_key), dim) and (dim == 0 or groups == 1):
            entries[g_key] = entries[g_key].flatten()
    return entries


def convert_keys(state_dict: Mapping[str, Any], weights: Iterable[str], form: Form, prefix: str = "") -> dict[str, Any]:
    """Convert the keys of weights from any form to another.

    Args:
        state_dict: Entries of a checkpoint; not changed.
        weights: Names of the weights, or paths such as ``encoder.weight``. A mapping gives each its layout; otherwise
            the first axis is the output's.
        form: Form to write.
        prefix: Path before each name, with its final dot.

    Returns:
        A new dictionary, with all other keys as they were.

    Raises:
        ValueError: The form is unknown, or is torch's and the scale is of each output of each group.

    Example:
        >>> import torch
        >>> state = torch.nn.LSTM(3, 4, bias=False).state_dict()
        >>> sorted(convert_keys(state, ["weight_hh_l0"], "torch_hooks"))
        ['weight_hh_l0_g', 'weight_hh_l0_v', 'weight_ih_l0']
    """
    if form not in FORMS:
        raise ValueError(f"convert_keys: form must be one of {', '.join(FORMS)}, got {form!r}")
    entries = dict(state_dict)
    for name, (dim, groups) in _layouts(weights).items():
        plain = prefix + name
        if form == "plain" and plain in entries:
            continue  # splitting and composing it again would cost its last bit
        entries = to_wnseq(entries, {name: (dim, groups)}, prefix)
        v_key, g_key = (prefix + part for part in param_names(name))
        if form == "wnseq" or v_key not in entries or g_key not in entries:
            continue
        v, g = entries.pop(v_key), entries.pop(g_key)
        if form == "plain":
            entries[plain] = compose(v, g, dim, groups)
            continue
        if g.ndim == 1:
            if dim and groups > 1:
                raise ValueError(
                    f"convert_keys: {plain} has a scale for each output of each of its {groups} groups, and torch's "
                    "weight norm has no groups; take the form 'plain' or 'wnseq'"
                )
            g = g.view([-1 if axis == dim else 1 for axis in range(v.ndim)])  # (out, 1, …)
        if form == "torch_parametrizations":
            v_key, g_key = _original_keys(name, prefix)
        entries[v_key], entries[g_key] = v, g
    return entries


def find_pairs(state_dict: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the keys of v and g of each weight-normalised weight of a state dict, by the key of the plain weight."""
    found: dict[str, tuple[str, str]] = {}
    for match in filter(None, map(_V_KEYS.fullmatch, state_dict)):
        prefix, name = match["prefix"], match["torch"] or match["name"]
        pair = tuple(prefix + part for part in param_names(name)) if match["name"] else _original_keys(name, prefix)
        v, g = (state_dict.get(key) for key in pair)
        if isinstance(v, Tensor) and isinstance(g, Tensor) and _scales(g, v):
            found[prefix + name] = pair[0], pair[1]
    return found


def find_halves(state_dict: Mapping[str, Any]) -> list[str]:
    """Return the keys of a v or a g of a ``weight`` whose other half is not there, as in a shard of a checkpoint."""
    halves = filter(None, map(_HALF_KEYS.fullmatch, state_dict))
    return [half[0] for half in halves if half["stem"] + _OTHER_HALF[half["end"]] not in state_dict]


def convert_keys_like(
    state_dict: Mapping[str, Any], like: Mapping[str, Any], layouts: Mapping[str, Layout]
) -> dict[str, Any]:
    """Convert the keys of a state dict to the forms that another state dict of the same model has, weight by weight.

    Args:
        state_dict: Entries of a checkpoint, in any mixture of forms; not changed.
        like: The other state dict, of which the keys and the shapes of g count, the values not.
        layouts: Layout of a weight by its key; where there is none, the first axis is the output's.

    Returns:
        A new dictionary in the order of ``like``, then all other keys as they were. A v and g are kept if g lies along
        the axis of the other's; otherwise they are composed, and split along that axis.

    Raises:
        ValueError: A weight of one is absent from the other, or has another shape.
    """
    entries = dict(state_dict)
    ours, theirs = find_pairs(entries), find_pairs(like)
    for key in {**ours, **theirs}:
        source, target = ours.get(key), theirs.get(key)
        sides = (("the model", source, entries), ("like", target, like))
        for where, pair, values in sides:
            if pair is None and key not in values:
                raise ValueError(f"{where} has no weight {key}, in any form; {_SAME}")
        shapes = [tuple(values[pair[0] if pair else key].shape) for _, pair, values in sides]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{key} has shape {shapes[0]} in the model and {shapes[1]} in like; {_SAME}")
        layout = layouts.get(key, (0, 1))
        v, g = (entries.pop(part) for part in source) if source else (None, None)
        if target is None:
            entries[key] = compose(v, g, *layout)  # type: ignore[arg-type]
            continue
        other = like[target[1]]
        if v is None or g is None or _axes(g, v, *layout) != _axes(other, v, *layout):
            v, g = decompose_like(
                entries.pop(key) if v is None or g is None else compose(v, g, *layout), other, *layout
            )
        entries[target[0]], entries[target[1]] = v, g.reshape(other.shape)
    return {key: entries[key] for key in [*(key for key in like if key in entries), *entries]}


def _scales(g: Tensor, v: Tensor) -> bool:
    """Return True if g may be the scale of v: one number, one of each output, or torch's with one long axis."""
    if g.ndim == 1:  # of the first axis, or of each group of the second
        return len(g) in (1, *v.shape[:1]) or (v.ndim > 1 and v.shape[1] > 0 and not len(g) % v.shape[1])
    return g.ndim == 0 or (g.ndim == v.ndim and g.numel() in g.shape)


def _axes(g: Tensor, v: Tensor, dim: int, groups: int) -> list[int]:
    """Return the shape of g as torch would have it, that of a scale of each output of each group as it is."""
    if g.ndim == 1 and (dim == 0 or groups == 1):
        return [len(g) if axis == dim else 1 for axis in range(v.ndim)]
    return list(g.shape)


def _original_keys(name: str, prefix: str) -> tuple[str, str]:
    path, dot, last = f"{prefix}{name}".rpartition(".")  # a name may be a path itself
    original = f"{path}{dot}parametrizations.{last}.original"
    return f"{original}1", f"{original}0"


def _lies_along(g: Any, v: Any, dim: int) -> bool:
    """Return True if g has the axes of v and its entries along ``dim``; if g is of length 1 throughout, v decides."""
    if not isinstance(g, Tensor) or g.ndim <= max(dim, 1) or g.numel() != g.shape[dim]:
        return False
    return not isinstance(v, Tensor) or v.ndim != g.ndim or v.shape[dim] == g.shape[dim]


def _layouts(weights: Iterable[str]) -> Mapping[str, Layout]:
    return weights if isinstance(weights, Mapping) else dict.fromkeys(weights, (0, 1))
