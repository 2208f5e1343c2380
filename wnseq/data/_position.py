"""The position of training in its data: a run can stop anywhere and resume with the next batch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from wnseq.errors import not_comparable

Batch = TypeVar("Batch")


class DataPosition:
    """The epoch and the next batch of training. A data module saves it in each checkpoint."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start at the first batch of the first epoch."""
        self.epoch = 0
        self.batch = 0  # the number handed out in this epoch

    def state_dict(self, trainer: Trainer | None, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return epoch and batch to resume with, and the settings by which they were counted.

        Args:
            trainer: The one that trains, if any: interrupted inside a step, it has not trained on that step's batch.
            settings: All that changes the batches, as plain types.
        """
        batch = self.batch
        if trainer is not None:
            batches = trainer.fit_loop.epoch_loop.batch_progress.current
            batch -= batches.ready - batches.processed  # type: ignore[attr-defined]
        return {"epoch": self.epoch, "batch": batch, **settings}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], trainer: Trainer | None, settings: Callable[[], Mapping[str, Any]]
    ) -> bool:
        """Return True if a fit resumes from what ``state_dict`` returned, not in a validation, test or prediction.

        Args:
            state_dict: What was saved.
            trainer: The one that trains, if any.
            settings: Returns those of now; called in a fit alone, before which the data are set up.

        Raises:
            ValueError: The settings differ, so that the batches are other ones.
        """
        if trainer is not None and trainer.state.fn != TrainerFn.FITTING:
            return False
        if state_dict["epoch"] == state_dict["batch"] == 0:  # any batches may follow; BatchSizeFinder counts on it
            self.reset()
            return True
        for name, now in settings().items():
            absent = False if isinstance(now, bool) else now  # an older checkpoint: a flag was off before it was there
            if (before := state_dict.get(name, absent)) != now:
                what = "batch_size over all processes" if name == "batch_size" else name
                raise ValueError(
                    f"The run to be resumed had {what} {before}, this one has {now}: it can't go on with the next "
                    f"batch. Give the same {what.removesuffix('_sha256')}, or start a new run from the checkpoint's "
                    "weights."
                )
        self.epoch, self.batch = state_dict["epoch"], state_dict["batch"]
        return True


class EpochLoader(Generic[Batch]):
    """The batches of one epoch after the other, from a position on.

    Each iteration is one epoch, or the rest of an interrupted one; the length is always that of a whole epoch, as
    Lightning counts the batches trained on before a restart as well.

    Args:
        position: Advances with each batch.
        length: Batches per epoch.
        batches: Maps the epoch and its first batch to the batches from there to its end. Their random draws depend on
            nothing but these two and a seed, so that a restart repeats them.
        trainer: The one that trains, if any.
    """

    def __init__(
        self,
        position: DataPosition,
        length: int,
        batches: Callable[[int, int], Iterator[Batch]],
        trainer: Trainer | None,
    ) -> None:
        self.position = position
        self.length = length
        self.batches = batches
        self.trainer = trainer

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing moves before the first batch: Lightning calls iter() without starting an epoch.
        position = self.position
        ended = position.batch >= self.length
        if self.trainer is not None and self.trainer.training:
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            if done >= self.trainer.num_training_batches:
                return  # resumed at the very end of an epoch, Lightning may draw a batch more than the epoch has
            ended = position.batch > 0 and done == 0  # limit_train_batches may have ended it before its last batch
        if ended:
            position.epoch, position.batch = position.epoch + 1, 0
        # to overfit, every epoch has the batches of the first
        epoch = 0 if getattr(self.trainer, "overfit_batches", 0) else position.epoch
        for batch in self.batches(epoch, position.batch):
            position.batch += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the data module keeps the position. Lightning warns of a loader without this."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Do nothing: the data module has loaded the position."""


def check_evaluation(state_dict: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Check that a resumed run validates as before.

    Args:
        state_dict: State of the data module in the checkpoint; an older one does not say how it validated.
        settings: All that changes the figures of a validation, now.

    Raises:
        ValueError: They could not be compared with those before.
    """
    if state_dict["epoch"] == state_dict["batch"] == 0:  # there is none to compare with
        return
    for name, now in settings.items():
        if (before := state_dict.get(name, now)) != now:
            raise ValueError(not_comparable(name, before, now))


def settings_of_part(data: Any, *names: str) -> dict[str, Any]:
    """Return the options of a data module that decide what a validation reads which is limited to some batches."""
    limit = 1.0 if data.trainer is None else data.trainer.limit_val_batches
    is_whole = limit == 0 or (limit == 1 and isinstance(limit, float))
    return {} if is_whole else {name: getattr(data, name) for name in names}


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """Return the rank of this process and the number of processes, ``(0, 1)`` without a Trainer."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
