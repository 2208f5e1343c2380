"""From torch.nn to weight normalisation and back."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wnseq.functional import compose
from wnseq.nn._cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.nn._conv import WNConv1d, WNConv2d, WNConvTranspose1d, WNConvTranspose2d
from wnseq.nn._linear import WNLinear
from wnseq.nn._module import WNModule
from wnseq.nn._plain_rnn import GRU, LSTM
from wnseq.nn._rnn import WNGRU, WNLSTM, WNRNN
from wnseq.nn._weight_pairs import (
    WeightNormParams,
    find_weight_norm,
    further_parametrizations,
    is_torch_hook,
    qualified_name,
)
from wnseq.state_dict import Form, convert_keys, param_names, to_wnseq


class _Counterparts(NamedTuple):
    """A layer of torch, ours, and the constructor's arguments, all of them attributes of both."""

    plain: type[nn.Module]
    ours: type[WNModule]
    arguments: tuple[str, ...]


_CELL = ("input_size", "hidden_size", "bias")
_LAYER = (*_CELL, "num_layers", "batch_first", "bidirectional")
_CHANNELS = ("in_channels", "out_channels", "groups", "bias")
_CONV = (*_CHANNELS, "kernel_size", "stride", "padding", "dilation", "padding_mode")
_COUNTERPARTS = (
    _Counterparts(nn.Linear, WNLinear, ("in_features", "out_features", "bias")),
    _Counterparts(nn.Conv1d, WNConv1d, _CONV),
    _Counterparts(nn.Conv2d, WNConv2d, _CONV),
    _Counterparts(nn.ConvTranspose1d, WNConvTranspose1d, (*_CONV, "output_padding")),
    _Counterparts(nn.ConvTranspose2d, WNConvTranspose2d, (*_CONV, "output_padding")),
    _Counterparts(nn.RNN, WNRNN, (*_LAYER, "nonlinearity")),
    _Counterparts(nn.LSTM, WNLSTM, (*_LAYER, "proj_size")),
    _Counterparts(nn.GRU, WNGRU, _LAYER),
    _Counterparts(nn.RNNCell, WNRNNCell, (*_CELL, "nonlinearity")),
    _Counterparts(nn.LSTMCell, WNLSTMCell, _CELL),
    _Counterparts(nn.GRUCell, WNGRUCell, _CELL),
)
_BY_PLAIN: dict[type, _Counterparts] = {twins.plain: twins for twins in _COUNTERPARTS}
_BY_PLAIN |= {LSTM: _BY_PLAIN[nn.LSTM], GRU: _BY_PLAIN[nn.GRU]}
_BY_WNSEQ: dict[type, _Counterparts] = {twins.ours: twins for twins in _COUNTERPARTS}
_BASES: tuple[type[nn.Module], ...] = (
    *_BY_PLAIN,
    nn.RNNBase,
    nn.RNNCellBase,
)  # what looks like a layer that could be converted
_HOOKS = [name for name in vars(nn.Module()) if name.startswith(("_forward_", "_backward_", "_is_full_backward_"))]


