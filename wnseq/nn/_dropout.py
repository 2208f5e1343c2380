"""Dropout of recurrent models that torch lacks."""

import torch
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
