"""Where inside a run a checkpoint resumes to the bit, and how one that is saved in a validation does."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from wnseq.training._lightning_internals import gradient_is_pending, validation_follows

__all__ = ["awaits_validation", "begin_validation", "resumes_exactly", "rewind_validation"]

PROGRESS = "epoch_loop.val_loop.batch_progress"


def resumes_exactly(trainer: Trainer) -> bool:
    """Return True if a checkpoint after the training batch that is about to end resumes to the bit.

    Not at the end of an epoch, or before a validation: Lightning would skip what follows. Not while a gradient is
    accumulated, which no checkpoint holds.
    """
    is_last = trainer.is_last_batch or 0 < trainer.max_steps <= trainer.global_step
    return not (is_last or gradient_is_pending(trainer) or validation_follows(trainer))


def rewind_validation(checkpoint: Mapping[str, Any]) -> None:
    """Change a checkpoint that is saved in a validation so that the resumed run begins with the whole of it."""
    progress = checkpoint["loops"]["fit_loop"][PROGRESS]
    total, current = progress["total"], progress["current"]
    before = total["completed"] - current["completed"]
    # a batch that was started and not processed: so Lightning knows that a validation was left
    total |= {"ready": before + 1, "started": before + 1, "processed": before, "completed": before}
    current |= dict.fromkeys(current, 0)
    progress["is_last_batch"] = False


def awaits_validation(checkpoint: Mapping[str, Any]) -> bool:
    """Return True if the run that resumes from a checkpoint begins with a validation."""
    total = checkpoint["loops"]["fit_loop"][PROGRESS]["total"]
    return bool(total["started"] > total["processed"])


def begin_validation(trainer: Trainer) -> None:
    """Forget that an earlier validation was left, at the start of the next, which makes up for it."""
    total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.processed = total.completed
