"""What is logged of an epoch in which the run was stopped."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from wnseq.training.callbacks.epoch_means import EpochMeans


class Logs(LightningModule):
    """Logs a number for each batch, reduced over the epoch in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        value = batch.inputs.mean()
        for how in ("mean", "sum", "min", "max"):
            self.log(how, value, on_step=False, on_epoch=True, reduce_fx=how, batch_size=index + 1)
        if index % 2:
            self.log("odd", value, on_step=True, on_epoch=True, batch_size=1)
        return (self.weight * value).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveSteps(Callback):
    """Saves each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(toy: ModuleType, folder: Path, *callbacks: Callback, resume: Path | None = None) -> dict[str, Any]:
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_epochs": 2}
    options |= {"enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(callbacks=[*callbacks, SaveSteps(folder)], **options)
    trainer.fit(Logs(), toy.Windows(7, 0), ckpt_path=resume)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_a_resumed_epoch_is_logged_as_a_whole(toy: ModuleType, tmp_path: Path) -> None:
    whole = fit(toy, tmp_path / "a", EpochMeans())
    for step in (3, 10, 12):
        assert fit(toy, tmp_path / f"b{step}", EpochMeans(), resume=tmp_path / f"a/{step}.ckpt") == whole
    with pytest.warns(UserWarning, match=r"add the following callbacks: \['EpochMeans'\]"):
        after = fit(toy, tmp_path / "c", resume=tmp_path / "a/12.ckpt")
    assert all(after[name] != whole[name] for name in ("mean", "sum"))


def test_a_chain_of_stops_keeps_the_sums(toy: ModuleType, tmp_path: Path) -> None:
    whole = fit(toy, tmp_path / "a", EpochMeans())
    fit(toy, tmp_path / "b", EpochMeans(), resume=tmp_path / "a/9.ckpt")
    assert fit(toy, tmp_path / "c", EpochMeans(), resume=tmp_path / "b/10.ckpt") == whole
