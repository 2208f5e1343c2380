"""A resumed run goes on in the epoch that the run before it ended in, and counts each epoch once."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from wnseq.training._lightning_internals import start_next_epoch

__all__ = ["ResumeEpoch"]


class ResumeEpoch(Callback):
    """Resume a run in the epoch that it ended in, and count each epoch once.

    Lightning counts an epoch that ``max_steps``, ``max_time`` or a callback ended as a whole one. A resumed run then
    leaves the rest of its batches out or, with ``max_steps``, ends an epoch early; with ``max_steps`` it also counts
    an epoch that was over twice.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ResumeEpoch()], logger=False, accelerator="cpu")
    """

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        loop = checkpoint["loops"]["fit_loop"]  # which Lightning loads after this
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
        is_counted = epochs["current"]["processed"] == epochs["current"]["started"] > epochs["current"]["completed"]
        if is_counted and not batches["is_last_batch"]:
            for count in (epochs["current"], epochs["total"]):
                count["processed"] -= 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        start_next_epoch(trainer)
