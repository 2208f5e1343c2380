"""Which layers of a model can be converted, and why the others cannot."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from wnseq.convert._counterparts import BY_PLAIN, COUNTERPARTS, empty_like
from wnseq.convert._targets import TargetModules, Targets
from wnseq.nn._arguments import check_bool
from wnseq.nn._module import WNModule
from wnseq.nn._rnn import REGULARISERS
from wnseq.nn._weight_pairs import find_weight_norm, further_parametrizations, plain_class, qualified_name
from wnseq.state_dict import param_names

_CONVERTIBLE = (*BY_PLAIN, nn.RNNBase, nn.RNNCellBase)  # and subclasses, which are left but warned of
_COMPUTED = "computed, as by pruning; make it a plain parameter first"


class ConversionReport(NamedTuple):
    """What :func:`weight_normalize` changes in a model and what it skips; as text, a summary.

    Args:
        changed: Qualified names of the weights, ``encoder.rnn.weight_ih_l0``.
        skipped: Why a module with weights is left as it is, by its qualified name (empty for the model itself).
    """

    changed: list[str]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = [f"weights to convert: {len(self.changed)}", *(f"  {name}" for name in self.changed)]
        if self.skipped:
            lines.append(f"layers skipped: {len(self.skipped)}")
            lines += [f"  {name or '(the model itself)'}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def conversion_report(model: nn.Module, target_modules: Targets = None, *, adopt: bool = False) -> ConversionReport:
    """Return what :func:`weight_normalize` would change, what it would skip and why, without converting.

    Args:
        model: Any module, or a layer itself.
        target_modules: As in :func:`weight_normalize`.
        adopt: As in :func:`weight_normalize`.

    Returns:
        The report, with every layer of any type that has a weight of two or more dimensions.

    Raises:
        TypeError, ValueError: As :func:`weight_normalize`.

    Example:
        >>> import torch
        >>> model = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(9, 3), "rnn": torch.nn.GRU(3, 4)})
        >>> print(conversion_report(model))
        weights to convert: 2
          rnn.weight_ih_l0
          rnn.weight_hh_l0
        layers skipped: 1
          embedding: Embedding is converted only where target_modules names it
    """
    layers, skipped, _ = plan(model, target_modules, adopt)
    return ConversionReport([name for path, layer in layers.items() for name in _weights(path, layer)], skipped)


def parameter_users(model: nn.Module) -> dict[int, list[str]]:
    """Return the qualified names of each parameter, by its id."""
    users: dict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            users[id(parameter)].append(qualified_name(path, name))
    return users


def not_plain(layer: nn.Module, users: Mapping[int, list[str]]) -> str:
    """Return why the weights of a layer of torch, or of a subclass, are not plain parameters of its own, or ""."""
    if find_weight_norm(layer):
        return "has torch's weight normalisation: convert it first, with weight_normalize"
    if any(parameter is not None and is_lazy(parameter) for parameter in layer._parameters.values()):
        return f"{type(layer).__name__} has no weights yet: call the model once first"
    for pair in COUNTERPARTS:
        if isinstance(layer, pair.plain) and (
            reason := changed_parameters(layer, pair.plain, pair.arguments, sized=True)
        ):
            return reason
    return _tied(layer._parameters, users)


def _not_adoptable(module: nn.Module, users: Mapping[int, list[str]]) -> str:
    """Return why v and g of a module with torch's weight norm cannot be those of a layer of wnseq, or ""."""
    cls, found = plain_class(module), find_weight_norm(module)
    if cls not in BY_PLAIN:
        return own_forward(cls) if isinstance(module, _CONVERTIBLE) else _no_counterpart(cls)
    if reason := further_parametrizations(module):
        return reason
    parts = {part: value for name in found for part, value in zip(param_names(name), found[name][:2], strict=True)}
    if computed := [name for name, value in parts.items() if not isinstance(value, nn.Parameter)]:
        return f"{', '.join(computed)}: {_COMPUTED}"
    if others := [name for name in found if not name.startswith("weight")]:
        return f"{', '.join(others)} has torch's weight normalisation: remove it with remove_weight_norm"
    pair = BY_PLAIN[cls]
    return changed_parameters(module, pair.plain, pair.arguments, found) or _tied(module._parameters | parts, users)


def _tied(parameters: Mapping[str, Any], users: Mapping[int, list[str]]) -> str:
    for name, parameter in parameters.items():
        if name.startswith("weight") and len(users[id(parameter)]) > 1:
            return f"{name} is tied: one parameter is {' and '.join(users[id(parameter)])}"
    return ""


