"""TODO."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from wnseq.nn._cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.nn._conv import WNConv1d, WNConv2d, WNConvTranspose1d, WNConvTranspose2d
from wnseq.nn._linear import WNLinear
from wnseq.nn._module import WNModule
from wnseq.nn._rnn import WNGRU, WNLSTM, WNRNN

FEEDFORWARD = (WNLinear, WNConv1d, WNConv2d, WNConvTranspose1d, WNConvTranspose2d)


class InitReport(NamedTuple):
    """What an initialisation did; as text, a summary.

    Args:
        changed: Qualified names of the layers that were set.
        kept: Why a weight-normalised layer was left alone, by the layer's qualified name.
        notes: What could not be brought to its target, or how far it came, by the layer's qualified name.
        error: Of the layers set from data: how far, at most, a mean lies from its target and a standard deviation from
            its own, in units of that standard deviation, when the batch goes through once more. What the notes tell of
            is not counted. 0 without data.
    """

    changed: list[str]
    kept: dict[str, str]
    notes: dict[str, str]
    error: float

    def __str__(self) -> str:
        lines = [f"layers initialised: {len(self.changed)}, to within {self.error:.1e}"]
        lines += [f"  {name}" for name in self.changed]
        for label, told in (("layers left alone", self.kept), ("notes", self.notes)):
            if told:
                lines.append(f"{label}: {len(told)}")
                lines += [f"  {name or '(the model itself)'}: {reason}" for name, reason in told.items()]
        return "\n".join(lines)


def find_layers(
    model: nn.Module, scale: float | Mapping[str, float], label: str = "data_init: init_scale", usual: float = 1.0
) -> tuple[list[tuple[str, list[Any], float]], dict[str, str]]:
    """Find the parts to set, as ``(name, modules that share one g, scale)``, and say why others are left alone."""
    names: dict[Any, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, WNModule):
            names.setdefault(module, []).append(name)
    if not names:
        raise ValueError(
            f"{label.partition(':')[0]}: {type(model).__name__} has no weight-normalised layer of wnseq; "
            "convert it first with weight_normalize"
        )
    by_pattern = scale if isinstance(scale, Mapping) else {"*": scale}
    for factor in by_pattern.values():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise ValueError(f"{label} must be a number greater than 0, got {factor!r}")
    known = [name for called in names.values() for name in called]
    for pattern in by_pattern:
        if not any(fnmatchcase(name, pattern) for name in known):
            there = ", ".join(map(repr, known))
            raise ValueError(f"{label}: {pattern!r} fits no weight-normalised layer; there are {there}")
    found: dict[int, tuple[str, list[Any], float]] = {}
    kept: dict[str, str] = {}
    for module, called in names.items():
        factors = [by_pattern[p] for p in by_pattern if any(fnmatchcase(name, p) for name in called)]
        if reason := _why_skipped(module, label.partition(":")[0]):
            kept[called[0]] = reason
            continue
        first_g = id(module.v_and_g(module.weight_names[0])[1])
        found.setdefault(first_g, (called[0], [], float([*factors, usual][0])))[1].append(module)
    return list(found.values()), kept


def _why_skipped(module: Any, label: str) -> str:
    """Say why a weight-normalised module is left alone, or nothing."""
    if not isinstance(module, (*FEEDFORWARD, *RECURRENT, *CELLS)):
        return f"{type(module).__name__} has no pre-activation to set"
    scales = [module.v_and_g(name)[1] for name in module.weight_names]
    if any(hasattr(g, "full_tensor") for g in scales):
        raise ValueError(f"{label}: the parameters are sharded; initialise the model before it is sharded")
    if any(g.ndim > 1 for g in scales):
        return "its g lies along the input axis"
    fixed = scales if isinstance(module, FEEDFORWARD) else list(module.parameters())
    return "" if all(parameter.requires_grad for parameter in fixed) else "its g is frozen"


RECURRENT = (WNRNN, WNLSTM, WNGRU)
CELLS = (WNRNNCell, WNLSTMCell, WNGRUCell)
