"""What the ranks of a Trainer exchange: values for a checkpoint, and at batches whether to stop."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["RankAgreement", "all_gather_object", "join_lists", "same_draws"]

SECONDS = 0.5  # between two questions whether to stop
MOST_BATCHES = 100


def all_gather_object(trainer: Trainer, value: Any) -> list[Any] | None:
    """Gather a value from each rank of a Trainer. All ranks must call it.

    Args:
        trainer: The Trainer.
        value: This rank's value: anything that can be pickled, tensors on the CPU.

    Returns:
        The values in the order of the ranks, the same in all. None after an exception in one of several ranks, since
        the others may never answer; but not at a stop that all have agreed on.
    """
    is_agreed = isinstance(sys.exc_info()[1], SIGTERMException)
    if trainer.world_size > 1 and trainer.interrupted and not is_agreed:
        return None
    return [trainer.strategy.broadcast(value, src=rank) for rank in range(trainer.world_size)]


def join_lists(trainer: Trainer, own: list[Any]) -> list[Any]:
    """Return the entries of every rank's list. All ranks must call it."""
    return [entry for each in all_gather_object(trainer, own) or [own] for entry in each]


@contextmanager
def same_draws(trainer: Trainer, device: torch.device) -> Iterator[None]:
    """Run the block with the same random numbers in every rank, drawn from rank 0's seed. All ranks must call it.

    What is drawn after Lightning has made the ranks' weights the same would else differ where they have other seeds. A
    single process draws on from where it is.
    """
    if trainer.world_size == 1:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(trainer.strategy.broadcast(torch.initial_seed()))
        yield


class RankAgreement:
    """Find the largest of the numbers that the ranks bring to the same batch.

    The ranks must take part in the same exchanges. So they count batches, and the number of batches until the next one
    comes from the slowest rank's time, the same in all.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self._left: float = 0  # batches that every rank has
        self._every, self._wait = 1, 0
        self._since = 0.0

    def begin(self, trainer: Trainer, batches: float = float("inf")) -> None:
        """Start to count: at the next batch the ranks ask. All ranks must call it.

        Args:
            trainer: The Trainer.
            batches: Batches that this rank has, of which another may have fewer. Infinity: all have the same.
        """
        if trainer.world_size > 1 and batches != float("inf"):
            batches = -self._reduce(trainer, -batches, 0.0)[0]
        self._left, self._every, self._wait, self._since = batches, 1, 0, time.monotonic()

    def largest(self, trainer: Trainer, number: float) -> float:
        """Return the largest number of all ranks, or 0 at a batch at which they do not ask."""
        if trainer.world_size == 1:
            self.value = number
            return number
        self._left, self._wait = self._left - 1, self._wait - 1
        if self._wait > 0 or self._left < 0:
            return 0
        self.value, seconds = self._reduce(trainer, number, (time.monotonic() - self._since) / self._every)
        self._every = min(2 * self._every, MOST_BATCHES, max(1, int(SECONDS / max(seconds, 1e-6))))
        self._wait, self._since = self._every, time.monotonic()
        return self.value

    @staticmethod
    def _reduce(trainer: Trainer, *numbers: float) -> list[float]:
        own = torch.tensor(numbers, device=trainer.strategy.root_device)
        largest: list[float] = trainer.strategy.reduce(own, reduce_op="max").tolist()
        return largest
