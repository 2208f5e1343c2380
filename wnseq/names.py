"""The forms in which a checkpoint spells a weight-normalised weight, and the ways between them.

==============  =====================================================  ==============================
form            keys of the weight ``w``                               shape of g
==============  =====================================================  ==============================
wnseq           ``w_v``, ``w_g``                                       ``(out,)``
plain           ``w``
torch, old      ``w_v``, ``w_g``                                       ``(out, 1)``
torch           ``parametrizations.w.original1``, ``….original0``      ``(out, 1)``
==============  =====================================================  ==============================
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from wnseq.weight_norm import decompose

__all__ = ["stored", "to_wnseq"]


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
