"""Dropout of recurrent models that torch lacks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from wnseq._recurrence.call import Sequence
from wnseq._torch_internals import is_recording
from wnseq.nn._arguments import check_number, check_rate, check_size


class LockedDropout(nn.Module):
    """Dropout whose mask is drawn once per sequence and shared by all of its time steps.

    y[t] = x[t] ⊙ m / (1 − p), m ~ Bernoulli(1 − p)

    Shape:
        - x, output: ``(T, N, C)``, or a ``PackedSequence``

    Source:
        Gal & Ghahramani 2016, arXiv 1512.05287; named as in Merity et al. 2018, arXiv 1708.02182.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        phrase = "dropout probability has to be between 0 and 1"
        self.p = check_number("LockedDropout", "p", p, 0, 1, phrase)
        if self.p == 1:
            raise ValueError(f"{phrase}, got p=1 in LockedDropout, which would leave nothing to scale up")

    def forward(self, x: Sequence) -> Sequence:
        """Drop features in training."""
        if not self.training or self.p == 0:
            return x
        if isinstance(x, PackedSequence):
            data, sizes, *order = x
            mask = self._draw(data[: sizes[0]])  # (N, C), in the order of the first step
            rows = torch.cat([torch.arange(size) for size in sizes.tolist()]).to(data.device)
            return PackedSequence(data * mask[rows], sizes, *order)
        return x * self._draw(x[:1])

    def _draw(self, first: Tensor) -> Tensor:
        """Draw a mask like the first step."""
        return torch.empty_like(first).bernoulli_(1 - self.p).div_(1 - self.p)

    def extra_repr(self) -> str:
        """Return p."""
        return f"p={self.p}"


class EmbeddingDropout(nn.Module):
    """Dropout of whole tokens from embedded text: all occurrences of a token in a batch are zeros, or none.

    y = x · m[token] / (1 − p), m[j] ~ Bernoulli(1 − p) for each token j of the vocabulary

    Args:
        num_embeddings: V, tokens of the vocabulary.
        p: Probability of each to be dropped.

    Shape:
        - x, output: ``(*, D)``
        - tokens: ``(*)``, of which x is the embedding

    Example:
        >>> embedding, dropout = nn.Embedding(10, 3), EmbeddingDropout(10, 0.1)
        >>> tokens = torch.tensor([[1, 2, 1]])
        >>> dropout(embedding(tokens), tokens).shape
        torch.Size([1, 3, 3])

    Source:
        Gal & Ghahramani 2016, arXiv 1512.05287, section 4.2; Merity et al. 2018, arXiv 1708.02182, section 4.3.
    """

    def __init__(self, num_embeddings: int, p: float = 0.1) -> None:
        super().__init__()
        self.num_embeddings = check_size("EmbeddingDropout", "num_embeddings", num_embeddings)
        self.p = check_rate("EmbeddingDropout", "p", p)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Drop tokens in training."""
        if not self.training or self.p == 0:
            return x
        mask = x.new_empty(self.num_embeddings).bernoulli_(1 - self.p).div_(1 - self.p)  # (V,)
        return x * mask[tokens].unsqueeze(-1)

    def extra_repr(self) -> str:
        """Return V and p."""
        return f"{self.num_embeddings}, p={self.p}"


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
    return [_drop_entries(weight, module.weight_drop) if k % size == 1 else weight for k, weight in enumerate(flat)]


def _drop_entries(weight: Tensor, p: float) -> Tensor:
    """Return F.dropout of a weight; on a CPU by other draws, two from each 64 random bits, for a third of its time."""
    if not weight.is_cpu or is_recording(weight):
        return F.dropout(weight, p)
    bits = weight.new_empty((weight.numel() + 1) // 2, dtype=torch.int64).random_(-(2**63), None)
    numbers = bits.view(torch.int32)[: weight.numel()].view(weight.shape)  # uniform from -2³¹ to 2³¹ - 1
    border = min(round(p * 2**32), 2**32 - 1) - 2**31
    return weight * numbers.ge(border).to(weight.dtype).div_(1 - p)
