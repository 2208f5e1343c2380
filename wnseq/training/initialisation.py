"""Starts from data: whether a network has had its own from a batch, and counts of the tokens of a training text."""

from typing import Any, Literal

import torch
from torch import nn

from wnseq.init import bias_from_counts_, g_from_counts_
from wnseq.training.run_info import find_datamodule

__all__ = ["BatchInitialised", "start_from_counts"]


def start_from_counts(model: Any, what: Literal["none", "g", "bias"]) -> None:
    """Start a part of a language model's network from how often each token of its training text occurs.

    Args:
        model: A LightningModule with a ``network`` of the parts ``encoder`` and ``decoder``, whose Trainer has a
            ``TextDataModule``.
        what: ``g`` of both parts by :func:`wnseq.init.g_from_counts_`, the ``bias`` of the decoder by
            :func:`wnseq.init.bias_from_counts_`, or ``none``.

    Raises:
        ValueError: The data have no training text.
    """
    if what == "none":
        return
    splits, network = getattr(find_datamodule(model), "splits", {}), model.network
    if "train" not in splits:
        raise ValueError("a start from counts needs the training text of a TextDataModule: fit with one")
    counts = torch.from_numpy(splits["train"].token_counts(len(network.decoder.bias)))
    if what == "bias":
        bias_from_counts_(network.decoder.bias, counts)
        return
    for layer in (network.encoder, network.decoder):
        g_from_counts_(layer, counts)


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