class ConversionReport(NamedTuple):
    """What a conversion made; as text, a summary.

    Args:
        model: The converted model, a new one.
        changed: Qualified names of the weights that changed their form, ``encoder.rnn.weight_ih_l0``.
        kept: Why a module was left alone, by the module's qualified name (empty for the model itself).
    """

    model: nn.Module
    changed: list[str]
    kept: dict[str, str]

    def __str__(self) -> str:
        lines = [f"weights converted: {len(self.changed)}"]
        lines += [f"  {name}" for name in self.changed]
        if self.kept:
            lines.append(f"modules left alone: {len(self.kept)}")
            lines += [f"  {name or '(the model itself)'}: {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines)


def weight_normalize(model: nn.Module, only: str | type | Iterable[str | type] | None = None) -> ConversionReport:
    """Replace the layers of a model by weight-normalised ones that compute the same function.

    Every ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d``, ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d``, ``nn.RNN``,
    ``nn.LSTM``, ``nn.GRU`` and cell, however deep, becomes its twin of this library with v = w and g = ‖w‖; so do
    ``wnseq.LSTM`` and ``wnseq.GRU``. The caller's model is left as it is; whatever the new one does not replace is a
    deep copy.

    Args:
        model: Any module, or a layer itself.
        only: Which layers: qualified names, ``*`` and ``?`` standing for any text and any letter, or classes of those,
            or several of either: ``only=nn.LSTM``. By default all.

    Returns:
        The new model, the names of the weights that now have a v and a g, and what was left alone and why: layers that
        ``only`` does not ask for, that have weight normalisation already, whose class is a subclass with a forward that
        may be its own, whose weights are tied to another module's, such as an embedding's, or are computed (pruned,
        parametrised).

    Raises:
        TypeError: ``only`` holds a class that has no twin, or something that is neither class nor name.
        ValueError: A name in ``only`` matches no layer that has a twin.

    Note:
        A module used at several places stays one module; tied biases stay tied. Device, dtype, training flag,
        requires_grad, forward and backward hooks, and what a user attached to a layer are kept. Hooks on the state dict
        are dropped, since its keys change; so are gradients. The random generators are not used.

    Example:
        >>> import torch
        >>> model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "out": torch.nn.Linear(4, 2)})
        >>> converted = weight_normalize(model)
        >>> print(converted)
        weights converted: 3
          rnn.weight_ih_l0
          rnn.weight_hh_l0
          out.weight
        >>> type(converted.model["rnn"]).__name__
        'WNGRU'
    """
    asked = _TargetModules(only)
    users: dict[int, list[str]] = defaultdict(list)  # of each parameter, by qualified name
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            users[id(parameter)].append(qualified_name(path, name))
    aliases: dict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules(remove_duplicate=False):
        aliases[id(module)].append(path)

    copies = _Copies(model)
    changed: list[str] = []
    kept: dict[str, str] = {}
    for path, module in model.named_modules():
        if isinstance(module, WNModule):
            kept[path] = "has weight normalisation already"
        elif isinstance(module, _BASES):
            ask = asked.asks(type(module), aliases[id(module)])
            twins = _BY_PLAIN.get(type(module))
            reason = _why_not(module, twins, users) if ask else "not asked for by only"
            if twins is None or reason:
                kept[path] = reason
                continue
            ours = copies.start(module, twins, twins.ours)
            changed += [qualified_name(path, name) for name in ours.weight_names]
    asked.check()

    for module, ours, twins in copies.started:
        with torch.no_grad():
            entries = to_wnseq(module._parameters, ours.layouts)
        for name in ours.weight_names:
            for part in param_names(name):
                entries[part] = nn.Parameter(entries[part], requires_grad=module.get_parameter(name).requires_grad)
        copies.fill(module, ours, twins, entries)
    return ConversionReport(copies.of(model), changed, kept)


def remove_weight_norm(model: nn.Module) -> ConversionReport:
    """Multiply weight normalisation out: back to plain ``torch.nn`` modules that compute the same function.

    Our layers and cells become their twins of ``torch.nn``. On any other module the weight normalisation of torch, in
    both its spellings (``nn.utils.weight_norm`` and ``nn.utils.parametrizations.weight_norm``), is removed; the axis of
    its norm is read from the shape of g. The caller's model is left as it is; the new one is otherwise a deep copy.

    Args:
        model: Any module, or a weight-normalised layer itself.

    Returns:
        The new model, the names of the weights that were folded, and what was left alone and why: subclasses of our
        layers, and modules with further parametrisations.

    Note:
        A module used at several places stays one module, and two weights made of the same v and g one weight; a v that
        is shared without its g gives two weights that are free of each other. A folded weight requires grad if its v or
        its g does. Hooks, device, dtype and training flag are kept as by :func:`weight_normalize`. The result of
        folding torch's weight norm can be pickled, deep-copied and trained. A row of v that is zero gives a row of
        zeros, where torch gives NaN.

    Example:
        >>> import torch
        >>> conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.ConvTranspose1d(3, 4, 5), dim=1)
        >>> plain, changed, kept = fold(torch.nn.Sequential(conv))
        >>> plain, changed
        (Sequential(
          (0): ConvTranspose1d(3, 4, kernel_size=(5,), stride=(1,))
        ), ['0.weight'])
    """
    copies = _Copies(model)
    theirs: list[tuple[nn.Module, nn.Module, dict[str, WeightNormParams]]] = []
    changed: list[str] = []
    kept: dict[str, str] = {}
    for path, module in model.named_modules():
        if twins := _BY_WNSEQ.get(type(module)):
            if reason := _computed(module, twins):
                kept[path] = reason
                continue
            copies.start(module, twins, twins.plain)
            changed += [qualified_name(path, name) for name in find_weight_norm(module)]
        elif isinstance(module, WNModule):
            kept[path] = f"{type(module).__name__} is a subclass, whose forward may be its own: fold it by hand"
        elif reason := further_parametrizations(module):
            kept[path] = reason
        elif pairs := find_weight_norm(module):
            cls: Any = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
            plain: nn.Module = cls.__new__(cls)  # without a constructor, whose arguments nobody knows
            copies.memo[id(module)] = plain
            theirs.append((module, plain, pairs))
            changed += [qualified_name(path, name) for name in pairs]

    weights: dict[tuple[int, int], nn.Parameter] = {}  # so that a shared pair makes a shared weight

    def folded(pairs: Mapping[str, WeightNormParams]) -> dict[str, Any]:
        with torch.no_grad():
            for v, g, layout in pairs.values():
                if (id(v), id(g)) not in weights:
                    grad = v.requires_grad or g.requires_grad
                    weights[id(v), id(g)] = nn.Parameter(compose(v, g, *layout), requires_grad=grad)
        return {name: weights[id(pair.v), id(pair.g)] for name, pair in pairs.items()}

    for module, plain, twins in copies.started:
        pairs = find_weight_norm(module)
        spelled = {part for name in pairs for part in param_names(name)}
        rest = {name: value for name, value in module._parameters.items() if name not in spelled}
        copies.fill(module, plain, twins, {**rest, **folded(pairs)})
    for module, plain, pairs in theirs:
        _without_torch_weight_norm(module, plain, pairs, folded(pairs), copies.memo)
    return ConversionReport(copies.of(model), changed, kept)


def state_dict_as(model: nn.Module, form: Form) -> dict[str, Any]:
    """Take the state of a whole model with its weight-normalised weights spelled in a given form.

    Args:
        model: Any module. Its weight-normalised weights, ours and torch's, are the ones respelled.
        form: ``plain``, ``wnseq``, ``torch_hooks`` or ``torch_parametrizations``.

    Returns:
        What ``state_dict()`` gives, with other keys. ``plain`` loads into the model that was never weight-normalised.

    Raises:
        ValueError: There is no such form, or torch's have no place for a scale of each output of each group.

    Note:
        The other way needs no function: our modules load every form.

    Example:
        >>> import torch
        >>> torch.nn.LSTM(3, 4).load_state_dict(state_dict_as(WNLSTM(3, 4), "plain"))
        <All keys matched successfully>
    """
    entries = model.state_dict()
    for path, module in model.named_modules(remove_duplicate=False):  # a shared module has keys at each of its places
        layouts = {name: pair.layout for name, pair in find_weight_norm(module).items()}
        entries = convert_keys(entries, layouts, form, qualified_name(path, ""))
    return entries


class _TargetModules:
    """The choice of layers: by class or by a pattern of names, and whether each pattern found one."""

    def __init__(self, only: str | type | Iterable[str | type] | None) -> None:
        items = None if only is None else [only] if isinstance(only, str | type) else list(only)
        for item in items or ():
            if isinstance(item, type) and item not in _BY_PLAIN:
                known = ", ".join(f"nn.{cls.__name__}" for cls in _BY_PLAIN)
                raise TypeError(f"weight_normalize: only takes the classes {known}, got {item.__name__}")
            if not isinstance(item, str | type):
                raise TypeError(f"weight_normalize: only takes names and classes, got {type(item).__name__}")
        self.items = items
        self.found: set[str | type] = set()
        self.names: list[str] = []

    def asks(self, cls: type, names: list[str]) -> bool:
        self.names += names
        if self.items is None:
            return True
        hits = {
            item
            for item in self.items
            if item is cls or (isinstance(item, str) and any(fnmatchcase(name, item) for name in names))
        }
        self.found |= hits
        return bool(hits)

    def check(self) -> None:
        for item in self.items or ():
            if isinstance(item, str) and item not in self.found:
                raise ValueError(
                    f"weight_normalize: only={item!r} matches no layer of the model that has a twin; "
                    f"there are {', '.join(map(repr, self.names)) or 'none'}"
                )


class _Copies:
    """The new modules of a conversion, and the deep copy that puts them in the place of the old ones.

    An empty new module stands in the memo of ``copy.deepcopy`` from the start, so that wherever the copy meets the old
    one, in an attribute, a list, a closure of a hook or twice, it takes the new one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.memo: dict[int, Any] = {}
        self.started: list[tuple[nn.Module, Any, _Counterparts]] = []
        for module in model.modules():
            for name, value in vars(module).items():
                sources = (param_names(name)[0], f"{name}_orig")
                if isinstance(value, Tensor) and any(source in module._parameters for source in sources):
                    # a hook of torch (weight norm, spectral norm, pruning) computes it anew before each forward, and
                    # copy.deepcopy refuses what has a gradient history
                    self.memo[id(value)] = value.detach().clone()

    def start(self, old: nn.Module, twins: _Counterparts, cls: type[nn.Module]) -> Any:
        """Put an empty module in the memo for an old one, with the old one's arguments."""
        new = _blank(old, twins, cls)
        self.memo[id(old)] = new
        self.started.append((old, new, twins))
        return new

    def fill(self, old: nn.Module, new: nn.Module, twins: _Counterparts, parameters: Mapping[str, Any]) -> None:
        """Give a new module its parameters, and what else the old one carries."""
        olds = {id(parameter) for parameter in old._parameters.values()}
        self.memo.update({id(made): made for made in parameters.values() if id(made) not in olds})  # no copy of these
        # into the dictionary that stands there: in the constructor's order, and ours guards the composed names
        new._parameters.update(copy.deepcopy(dict(parameters), self.memo))
        usual = vars(_blank(old, twins, type(old)))
        own = {name: value for name, value in vars(old).items() if name in _HOOKS or name not in usual}
        own.pop("_compiled_call_impl", None)  # nn.Module.compile() was of the old one
        state = copy.deepcopy((own, old._buffers, old._modules, old._non_persistent_buffers_set), self.memo)
        vars(new).update(state[0])
        new._buffers, new._modules, new._non_persistent_buffers_set = state[1:]
        new.training = old.training
        if isinstance(new, nn.RNNBase):
            new._init_flat_weights()

    def of(self, model: nn.Module) -> nn.Module:
        """Copy the model, new modules in the place of old ones."""
        made: nn.Module = copy.deepcopy(model, self.memo)
        return made


def _blank(old: nn.Module, twins: _Counterparts, cls: type[nn.Module]) -> nn.Module:
    """Make a module without values, with the arguments of another."""
    values: dict[str, Any] = {name: getattr(old, name) for name in twins.arguments}
    if values["bias"] is None or isinstance(values["bias"], Tensor):  # of a layer the bias itself
        values["bias"] = values["bias"] is not None
    if "bidirectional" in values:
        values["bidirectional"] = bool(values["bidirectional"])  # torch takes a number, too
    new = cls(**values, device="meta")
    if hasattr(old, "dropout"):
        new.dropout = old.dropout  # not by the constructor, which would warn once more of dropout in one layer
    return new


def _why_not(module: nn.Module, twins: _Counterparts | None, users: Mapping[int, list[str]]) -> str:
    """Say why a layer of torch cannot be converted, or nothing."""
    if find_weight_norm(module):
        return "has torch's weight normalisation: fold the model first"
    if twins is None:
        return f"{type(module).__name__} is a subclass, whose forward may be its own: convert it by hand"
    if reason := _computed(module, twins):
        return reason
    for name in module._parameters:
        same = users[id(module._parameters[name])]
        if name.startswith("weight") and len(same) > 1:
            return f"{name} is tied: one parameter is {' and '.join(same)}"
    return ""


def _computed(module: nn.Module, twins: _Counterparts) -> str:
    """Say which parameter of a layer is none any more, or nothing."""
    usual = _blank(module, twins, type(module))._parameters
    gone = [name for name, value in usual.items() if value is not None and module._parameters.get(name) is None]
    return f"{', '.join(gone)}: computed, as by pruning; make it a plain parameter first" if gone else ""


def _without_torch_weight_norm(
    old: nn.Module,
    new: nn.Module,
    pairs: Mapping[str, WeightNormParams],
    weights: Mapping[str, Any],
    memo: dict[int, Any],
) -> None:
    """Fill a module of torch with what another has, but for its weight norm."""
    spelled = {part for name in pairs for part in param_names(name)}
    state = {key: value for key, value in vars(old).items() if key not in pairs}  # the hook leaves each weight there
    for key in ("_flat_weights", "_flat_weight_refs", "_compiled_call_impl"):
        state.pop(key, None)
    state["_parameters"] = {name: value for name, value in old._parameters.items() if name not in spelled}
    state["_modules"] = {name: part for name, part in old._modules.items() if name != "parametrizations"}
    for key in ("_forward_pre_hooks", "_load_state_dict_pre_hooks"):
        state[key] = type(state[key])((k, hook) for k, hook in state[key].items() if not is_torch_hook(hook))
    vars(new).update(copy.deepcopy(state, memo))
    parameters = {**weights, **new._parameters}  # weights before biases, as in the constructors of torch
    order: list[str] = vars(new).get("_flat_weights_names", ["weight_ih", "weight_hh"])
    first = [name for name in order if name in parameters]
    new._parameters = {name: parameters[name] for name in [*first, *parameters]}
    if isinstance(new, nn.RNNBase):
        new._init_flat_weights()
