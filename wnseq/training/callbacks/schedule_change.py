"""A word about the learning rate where a resumed run is longer or shorter than its first part was planned."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR

from wnseq.training._lightning_internals import resumed_from

__all__ = ["ScheduleChange"]


class ScheduleChange(Callback):
    """Print from what to what the learning rate jumps where a resumed run has another schedule than its checkpoint.

    A schedule over the whole run, such as a cosine, depends on the number of epochs. A checkpoint holds the rate that
    the planned number gave; with another number the next step has the rate of the new schedule.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ScheduleChange()], logger=False, accelerator="cpu")
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if resumed_from(trainer) is None:
            return
        for schedule in (config.scheduler for config in trainer.lr_scheduler_configs):
            if not isinstance(schedule, LambdaLR):
                continue
            done = schedule.last_epoch
            for base, factor, last in zip(schedule.base_lrs, schedule.lr_lambdas, schedule.get_last_lr(), strict=True):
                before = float(last)
                if not math.isclose(before, float(base) * factor(done), rel_tol=1e-6, abs_tol=1e-12):
                    pl_module.print(
                        "this run is longer or shorter than its first part was planned, and its schedule with it: the "
                        f"learning rate goes from {before:.3g} to {float(base) * factor(done + 1):.3g}. To go on at a "
                        "rate of your own, start a new run from these weights: --model.init_from CHECKPOINT "
                        "--model.learning_rate RATE, without --ckpt_path\n"
                    )
                    break
