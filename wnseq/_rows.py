"""Rows of weights for other entries or classes: each of the same name, or of several, or the mean of all.

A row is what belongs to one output: of a weight its first axis, and one number of a bias.
"""

from collections.abc import Collection, MutableMapping, Sequence

import torch
import torch.nn.functional as F

__all__ = ["carry_normalized_rows", "carry_rows", "carry_weights"]


def carry_rows(rows: torch.Tensor, sources: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the mean of some rows for each new one, and of all rows where there are none.

    Shape:
        - rows: ``(V, *)``
        - output: ``(len(sources), *)``
    """
    numbers = torch.tensor([len(ids) for ids in sources])
    chosen = rows[torch.tensor([index for ids in sources for index in ids], dtype=torch.long)]
    owners = torch.repeat_interleave(torch.arange(len(sources)), numbers)
    sums = rows.new_zeros(len(sources), *rows.shape[1:]).index_add_(0, owners, chosen)
    numbers = numbers.view(-1, *(1,) * (rows.ndim - 1))
    return torch.where(numbers > 0, sums / numbers.clamp(min=1), rows.mean(0))


def carry_normalized_rows(
    v: torch.Tensor, g: torch.Tensor, sources: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return v and g whose rows g·v/‖v‖ are those that :func:`carry_rows` makes of the old rows g·v/‖v‖.

    A row that is one old row has its v and g; any other v has the mean length of the old ones. Where old rows
    cancel, v and g are the means of the old v and g: a row of zeros has no direction to train.

    Shape:
        - v: ``(V, E)``
        - g: ``(V,)``
        - output: ``(len(sources), E)``, ``(len(sources),)``
    """
    means, mean_g, lengths = carry_rows(v, sources), carry_rows(g, sources), carry_rows(v.norm(dim=1), sources)
    rows = carry_rows(g.unsqueeze(1) * F.normalize(v), sources)
    scales = rows.norm(dim=1)
    kept = torch.tensor([len(ids) == 1 for ids in sources]) | (scales == 0)
    turned = F.normalize(rows) * lengths.unsqueeze(1)
    return torch.where(kept.unsqueeze(1), means, turned), torch.where(kept, mean_g, scales)


def carry_weights(
    weights: MutableMapping[str, torch.Tensor], names: Collection[str], sources: Sequence[Sequence[int]]
) -> None:
    """Replace the rows of some weights of a state dict by :func:`carry_rows`, the v and g of one weight together."""
    for name in names:
        if name.endswith("_v"):
            g = name.removesuffix("v") + "g"
            weights[name], weights[g] = carry_normalized_rows(weights[name], weights[g], sources)
        elif not name.endswith("_g"):
            weights[name] = carry_rows(weights[name], sources)
