"""How long an epoch takes, in the log of a run."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EpochTime(Callback):
    """Log ``train/seconds_per_epoch``, validation not counted; of an epoch that was not seen whole, nothing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[EpochTime()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._paused = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if batch_idx == 0:
            self._began = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._began is not None:
            self._began += time.perf_counter() - self._paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._began is not None:
            pl_module.log("train/seconds_per_epoch", time.perf_counter() - self._began)
        self._began = None
