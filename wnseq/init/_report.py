"""The layers of a model that an initialisation sets, and its report."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import nn

from wnseq.convert._counterparts import COUNTERPARTS, normalized_layer
from wnseq.convert._report import not_plain, parameter_users
from wnseq.nn._cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.nn._conv import WNConv1d, WNConv2d, WNConv3d, WNConvTranspose1d, WNConvTranspose2d, WNConvTranspose3d
from wnseq.nn._linear import WNLinear
from wnseq.nn._module import WNModule
from wnseq.nn._rnn import WNGRU, WNLSTM, WNRNN

FEEDFORWARD = (
    WNLinear,
    WNConv1d,
    WNConv2d,
    WNConv3d,
    WNConvTranspose1d,
    WNConvTranspose2d,
    WNConvTranspose3d,
)
RECURRENT = (WNRNN, WNLSTM, WNGRU)
CELLS = (WNRNNCell, WNLSTMCell, WNGRUCell)
_PLAIN = tuple(pair.plain for pair in COUNTERPARTS if issubclass(pair.normalized, (*FEEDFORWARD, *RECURRENT, *CELLS)))


class InitReport(NamedTuple):
    """What an initialisation did; as text, a summary.

    Args:
        changed: Qualified names of the layers that were set.
        skipped: Why a layer was left as it was, by its qualified name.
        notes: What could not be brought to its target, or how far it came, by the layer's qualified name.
        error: With data, the largest error of a mean or a standard deviation when the batch goes through once more, in
            units of the target's standard deviation, without what the notes report. 0 without data.
    """

    changed: list[str]
    skipped: dict[str, str]
    notes: dict[str, str]
    error: float

    def __str__(self) -> str:
        lines = [f"layers initialised: {len(self.changed)}, to within {self.error:.1e}"]
        lines += [f"  {name}" for name in self.changed]
        for label, part in (("layers skipped", self.skipped), ("notes", self.notes)):
            if part:
                lines.append(f"{label}: {len(part)}")
                lines += [f"  {name or '(the model itself)'}: {text}" for name, text in part.items()]
        return "\n".join(lines)


class LayerGroup(NamedTuple):
    """Layers that share one g and are set as one; a plain layer is set by way of a weight-normalised copy."""

    name: str
    modules: list[Any]  # that the model calls
    normalized: list[Any]  # these, or the copies of plain ones
    scale: float

    def write_back(self) -> None:
        """Write the weights of the copies to the plain layers, whose biases they share; the others are initialised."""
        for module, copy in zip(self.modules, self.normalized, strict=True):
            copy.accept_v_and_g()
            for name in copy.weight_names if module is not copy else ():
                module.get_parameter(name).copy_(getattr(copy, name))
        torch.clear_autocast_cache()  # which has the values before in a lower precision


def find_layers(
    model: nn.Module, scale: float | Mapping[str, float], label: str, default: float
) -> tuple[list[LayerGroup], dict[str, str]]:
    """Return the layers to set, weight-normalised or, where none is, plain, and why others are skipped."""
    function = label.partition(":")[0]
    plain = not any(isinstance(module, WNModule) for module in model.modules())
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _PLAIN if plain else WNModule):
            names.setdefault(module, []).append(name)
    if not names:
        raise ValueError(
            f"{function}: {type(model).__name__} has no layer to initialise, neither a weight-normalised one of wnseq "
            "nor one that weight_normalize converts"
        )
    by_pattern = _check_scales(scale, label, [name for called in names.values() for name in called])
    users = parameter_users(model)
    found: dict[int, LayerGroup] = {}
    skipped: dict[str, str] = {}
    for module, called in names.items():
        if any(hasattr(parameter, "full_tensor") for parameter in module.parameters(recurse=False)):
            raise ValueError(f"{function}: the parameters are sharded; initialise the model before it is sharded")
        reason = not_plain(module, users) if plain else ""
        layer: Any = normalized_layer(module) if plain and not reason else module
        if reason := reason or _why_skipped(layer, "weight" if plain else "g"):
            skipped[called[0]] = reason
            continue
        factors = [by_pattern[p] for p in by_pattern if any(fnmatchcase(name, p) for name in called)]
        first_g = id(layer.v_and_g(layer.weight_names[0])[1])
        group = found.setdefault(first_g, LayerGroup(called[0], [], [], float([*factors, default][0])))
        group.modules.append(module)
        group.normalized.append(layer)
    return list(found.values()), skipped


def _check_scales(scale: float | Mapping[str, float], label: str, names: list[str]) -> Mapping[str, float]:
    """Return the scales by patterns of names, each of which fits a layer."""
    by_pattern = scale if isinstance(scale, Mapping) else {"*": scale}
    for factor in by_pattern.values():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise ValueError(f"{label} must be a number greater than 0, got {factor!r}")
        if factor > 1e30:
            raise ValueError(f"{label} must be at most 1e30, got {factor!r}")
    for pattern in by_pattern:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"{label}: {pattern!r} fits no layer; there are {', '.join(map(repr, names))}")
    return by_pattern


def _why_skipped(layer: Any, scale: str) -> str:
    """Return why a weight-normalised layer cannot be set, or ""; ``scale`` is the name of what is frozen."""
    if not isinstance(layer, (*FEEDFORWARD, *RECURRENT, *CELLS)):
        return f"{type(layer).__name__} has no pre-activation to set"
    if computed := layer.computed_v_and_g():
        return f"its {computed[0]} is computed, by pruning or a parametrisation"
    scales = [layer.v_and_g(name)[1] for name in layer.weight_names]
    if any(g.ndim != 1 for g in scales):
        return "its g does not lie along the output axis"
    fixed = scales if isinstance(layer, FEEDFORWARD) else list(layer.parameters())
    return "" if all(parameter.requires_grad for parameter in fixed) else f"its {scale} is frozen"
