"""From a model to what an optimiser needs of it: parameter groups that know what g and v are."""

from typing import Any

from torch import nn

from wnseq.module import WNModule

__all__ = ["param_groups"]


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group parameters so that weight decay does to w = g·v/‖v‖ what it does to the plain w.

    ‖w‖² = g², so decaying g alone decays w exactly. Decay of v would change no function, only the size of the steps.

    Args:
        model: Any module, with or without weight-normalised parts.
        weight_decay: Decay of the weights: of every g, and of every other parameter with two or more axes. No v and
            no bias decays.

    Returns:
        Two groups for a ``torch.optim`` optimiser; a shared parameter stands in one of them, once.

    Raises:
        ValueError: weight_decay is negative.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, equation 2; van Laarhoven 2017, arXiv 1706.05350, on decaying v.
    """
    if weight_decay < 0:
        raise ValueError(f"param_groups: weight_decay must not be negative, got {weight_decay}")
    directions, scales = set(), set()
    for module in model.modules():
        if isinstance(module, WNModule):
            for name in module.weight_names:
                v, g = module.v_and_g(name)
                directions.add(id(v))
                scales.add(id(g))
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_weight = parameter.ndim > 1 and id(parameter) not in directions
        (decayed if is_weight or id(parameter) in scales else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