def plan(
    model: nn.Module, targets: Targets, adopt: bool
) -> tuple[dict[str, nn.Module], dict[str, str], dict[str, str]]:
    """Return the layers to convert, why others are skipped, and which of those to warn of."""
    check_bool("weight_normalize", "adopt", adopt)
    wanted = TargetModules("weight_normalize", model, targets, BY_PLAIN)
    users = parameter_users(model)
    layers: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    left: dict[str, str] = {}
    for path, module in model.named_modules():
        if not _has_weights(module):
            continue
        hits = wanted.hits(module)
        reason = _why_not(module, users)
        normalized = bool(find_weight_norm(module))
        if isinstance(module, WNModule):
            skipped[path] = reason
        elif wanted.items is not None and not hits:
            skipped[path] = "not in target_modules"
        elif adopt and not normalized:
            skipped[path] = "has no weight normalisation of torch's to adopt"
            wanted.refuse(module, hits, skipped[path])
        elif wanted.items is None and not normalized and isinstance(module, nn.Embedding):
            skipped[path] = f"{type(module).__name__} is converted only where target_modules names it"
        elif reason:
            wanted.refuse(module, hits, reason)
            skipped[path] = reason
            if normalized or isinstance(module, _CONVERTIBLE):
                left[path] = reason
        else:
            layers[path] = module
    wanted.check_found()
    return layers, skipped, left


def _has_weights(module: nn.Module) -> bool:
    if isinstance(module, parametrize.ParametrizationList):  # belongs to the module that it computes a weight of
        return False
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    matrix = any(is_lazy(parameter) or parameter.ndim > 1 for parameter in own)
    return matrix or isinstance(module, (WNModule, *_CONVERTIBLE)) or bool(find_weight_norm(module))


def _weights(path: str, layer: nn.Module) -> list[str]:
    pair = BY_PLAIN[plain_class(layer)]
    return [qualified_name(path, name) for name in empty_like(layer, pair.normalized, pair.arguments).weight_names]


def _why_not(module: nn.Module, users: Mapping[int, list[str]]) -> str:
    """Return why a module with weights cannot be converted, or ""."""
    if isinstance(module, WNModule):
        return "has weight normalisation already"
    if isinstance(module, torch.jit.ScriptModule):
        return "is scripted: convert the model before torch.jit.script"
    if find_weight_norm(module):
        return _not_adoptable(module, users)
    if isinstance(module, _CONVERTIBLE):
        reason = not_plain(module, users)
        if not reason and isinstance(module, nn.Embedding) and module.max_norm is not None and module.norm_type != 2:
            return f"norm_type is {module.norm_type:g}, and max_norm can bound g by the 2-norm only"
        return reason or ("" if type(module) in BY_PLAIN else own_forward(type(module)))
    return _no_counterpart(type(module))


def _no_counterpart(cls: type[nn.Module]) -> str:
    return f"{cls.__name__} has no weight-normalised counterpart"


def own_forward(cls: type[nn.Module]) -> str:
    """Return why a subclass of a layer is skipped."""
    return f"{cls.__name__} is a subclass, whose forward may be its own: convert it by hand"


def changed_parameters(
    module: nn.Module, cls: type[nn.Module], arguments: Iterable[str], but: Collection[str] = (), sized: bool = False
) -> str:
    """Return which parameters of a layer are computed, or with ``sized`` of another shape than its sizes say, or ""."""
    usual = empty_like(module, cls, arguments)._parameters
    needed = {name: value.shape for name, value in usual.items() if value is not None and name not in but}
    if gone := [name for name in needed if module._parameters.get(name) is None]:
        return f"{', '.join(gone)}: {_COMPUTED}"
    other = [name for name, shape in needed.items() if sized and module.get_parameter(name).shape != shape]
    return f"{', '.join(other)}: of another shape than the sizes of the layer say" if other else ""


def without_counterpart(module: nn.Module) -> str:
    """Return what a weight-normalised layer does that torch's cannot, or ""."""
    own = [name for name in REGULARISERS if getattr(module, name, 0)]
    effect = "its evaluation" if any(name.startswith("zoneout") for name in own) else "nothing in evaluation"
    return f"torch.nn has no {', '.join(own)}: set the layer's to 0 first, which changes {effect}" if own else ""
