"""The mean of a metric over an epoch in which the run was stopped and resumed."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from wnseq.training._lightning_internals import add_epoch_sums, epoch_sums
from wnseq.training.ranks import all_gather_object

__all__ = ["EpochMeans"]


class EpochMeans(Callback):
    """Save the sums of the training metrics that are logged with ``on_epoch``, and go on with them in a resumed run.

    Lightning alone forgets them: what a resumed run logs at the epoch's end is the mean since the resume.

    Note:
        On another number of processes it is so here too. The state of a ``torchmetrics.Metric`` is the model's to save.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[EpochMeans()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._restored: dict[str, list[Tensor]] = {}
        self._processes: list[dict[str, list[Tensor]]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        if self._trainer is None:
            return {}
        add_epoch_sums(self._trainer, self._restored)
        own = self._restored | epoch_sums(self._trainer)
        return {"processes": all_gather_object(self._trainer, own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self._processes = state_dict.get("processes") or []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        of_ranks, self._processes = self._processes, []
        self._restored = of_ranks[trainer.global_rank] if len(of_ranks) == trainer.world_size else {}

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._restored:
            add_epoch_sums(trainer, self._restored)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        for key, (value, *counted) in self._restored.items():  # the run was resumed behind the epoch's last batch
            name = key.partition(".")[2]
            pl_module.log(name, value / counted[0] if counted else value, sync_dist=trainer.world_size > 1)
        self._restored = {}
