"""Step sizes that fall until the end of a run, and the length of the run."""

import math

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["cosine_schedule", "total_steps"]


def cosine_schedule(optimizer: Optimizer, total: int) -> LambdaLR:
    """Return a schedule that falls to zero along a cosine over ``total`` steps, and stays there.

    Torch's CosineAnnealingLR keeps the length of the first run when a run resumes with another one, and then rises.
    """
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))


def total_steps(trainer: Trainer) -> int:
    """Return how many steps of the optimiser a fit takes.

    Raises:
        ValueError: The fit has no end.
    """
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise ValueError("the schedule needs --trainer.max_epochs or --trainer.max_steps")
    return int(total)
