"""Conversion of whole models: layers replaced in a copy of the model."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wnseq.convert._copies import Copies, without_torch_weight_norm
from wnseq.convert._counterparts import BY_NORMALIZED, BY_PLAIN, split_weights
from wnseq.convert._report import changed_parameters, own_forward, plan, without_counterpart
from wnseq.convert._targets import TargetModules, Targets
from wnseq.functional import compose
from wnseq.nn._module import WNModule
from wnseq.nn._weight_pairs import find_weight_norm, further_parametrizations, plain_class
from wnseq.state_dict import param_names


def weight_normalize(model: nn.Module, target_modules: Targets = None, *, adopt: bool = False) -> nn.Module:
    """Return the model with its layers replaced by weight-normalised ones that compute the same function.

    ``nn.Linear``, ``Conv1d`` to ``Conv3d``, ``ConvTranspose1d`` to ``ConvTranspose3d``, ``RNN``, ``LSTM``, ``GRU``, the
    cells, and the plain layers and cells of wnseq become their counterparts with v = w and g = ‖w‖, at any depth. A
    weight with torch's own weight norm, by hooks or by parametrisation, along any axis, keeps its v and g. The caller's
    model is left as it is; what is not replaced is a deep copy. :func:`conversion_report` lists both.

    Args:
        model: Any module, or a layer itself.
        target_modules: Which layers: qualified names, in which ``*`` and ``?`` match any text and any character;
            classes of those above; or several of either. All by default, but for ``nn.Embedding``, which is converted
            where it is named.
        adopt: Convert only the layers that have torch's weight norm. The others stay plain, so that
            ``state_dict_as(result, like=model)`` gives a checkpoint of the caller's model with each v as it was.

    Raises:
        TypeError: ``target_modules`` holds a class without a counterpart, or neither class nor name.
        ValueError: A name in ``target_modules`` matches no layer, or is that of a layer that cannot be converted.

    Note:
        A layer of a convertible type that cannot be converted (a subclass, tied, pruned, parametrised) gives a warning.
        A module used at several places stays one module; tied biases stay tied. Device, dtype, memory format, training
        flag, requires_grad, forward and backward hooks, and what a user attached to a layer are kept. Gradients are
        dropped, and so are hooks on the state dict, since its keys change. No random numbers are drawn. A row of v that
        is zero gives a row of zeros, where torch's weight norm gives NaN.

    Example:
        >>> import torch
        >>> model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "out": torch.nn.Linear(4, 2)})
        >>> weight_normalize(model, target_modules="rnn")
        ModuleDict(
          (rnn): WNGRU(3, 4)
          (out): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    layers, _, left = plan(model, target_modules, adopt)
    _warn("weight_normalize", left, "; conversion_report(model) lists all layers")
    copies = Copies(model)
    for layer in layers.values():
        pair = BY_PLAIN[plain_class(layer)]
        copies.start(layer, pair, pair.normalized)
    for old, new, pair in copies.started:
        copies.fill(old, new, pair, split_weights(old, new))
    return copies.of(model)


def remove_weight_norm(model: nn.Module, target_modules: Targets = None) -> nn.Module:
    """Return the model with plain layers of ``torch.nn`` that compute the same function.

    wnseq's layers and cells become their plain counterparts. Any other module loses torch's weight norm, by
    hooks or by parametrisation; the axis of its norm is read from the shape of g. The caller's model is left as it is.

    Args:
        model: Any module, or a weight-normalised layer itself.
        target_modules: Which layers: qualified names, in which ``*`` and ``?`` match any text and any character;
            classes, of wnseq or of torch; or several of either. All by default.

    Raises:
        TypeError: ``target_modules`` holds neither a class nor a name.
        ValueError: A name in ``target_modules`` matches no weight-normalised layer, or is that of a layer that has to
            be left.

    Note:
        Subclasses of wnseq's layers, layers with weight_drop, zoneout or recurrent_dropout, which torch's have not, and
        modules with further parametrisations are left with a warning. A module used
        at several places stays one module, and two weights made of the same v and g one weight; a v that is shared
        without its g gives two independent weights. A weight requires grad if its v or its g does. The rest is kept as
        by :func:`weight_normalize`. A row of v that is zero gives a row of zeros, where torch gives NaN.

    Example:
        >>> import torch
        >>> conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.ConvTranspose1d(3, 4, 5), dim=1)
        >>> remove_weight_norm(torch.nn.Sequential(conv))
        Sequential(
          (0): ConvTranspose1d(3, 4, kernel_size=(5,), stride=(1,))
        )
    """
    copies = Copies(model)
    others: list[tuple[nn.Module, nn.Module]] = []  # modules with torch's weight norm, and what replaces them
    left: dict[str, str] = {}
    wanted = TargetModules("remove_weight_norm", model, target_modules)
    for path, module in model.named_modules():
        pair = BY_NORMALIZED.get(type(module))
        if isinstance(module, WNModule):
            reason = changed_parameters(module, pair.normalized, pair.arguments) if pair else own_forward(type(module))
            reason = reason or without_counterpart(module)
        else:
            reason = further_parametrizations(module)
        if not (reason or pair or find_weight_norm(module)):
            continue
        hits = wanted.hits(module)
        if wanted.items is not None and not hits:
            continue
        if reason:
            wanted.refuse(module, hits, reason)
            left[path] = reason
        elif pair:
            copies.start(module, pair, pair.plain)
        else:
            cls: Any = plain_class(module)
            new: nn.Module = cls.__new__(cls)  # without the constructor, whose arguments are not known
            copies.memo[id(module)] = new
            others.append((module, new))
    wanted.check_found("weight-normalised layer")
    _warn("remove_weight_norm", left)

    weights: dict[tuple[int, int], nn.Parameter] = {}  # so that a shared v and g make a shared weight

    def composed(module: nn.Module) -> dict[str, Any]:
        found = find_weight_norm(module)
        with torch.no_grad():
            for v, g, layout in found.values():
                if (id(v), id(g)) not in weights:
                    grad = v.requires_grad or g.requires_grad
                    weights[id(v), id(g)] = nn.Parameter(compose(v, g, *layout), requires_grad=grad)
        return {name: weights[id(params.v), id(params.g)] for name, params in found.items()}

    for old, new, pair in copies.started:
        copies.fill(old, new, pair, {**_without_v_and_g(old), **composed(old)})
    for old, new in others:
        _without_torch_weight_norm(old, new, composed(old), copies)
    return copies.of(model)


def _warn(function: str, left: Mapping[str, str], end: str = "") -> None:
    """Warn once of the modules that are left as they are, naming the first two."""
    if left:
        first = "; ".join(f"{name or 'the model itself'}: {reason}" for name, reason in list(left.items())[:2])
        more = f"; and {len(left) - 2} more" if len(left) > 2 else ""
        many = "1 layer as it is" if len(left) == 1 else f"{len(left)} layers as they are"
        warnings.warn(f"{function} left {many} ({first}{more}){end}", stacklevel=3)


def _without_v_and_g(module: nn.Module) -> dict[str, Any]:
    v_and_g = {part for name in find_weight_norm(module) for part in param_names(name)}
    return {name: value for name, value in module._parameters.items() if name not in v_and_g}


def _without_torch_weight_norm(old: nn.Module, new: nn.Module, weights: Mapping[str, Any], copies: Copies) -> None:
    """Fill a module of torch with what another has, except for its weight norm."""
    state = without_torch_weight_norm(old)
    for key in ("_flat_weights", "_flat_weight_refs", "_compiled_call_impl"):
        state.pop(key, None)
    state["_parameters"] = _without_v_and_g(old)
    vars(new).update(copies.copy(state))
    parameters = {**weights, **new._parameters}  # weights before biases, as in the constructors of torch
    order: list[str] = vars(new).get("_flat_weights_names", ["weight_ih", "weight_hh"])
    first = [name for name in order if name in parameters]
    new._parameters = {name: parameters[name] for name in [*first, *parameters]}
    if isinstance(new, nn.RNNBase):
        new._init_flat_weights()
