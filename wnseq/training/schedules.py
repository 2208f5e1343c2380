"""Schedules of the step size, the length of the run, a step size that was found, and one for a single step."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from wnseq.training.evaluation import is_fitting

__all__ = [
    "Schedule",
    "check_warmup",
    "one_cycle",
    "scaled_rates",
    "schedule_steps",
    "step_plateau",
    "total_steps",
    "use_found_learning_rate",
]

Schedule = Literal["constant", "cosine", "one_cycle", "plateau", "decay"]


def check_warmup(kind: Schedule, warmup: int) -> None:
    """Raise ValueError for a warm-up of a schedule that has none, or its own."""
    if warmup and kind in ("plateau", "one_cycle"):
        has = "has its own" if kind == "one_cycle" else "has none"
        raise ValueError(f"warmup must be 0 with the schedule {kind}, which {has}, got {warmup}")


def schedule_steps(
    optimizer: Optimizer,
    trainer: Trainer,
    kind: Schedule | Callable[[float], float],
    *,
    warmup: int = 0,
    decay_factor: float = 0.5,
    decay_after: int = 0,
    metric: str = "val/loss",
) -> dict[str, Any]:
    """Return an optimiser with a schedule of its step size, as ``configure_optimizers`` hands them to Lightning.

    Args:
        optimizer: Any, its step sizes the largest ones.
        trainer: The Trainer of the fit.
        kind: ``constant``; ``cosine`` to zero over the whole run; ``one_cycle`` as :func:`one_cycle`; ``plateau``
            multiplies by decay_factor whenever the metric has not improved, ``decay`` after every epoch past
            decay_after. Or a function of a schedule of your own, from the share of all steps that is done, 0 at the
            first, to the factor of the step size.
        warmup: Steps over which it first rises from zero, in a straight line.
        decay_factor: Factor of ``plateau`` and ``decay``.
        decay_after: Epochs before ``decay`` begins.
        metric: Metric of ``plateau``, which the model steps by :func:`step_plateau`.

    Raises:
        ValueError: The run has no end, and the schedule needs one; there is no validation, or there is a warm-up, with
            ``plateau``; there is a warm-up with ``one_cycle``, which has its own.

    Source:
        Loshchilov & Hutter 2017, arXiv 1608.03983 (cosine); Smith & Topin 2017, arXiv 1708.07120 (one-cycle).
    """
    if isinstance(kind, str):
        check_warmup(kind, warmup)
    if kind == "plateau":
        if not trainer.enable_validation:
            raise ValueError("the schedule plateau needs a validation: loaders, and limit_val_batches not 0")
        plateau = ReduceLROnPlateau(optimizer, factor=decay_factor, patience=0)
        never = {"interval": "epoch", "frequency": sys.maxsize, "monitor": metric}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, **never}}
    # LambdaLR, since torch's CosineAnnealingLR keeps the length of the first run when one resumes with another, and
    # then rises
    if callable(kind) or kind in ("cosine", "one_cycle"):
        total_steps(trainer)  # refuses a run without an end
    elif kind == "decay":
        trainer.fit_loop.setup_data()  # which Lightning leaves for later where steps alone end the run

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if kind == "constant":
            return 1.0
        if kind == "decay":
            steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            return float(decay_factor ** max(0, step // steps_per_epoch + 1 - decay_after))
        # counted at each step: Lightning's BatchSizeFinder changes the length after the schedules are made
        done = (step - warmup) / max(1, total_steps(trainer) - warmup)
        if callable(kind):
            return kind(done)
        if kind == "cosine":
            return _cosine(1, 0, done)
        return one_cycle(done)

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def step_plateau(model: LightningModule, loss: float) -> None:
    """Step the schedule ``plateau`` of a fit; do nothing elsewhere. Call it at the end of each validation.

    Lightning's own step comes after the checkpoints of the epoch's end, and not at all in an epoch that was resumed.

    Args:
        model: Model that is validated.
        loss: Its loss.
    """
    schedule = model.lr_schedulers() if is_fitting(model.trainer) else None
    if isinstance(schedule, ReduceLROnPlateau):
        schedule.step(loss)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@contextmanager
def scaled_rates(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Multiply the step sizes of an optimiser by a factor inside the block: one step of a batch of another length."""
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def one_cycle(progress: float) -> float:
    """Return the factor of the step size after a share of all steps: up along a cosine, and further down again.

    It rises over the first 0.3 of the steps from 1/25 to 1, and falls to 4e-6: the defaults of torch's OneCycleLR. The
    momentum, which goes the other way there, is not changed.

    Source:
        Smith & Topin 2017, arXiv 1708.07120; the cosines are fastai's.
    """
    rise = 0.3
    return _cosine(1 / 25, 1, progress / rise) if progress < rise else _cosine(1, 4e-6, (progress - rise) / (1 - rise))


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
