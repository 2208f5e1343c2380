"""Dropout of recurrent models that torch lacks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wnseq.nn._arguments import check_number


class LockedDropout(nn.Module):
    """Dropout whose mask is drawn once per sequence and shared by all time steps of ``(T, N, C)``.

    y[t] = x[t] ⊙ m / (1 − p), m ~ Bernoulli(1 − p)

    Source:
        Gal & Ghahramani 2016, arXiv 1512.05287; named as in Merity et al. 2018, arXiv 1708.02182.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        phrase = "dropout probability has to be between 0 and 1"
        self.p = check_number("LockedDropout", "p", p, 0, 1, phrase)
        if self.p == 1:
            raise ValueError(f"{phrase}, got p=1 in LockedDropout, which would leave nothing to scale up")

    def forward(self, x: Tensor) -> Tensor:
        """Drop features in training."""
        if not self.training or self.p == 0:
            return x
        mask = torch.empty_like(x[:1]).bernoulli_(1 - self.p).div_(1 - self.p)  # (1, N, C)
        return x * mask

    def extra_repr(self) -> str:
        """Return p."""
        return f"p={self.p}"


def drop_recurrent_weights(module: Any, flat: list[Tensor]) -> list[Tensor]:
    """Return the weights of recurrent layers, in training with each w_hh dropped by a mask of its own, in their order.

    w_hh ⊙ m / (1 − p), m ~ Bernoulli(1 − p) for each entry, p = module.weight_drop

    Args:
        module: Has the attributes of torch's recurrent modules, and weight_drop.
        flat: Weights and biases in torch's order, in which w_hh is the second of each layer and direction.
    """
    if not (module.training and module.weight_drop):
        return flat
    size = len(flat) // (module.num_layers * (1 + bool(module.bidirectional)))
    return [F.dropout(weight, module.weight_drop) if k % size == 1 else weight for k, weight in enumerate(flat)]
