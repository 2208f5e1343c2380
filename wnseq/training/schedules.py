"""Step sizes that fall until the end of a run, the length of the run, and a step size that was found."""

import math

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["cosine_schedule", "linear_schedule", "one_cycle", "total_steps", "use_found_learning_rate"]


def cosine_schedule(optimizer: Optimizer, total: int) -> LambdaLR:
    """Return a schedule that falls to zero along a cosine over ``total`` steps, and stays there.

    Torch's CosineAnnealingLR keeps the length of the first run when a run resumes with another one, and then rises.
    """
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))


def linear_schedule(optimizer: Optimizer, total: int) -> LambdaLR:
    """Return a schedule that falls to zero linearly over ``total`` steps, and stays there."""
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))


def one_cycle(progress: float, rise: float = 0.25, start: float = 1 / 25, end: float = 1e-5) -> float:
    """Return the factor of the step size after a share of all steps: up along a cosine, and further down again.

    Args:
        progress: The share, from 0 to 1.
        rise: The share in which the factor rises from ``start`` to 1.
        start: Factor of the first step.
        end: Factor that it falls to.

    Note:
        The defaults are fastai's. Its momentum, which goes the other way, is not changed here.

    Source:
        Smith & Topin 2017, arXiv 1708.07120; the cosines are fastai's.
    """
    low, share = (start, progress / rise) if progress < rise else (end, (1 - progress) / (1 - rise))
    return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * min(1.0, max(0.0, share))))


def total_steps(trainer: Trainer) -> int:
    """Return how many steps of the optimiser a fit takes.

    Raises:
        ValueError: The fit has no end.
    """
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise ValueError("the schedule needs --trainer.max_epochs or --trainer.max_steps")
    return int(total)


def use_found_learning_rate(model: LightningModule) -> None:
    """Start the schedules of a fit from ``model.hparams.learning_rate``. Call it in ``on_fit_start``.

    Parameter groups with smaller step sizes keep their share of the largest.

    Lightning's LearningRateFinder sets it after the schedules are made, which would return to the old one at the first
    step.
    """
    rate = model.hparams["learning_rate"]
    for config in model.trainer.lr_scheduler_configs:
        schedule = config.scheduler
        bases = getattr(schedule, "base_lrs", [rate])
        largest = float(max(bases, default=rate))
        if largest != rate:
            schedule.base_lrs = [rate * float(base) / largest for base in bases]
            rates = zip(schedule.base_lrs, schedule.get_last_lr(), strict=True)
            for group, (base, last) in zip(schedule.optimizer.param_groups, rates, strict=True):
                group["lr"], group["initial_lr"] = rate * float(last) / largest, base
