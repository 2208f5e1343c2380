"""Zoneout and recurrent dropout, which act inside of a step, where no kernel has room for a mask."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence.call import States, StepRates


def regularise(step: Callable[..., States], rates: StepRates, training: bool) -> Callable[..., States]:
    """Return a step with zoneout of its states, and recurrent dropout of its candidate."""
    if rates.candidate:
        step = functools.partial(step, recurrent_dropout=rates.candidate)

    def regularised(x: Tensor, states: States, *weights: Tensor) -> States:
        new = step(x, states, *weights)
        return tuple(zone_out(*parts, training) for parts in zip(new, states, rates.zoneout, strict=True))

    return regularised


def zone_out(new: Tensor, old: Tensor, p: float, training: bool) -> Tensor:
    """Return a state in which entries are those of the step before.

    d ⊙ old + (1 − d) ⊙ new, d ~ Bernoulli(p) for each entry in training, d = p in evaluation

    Source:
        Krueger et al. 2017, arXiv 1606.01305, section 3.2.
    """
    if not p:
        return new
    old = old.to(new.dtype)
    if not training:
        return torch.lerp(new, old, p)
    return torch.where(F.dropout(torch.ones_like(new), p) == 0, old, new)
