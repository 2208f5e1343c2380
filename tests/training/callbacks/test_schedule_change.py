"""A resumed run that is longer than planned says where its learning rate jumps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wnseq.training import ScheduleChange
from wnseq.training.cli.log_filter import filter_lightning_logs
from wnseq.training.schedules import schedule_steps

QUIET = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)


class Line(LightningModule):
    """A line, by SGD with a schedule over the whole run, or without one."""

    def __init__(self, cosine: bool) -> None:
        super().__init__()
        self.net, self.cosine = nn.Linear(1, 1), cosine

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.net(batch).square().mean()

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(4, 1), batch_size=1)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), 0.1)
        schedule = schedule_steps(sgd, self.trainer, "cosine")["lr_scheduler"]["scheduler"] if self.cosine else None
        schedule = schedule or torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(epochs: int, folder: Path, cosine: bool = True, ckpt_path: Path | None = None) -> Path:
    options: Any = {**QUIET, "default_root_dir": folder, "accelerator": "cpu"}
    with filter_lightning_logs():
        trainer = Trainer(max_epochs=epochs, callbacks=[ScheduleChange()], **options)
        trainer.fit(Line(cosine), ckpt_path=ckpt_path)
        trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return folder / f"{epochs}.ckpt"


def test_a_jump_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = fit(2, tmp_path)
    assert capsys.readouterr().out == ""
    fit(4, tmp_path, ckpt_path=done)
    out = capsys.readouterr().out
    assert "longer or shorter than its first part was planned" in out
    assert "the learning rate goes from 0 to 0.0402. To go on at a rate of your own" in out


def test_a_rate_that_stays_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(4, tmp_path, cosine=False, ckpt_path=fit(2, tmp_path, cosine=False))
    assert capsys.readouterr().out == ""
