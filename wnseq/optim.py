"""Parameter groups for an optimiser, directions held at their length, and a penalty on recurrent units."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wnseq.functional import compose, direction_norm, row_norm, shrinkage
from wnseq.nn._module import WNModule
from wnseq.nn._units import Readers, Units, find_units
from wnseq.nn._weight_pairs import directions, find_weight_norm, parameters_of
from wnseq.state_dict import param_names

__all__ = ["direction_norms", "param_groups", "penalize_units", "renormalize_", "shrink_units_"]


def param_groups(
    model: nn.Module, weight_decay: float, *, v_decay: float = 0.0, g_lr: float | None = None
) -> list[dict[str, Any]]:
    """Group parameters so that weight decay does to w = g·v/‖v‖ what it does to a plain w.

    ‖w‖² = g², so decaying g alone decays w exactly

    Args:
        model: Any module, with or without weight normalisation, wnseq's or torch's.
        weight_decay: Decay of every g, and of every other parameter with two or more axes but v. No bias decays.
        v_decay: Decay of every v. It changes no function: it makes v shorter, so that each step turns it further.
        g_lr: Learning rate of every g, by default the optimiser's; it also multiplies g's decay, as in AdamW and SGD.

    Returns:
        The decayed and the other parameters; then every v, if v_decay is not 0; then every g, if g_lr is given.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, equation 2; van Laarhoven 2017, arXiv 1706.05350, on decaying v.
    """
    for label, value in (("weight_decay", weight_decay), ("v_decay", v_decay), ("g_lr", g_lr)):
        if label == "g_lr" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real | Tensor) or not 0 <= float(value) < math.inf:
            raise ValueError(f"param_groups: {label} must be a finite number and not negative, got {value!r}")
    vs: set[int] = set()
    scales: set[int] = set()
    for module in model.modules():
        for name, pair in find_weight_norm(module).items():
            for part, value, ids in zip(param_names(name), pair, (vs, scales), strict=False):
                ids.update(map(id, parameters_of(module, part, value)))
    decayed: dict[str, Any] = {"params": [], "weight_decay": weight_decay}
    others: dict[str, Any] = {"params": [], "weight_decay": 0.0}
    v_group: dict[str, Any] = {"params": [], "weight_decay": v_decay} if v_decay else others
    g_group: dict[str, Any] = {"params": [], "weight_decay": weight_decay, "lr": g_lr} if g_lr is not None else decayed
    for parameter in model.parameters():
        if id(parameter) in scales:
            group = g_group
        elif id(parameter) in vs:
            group = v_group
        else:
            group = decayed if parameter.ndim > 1 else others
        group["params"].append(parameter)
    return [decayed, others, *([v_group] if v_decay else []), *([g_group] if g_lr is not None else [])]


def direction_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return ‖v‖ of wnseq's weights by the qualified name of v, in the shape of g; for :func:`renormalize_`."""
    return {name: direction_norm(v.detach(), g, *layout) for name, (v, g, layout) in directions(model)}


@torch.no_grad()
def renormalize_(model: nn.Module, norms: Mapping[str, Tensor]) -> None:
    """Restore ‖v‖ in place, for instance after each step of an optimiser; the function does not change.

    v ← ‖v₀‖ · v/‖v‖, row by row. Under Adam or momentum v grows, and each step turns it less; at a fixed length it does
    not.

    Args:
        model: The model whose norms were taken. A frozen v stays as it is, and so does a row whose norm was 0.
        norms: :func:`direction_norms` of it, from the start of training.

    Source:
        Karras et al. 2023, arXiv 2312.02696; Heo et al. 2020, arXiv 2006.08217, on the growth of ‖v‖.
    """
    found = dict(directions(model, writable=True))
    if found.keys() != norms.keys():
        absent, left = sorted(found.keys() - norms.keys()), sorted(norms.keys() - found.keys())
        raise ValueError(
            f"renormalize_: norms must have one entry for each direction of the model, got none for {absent} and "
            f"{left} that the model lacks; measure them again with direction_norms(model)"
        )
    for name, (v, g, layout) in found.items():
        if v.requires_grad:
            start = norms[name].to(v.device)
            v.copy_(compose(v, torch.where(start == 0, direction_norm(v, g, *layout), start), *layout))


