"""The length of a run, for step sizes that fall until its end."""

from lightning.pytorch import Trainer

__all__ = ["total_steps"]


def total_steps(trainer: Trainer) -> int:
    """Return how many steps of the optimiser a fit takes.

    Raises:
        ValueError: The fit has no end.
    """
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise ValueError("the schedule needs --trainer.max_epochs or --trainer.max_steps")
    return int(total)
