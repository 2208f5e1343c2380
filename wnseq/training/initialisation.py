"""Starts from data: whether a network has had its own from a batch, and counts of the tokens of a training text."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from wnseq.training.run_info import find_datamodule

__all__ = ["BatchInitialised", "training_counts"]


def training_counts(model: LightningModule, entries: int) -> torch.Tensor:
    """Return how often each token occurs in the training text of a model's data, ``(V,)``.

    Args:
        model: A model whose Trainer has a ``TextDataModule``.
        entries: V, entries of the vocabulary.

    Raises:
        ValueError: The data have no training text.
    """
    splits = getattr(find_datamodule(model), "splits", {})
    if "train" not in splits:
        raise ValueError(
            "a start from counts needs the training text of a TextDataModule: fit with one, or leave it out"
        )
    return torch.from_numpy(splits["train"].token_counts(entries))


class BatchInitialised(nn.Module):
    """Base of networks that are initialised from their first training batch.

    State:
        - initialised: buffer, uint8, one element; 1 once the weights are initialised or loaded. Checkpoints hold it, so
          that what restores a model restores it too. A state dict without it, such as a plain torch one, sets it.

    Example:
        >>> network = BatchInitialised()
        >>> network.is_initialised
        False
        >>> network.mark_initialised()
        >>> network.state_dict()["initialised"].item(), network.is_initialised
        (1, True)
    """

    initialised: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("initialised", torch.zeros((), dtype=torch.uint8))

    @property
    def is_initialised(self) -> bool:
        """Return True if the weights are initialised or loaded. It waits for the device."""
        return bool(self.initialised)

    def mark_initialised(self) -> None:
        """Record that the weights are initialised."""
        self.initialised.fill_(1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if any(name.startswith(prefix) for name in state_dict):
            state_dict.setdefault(f"{prefix}initialised", torch.ones_like(self.initialised))  # a copy of the user's
        super()._load_from_state_dict(state_dict, prefix, *args)