@torch.no_grad()
def shrink_units_(model: nn.Module, readers: Readers, amount: float) -> None:
    """Shrink each unit of weight-normalised recurrent layers in place; one that is no larger than the amount is zero.

    w ← max(0, 1 − amount/‖w‖) · w, the proximal step of a group lasso, w being all that belongs to a unit: g of each
    gate in its input and recurrent weight, the bias of the candidate gate, and the weights that read the unit

    Args:
        model: Any module.
        readers: The recurrent layers, and what reads the output of each, as in :func:`wnseq.convert.slim`, which
            removes the units that have become zero.
        amount: What each unit's norm loses.

    Raises:
        TypeError, ValueError: As :func:`wnseq.convert.slim`; or a recurrent layer has no g for each row.

    Note:
        The columns that read a unit are scaled in w: v has its column scaled, and the g of each row follows its length.
        A reader whose weight is tied, as a softmax to the embedding, is left alone: the unit goes silent all the same.

    Source:
        Wen et al. 2018, arXiv 1709.05027, equation 4; by its proximal operator, which gives exact zeros.
    """
    users = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for units in _check_scales(find_units(model, readers, "shrink_units_"), "shrink_units_"):
        scales = [units.rnn.v_and_g(name)[1].view(-1, units.rnn.hidden_size) for name in units.rows]  # (G, H)
        columns = [each for each in units.columns if not _is_tied(*each[:2], users)]
        bias = units.candidate_bias()
        squares = [scale.square().sum(0) for scale in scales]
        squares += [] if bias is None else [bias.square()]
        squares += [replace(units, columns=[each]).read_squares() for each in columns]
        factor = shrinkage(torch.stack(squares).sum(0).sqrt(), amount)
        for scale in scales:
            scale.mul_(factor)
        for name in units.biases:
            getattr(units.rnn, name)[units.candidate].mul_(factor)
        for module, name, at in columns:
            _scale_columns(module, name, at, factor)
        units.rnn.accept_v_and_g()


def penalize_units(
    optimizer: torch.optim.Optimizer, model: nn.Module, readers: Readers, penalty: float
) -> RemovableHandle:
    """Call :func:`shrink_units_` after each step of an optimiser, with the learning rate times the penalty.

    Args:
        optimizer: Any optimiser. The rate is that of its first group of parameters.
        model: As for shrink_units_, like the next one.
        readers: See model.
        penalty: Strength of the group lasso.

    Returns:
        What removes it again by ``remove()``.

    Raises:
        TypeError, ValueError: As :func:`shrink_units_`.
    """
    if not isinstance(penalty, int | float) or not 0 <= penalty < math.inf:
        raise ValueError(f"penalize_units: penalty must be a finite number and not negative, got {penalty!r}")
    _check_scales(find_units(model, readers, "penalize_units"), "penalize_units")

    def shrink(of: torch.optim.Optimizer, *_: Any) -> None:
        shrink_units_(model, readers, float(of.param_groups[0]["lr"]) * penalty)

    return optimizer.register_step_post_hook(shrink)


def _check_scales(found: Iterable[tuple[str, list[Units]]], function: str) -> list[Units]:
    """Return the units of all layers; raise if one of their weights has no g for each row."""
    every = [(path, units) for path, each in found for units in each]
    for path, units in every:
        if not isinstance(units.rnn, WNModule):
            raise TypeError(f"{function}: {path!r} must be weight-normalised, got {type(units.rnn).__name__}")
        for name in units.rows:
            if (shape := units.rnn.v_and_g(name)[1].shape) != (rows := units.rnn.v_and_g(name)[0].shape[:1]):
                raise ValueError(
                    f"{function}: {path}.{param_names(name)[1]} must have shape {tuple(rows)}, got {tuple(shape)}; "
                    'split the weights by rows with rnn.load_state_dict(wnseq.state_dict_as(rnn, "plain"))'
                )
    return [units for _, units in every]


def _is_tied(module: nn.Module, name: str, users: Mapping[int, int]) -> bool:
    """Return True if a weight belongs to another module too."""
    own = param_names(name) if isinstance(module, WNModule) and name in module.weight_names else (name,)
    return any(users[id(module._parameters[each])] > 1 for each in own)


def _scale_columns(module: Any, name: str, at: int, factor: Tensor) -> None:
    """Scale the columns of a weight by which it reads some units."""
    columns = slice(at, at + len(factor))
    if not (isinstance(module, WNModule) and name in module.weight_names):
        getattr(module, name)[:, columns].mul_(factor)
        return
    v, g = module.writable_v_and_g(name)
    w, scaled = compose(v, g, *module.layouts[name]), v.clone()
    for each in (w, scaled):
        each[:, columns] *= factor
    g.copy_(torch.copysign(direction_norm(w, g, *module.layouts[name]), g))
    v.copy_(torch.where(row_norm(scaled).unsqueeze(1) > 0, scaled, v))  # a row of zeros could not be trained
    module.accept_v_and_g()
