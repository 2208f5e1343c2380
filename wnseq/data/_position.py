"""Where training is inside its data, so that a run can be stopped anywhere and go on with the next batch."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from lightning.pytorch import Trainer

Batch = TypeVar("Batch")


class DataPosition:
    """The epoch that is trained on, and how many of its batches have been handed out."""

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0

    def trained(self, trainer: Trainer | None) -> dict[str, int]:
        """Return epoch and position of the next batch to train on, for a checkpoint.

        Args:
            trainer: the one that trains, if any: interrupted inside a step, it has not trained on that step's batch.
        """
        position = self.position
        if trainer is not None:
            batches = trainer.fit_loop.epoch_loop.batch_progress.current
            position -= batches.ready - batches.processed  # type: ignore[attr-defined]
        return {"epoch": self.epoch, "position": position}


class EpochLoader(Generic[Batch]):
    """The batches of one epoch after the other, from a place on.

    Each iteration is one epoch, or the rest of one that was broken off; the length is always that of a whole epoch, as
    Lightning counts the batches trained on before a restart as well.

    Args:
        place: moved on with each batch.
        length: batches an epoch.
        batches: epoch, first batch → the batches from there to the epoch's end. What is random in them is drawn from
            these two, so that it can be drawn again.
        trainer: the one that trains, if any.
    """

    def __init__(
        self, place: DataPosition, length: int, batches: Callable[[int, int], Iterator[Batch]], trainer: Trainer | None
    ) -> None:
        self.place = place
        self.length = length
        self.batches = batches
        self.trainer = trainer

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing moves before the first batch: Lightning calls iter() without starting an epoch.
        place = self.place
        ended = place.position >= self.length
        if self.trainer is not None and self.trainer.training:
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            if done >= self.trainer.num_training_batches:
                return  # resumed from the very end of an epoch, Lightning may ask for a batch more than it has
            ended = place.position > 0 and done == 0  # limit_train_batches may have ended it before its last batch
        if ended:
            place.epoch, place.position = place.epoch + 1, 0
        for batch in self.batches(place.epoch, place.position):
            place.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the data module keeps the place. Lightning warns of a loader without this."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Do nothing, as the data module has gone on already."""
