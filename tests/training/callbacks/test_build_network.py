"""A network that is made before the callbacks of a run are set up."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from wnseq.training.callbacks.build_network import BuildNetwork, build_network_first
from wnseq.training.cli.log_filter import filter_lightning_logs


class Late(LightningModule):
    """A model without a network, until there is a run."""

    def __init__(self) -> None:
        super().__init__()
        self.network: torch.nn.Linear | None = None

    def build_from_data(self) -> None:
        if self.network is None:
            self.network = torch.nn.Linear(2, 1)

    def configure_callbacks(self) -> list[Callback]:
        build_network_first(self.trainer)
        return [ModelLooks()]

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        assert self.network is not None
        return self.network(batch).sum()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Looks(Callback):
    """Counts the parameters that it finds in ``setup``."""

    found = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.found = len(list(pl_module.parameters()))


class ModelLooks(Callback):
    """One that the model adds. Lightning drops a user's callback for one of a subclass."""

    found = 0
    setup = Looks.setup  # type: ignore[assignment]


@pytest.mark.filterwarnings("ignore:The .train_dataloader. does not have many workers")
def test_other_callbacks_find_the_network_in_every_fit() -> None:
    model, users = Late(), Looks()
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    with filter_lightning_logs():
        trainer = Trainer(accelerator="cpu", callbacks=[users], max_steps=1, **quiet)  # type: ignore[arg-type]
        for _ in range(2):
            trainer.fit(model, DataLoader(torch.ones(2, 2)))  # type: ignore[arg-type]
    (models,) = [callback for callback in trainer.callbacks if isinstance(callback, ModelLooks)]  # type: ignore[attr-defined]
    assert users.found == models.found == 2
    assert len([callback for callback in trainer.callbacks if isinstance(callback, BuildNetwork)]) == 1  # type: ignore[attr-defined]


def test_an_evaluation_without_a_network_is_refused() -> None:
    model, callback, trainer = Late(), BuildNetwork(), Trainer(accelerator="cpu", logger=False)
    for start in (callback.on_validation_start, callback.on_test_start, callback.on_predict_start):
        with pytest.raises(ValueError, match="no network yet: fit the model first, or load a checkpoint of it"):
            start(trainer, model)
    model.build_from_data()
    callback.on_test_start(trainer, model)
