"""What an optimiser needs of a weight-normalised model: groups of parameters, and directions of a steady length."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wnseq.functional import compose, direction_norm
from wnseq.nn._weight_pairs import directions, find_weight_norm


def param_groups(
    model: nn.Module, weight_decay: float, *, v_decay: float = 0.0, g_lr: float | None = None
) -> list[dict[str, Any]]:
    """Group parameters so that weight decay does to w = g·v/‖v‖ what it does to the plain w.

    ‖w‖² = g², so decaying g alone decays w exactly. Decay of v changes no function, only the size of the steps.

    Args:
        model: Any module, with or without weight-normalised parts, ours or torch's.
        weight_decay: Decay of the weights: of every g, and of every other parameter with two or more axes but v. No
            bias decays.
        v_decay: Decay of every v. By default none: it only makes v shorter, and so the turn of each step larger.
        g_lr: Learning rate of every g. By default the optimiser's. Decay that is multiplied by the learning rate, as
            in AdamW and SGD, is multiplied by this one.

    Returns:
        Groups for a ``torch.optim`` optimiser: the decayed and the others; then every v, if v_decay is not zero; then
        every g, if g_lr is given. A shared parameter stands in one of them, once.

    Raises:
        ValueError: weight_decay, v_decay or g_lr is negative.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, equation 2; van Laarhoven 2017, arXiv 1706.05350, on decaying v.
    """
    for label, value in (("weight_decay", weight_decay), ("v_decay", v_decay), ("g_lr", g_lr)):
        if value is not None and value < 0:
            raise ValueError(f"param_groups: {label} must not be negative, got {value}")
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
    """Take the norms ‖v‖ of every direction of a model, for :func:`renormalize_`.

    Args:
        model: Any module. Its parts of this library are looked at.

    Returns:
        The norms of each v by its qualified name, in the shape of its g, tensors that a checkpoint can hold.
    """
    return {name: direction_norm(v.detach(), g, *layout) for name, (v, g, layout) in directions(model)}


@torch.no_grad()
def renormalize_(model: nn.Module, norms: Mapping[str, Tensor]) -> None:
    """Put ‖v‖ back to what it was, in place; the function does not change.

    v ← ‖v₀‖ · v/‖v‖, row by row. Called after each step of an optimiser. Under Adam or momentum v grows, and the angle
    by which a step turns it falls as much; held at its length, v turns by the step that was set.

    Args:
        model: The model whose norms were taken.
        norms: What :func:`direction_norms` gave, at the start of training.

    Raises:
        ValueError: The norms are not those of this model's directions.

    Note:
        A frozen v is left as it is, and so is a row that was zero when its norm was taken.

    Example:
        >>> import torch, wnseq
        >>> rnn = wnseq.WNLSTM(3, 4)
        >>> optimizer = torch.optim.Adam(rnn.parameters(), lr=0.1)
        >>> norms = direction_norms(rnn)
        >>> for x in torch.randn(5, 7, 2, 3):
        ...     optimizer.zero_grad()
        ...     rnn(x)[0].square().mean().backward()
        ...     optimizer.step()
        ...     renormalize_(rnn, norms)
        >>> torch.testing.assert_close(direction_norms(rnn), norms)

    Source:
        Karras et al. 2023, arXiv 2312.02696; Heo et al. 2020, arXiv 2006.08217, on the growth of ‖v‖.
    """
    found = dict(directions(model))
    if found.keys() != norms.keys():
        absent, left = sorted(found.keys() - norms.keys()), sorted(norms.keys() - found.keys())
        raise ValueError(
            f"renormalize_: norms must have one entry for each direction of the model, got none for {absent} and "
            f"{left} that the model lacks; take them anew with direction_norms(model)"
        )
    for name, (v, g, layout) in found.items():
        if v.requires_grad:
            start = norms[name].to(v.device)
            v.copy_(compose(v, torch.where(start == 0, direction_norm(v, g, *layout), start), *layout))
