"""The forms in which a checkpoint spells a weight-normalised weight, and the ways between them.

======================  ===================================================  ============
form                    keys of the weight ``w``                             shape of g
======================  ===================================================  ============
wnseq                   ``w_v``, ``w_g``                                     ``(out,)``
plain                   ``w``
torch_hooks             ``w_v``, ``w_g``                                     ``(out, 1)``
torch_parametrizations  ``parametrizations.w.original1``, ``….original0``    ``(out, 1)``
======================  ===================================================  ============

The last two are what ``torch.nn.utils.weight_norm`` and ``torch.nn.utils.parametrizations.weight_norm`` write. Their g
has the axes of v, all but one of length 1, and so shows along which one it lies: on a transposed convolution, whose
outputs lie along the second axis, torch's default gives ``(in, 1, 1)``, one scale for each input channel. Such a g
keeps its shape in every form.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from wnseq.functional import Layout, compose, decompose

Form = Literal["plain", "wnseq", "torch_hooks", "torch_parametrizations"]
FORMS: tuple[Form, ...] = get_args(Form)


def param_names(name: str) -> tuple[str, str]:
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
        weights: Names of the composed weights to look for. A mapping gives each name its layout, output axis and
            groups; otherwise the outputs lie along the first axis.
        prefix: What stands before each name, with its final dot.

    Returns:
        A new dictionary. Keys that spell none of the weights are kept.
    """
    entries = dict(state_dict)
    for name, (dim, groups) in _layouts(weights).items():
        v_key, g_key = (prefix + part for part in param_names(name))
        plain = prefix + name
        original = f"{prefix}parametrizations.{name}.original"
        if plain in entries:
            entries[v_key], entries[g_key] = decompose(entries.pop(plain), dim, groups)
        elif f"{original}0" in entries and f"{original}1" in entries:
            entries[g_key], entries[v_key] = entries.pop(f"{original}0"), entries.pop(f"{original}1")
        if _lies_along(entries.get(g_key), entries.get(v_key), dim) and (dim == 0 or groups == 1):
            entries[g_key] = entries[g_key].flatten()
    return entries


def convert_keys(state_dict: Mapping[str, Any], weights: Iterable[str], form: Form, prefix: str = "") -> dict[str, Any]:
    """Respell weights of any known form in any other.

    Args:
        state_dict: Entries of a checkpoint; left as they are.
        weights: Names of the composed weights to look for, with their layouts as :func:`to_wnseq` takes them.
        form: The form to write: ``plain``, ``wnseq``, ``torch_hooks`` or ``torch_parametrizations``.
        prefix: What stands before each name, with its final dot.

    Returns:
        A new dictionary. Keys that spell none of the weights are kept.

    Raises:
        ValueError: There is no such form, or torch's forms have no place for a scale of each output of each group.

    Note:
        A plain weight is split along its output axis. A g that lies along another axis, as torch's may, keeps its shape
        in every form that has a g.

    Example:
        >>> import torch
        >>> sorted(respell(torch.nn.LSTM(3, 4, bias=False).state_dict(), ["weight_hh_l0"], "torch_hooks"))
        ['weight_hh_l0_g', 'weight_hh_l0_v', 'weight_ih_l0']
    """
    if form not in FORMS:
        raise ValueError(f"respell: form must be one of {', '.join(FORMS)}, got {form!r}")
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
                    f"respell: {plain} has a scale for each output of each of its {groups} groups, and torch's weight "
                    "norm knows no groups; take the form 'plain' or 'wnseq'"
                )
            g = g.view([-1 if axis == dim else 1 for axis in range(v.ndim)])  # (out, 1, …)
        if form == "torch_parametrizations":
            v_key, g_key = (f"{prefix}parametrizations.{name}.original{k}" for k in (1, 0))
        entries[v_key], entries[g_key] = v, g
    return entries


def _lies_along(g: Any, v: Any, dim: int) -> bool:
    """Tell whether a g with the axes of v has its entries along a given one; of two axes of length 1, v knows."""
    if not isinstance(g, Tensor) or g.ndim <= max(dim, 1) or g.numel() != g.shape[dim]:
        return False
    return not isinstance(v, Tensor) or v.ndim != g.ndim or v.shape[dim] == g.shape[dim]


def _layouts(weights: Iterable[str]) -> Mapping[str, Layout]:
    return weights if isinstance(weights, Mapping) else dict.fromkeys(weights, (0, 1))
