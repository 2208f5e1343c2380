"""Parameter groups for an optimiser, and directions held at their length."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from wnseq.functional import compose, direction_norm
from wnseq.nn._weight_pairs import directions, find_weight_norm

__all__ = ["direction_norms", "param_groups", "renormalize_"]


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
    pairs = [pair for module in model.modules() for pair in find_weight_norm(module).values()]
    vs, scales = {id(pair.v) for pair in pairs}, {id(pair.g) for pair in pairs}
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
    found = dict(directions(model))
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
