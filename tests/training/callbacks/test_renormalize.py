"""Directions held at their length: at each step, over a checkpoint, and only where there are any."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import wnseq
from wnseq.optim import direction_norms
from wnseq.training.callbacks.weight_norm import Renormalize
from wnseq.training.cli.log_filter import filter_lightning_logs

PLAIN = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)


class Model(LightningModule):
    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or wnseq.WNGRUCell(3, 4)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss: Tensor = self.net(batch).square().sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Norms(Callback):
    """Record the norms after each batch, and how they stand when the first one begins."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not self.seen:
            self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(direction_norms(pl_module)["net.weight_ih_v"])


def fit(folder: Path, model: Model, callbacks: list[Callback], resume: Path | None = None, **options: Any) -> Trainer:
    windows: Any = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    with filter_lightning_logs():
        trainer = Trainer(accelerator="cpu", default_root_dir=str(folder), callbacks=callbacks, **{**PLAIN, **options})
        trainer.fit(model, DataLoader[Tensor](windows, batch_size=4), ckpt_path=resume, weights_only=True)
    return trainer


def test_the_norms_stay_and_without_it_they_do_not(tmp_path: Path) -> None:
    held, free = Norms(), Norms()
    fit(tmp_path, Model(), [Renormalize(), held], max_epochs=1)
    fit(tmp_path, Model(), [free], max_epochs=1)
    assert len(held.seen) == len(free.seen) == 7
    for norms in held.seen[1:]:
        torch.testing.assert_close(norms, held.seen[0])
    assert not torch.allclose(free.seen[-1], free.seen[0])


def test_it_acts_after_a_step_and_not_after_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[LightningModule] = []
    monkeypatch.setattr("wnseq.training.callbacks.weight_norm.renormalize_", lambda model, norms: calls.append(model))
    fit(tmp_path, Model(), [Renormalize()], max_epochs=1, accumulate_grad_batches=3)
    assert len(calls) == 2


def test_a_resumed_run_keeps_the_start_and_repeats_the_uninterrupted_one(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = Model()
    fit(tmp_path, whole, [Renormalize()], max_epochs=2)
    torch.manual_seed(1)
    half, first = Model(), Renormalize()
    fit(tmp_path, half, [first], max_epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    again, second = Model(), Renormalize()
    fit(tmp_path, again, [second], max_epochs=2, resume=tmp_path / "half.ckpt")
    for name, norms in first.norms.items():
        assert torch.equal(second.norms[name], norms)
    for one, other in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_without_directions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Renormalize: Model has no weight-normalised module of wnseq"):
        fit(tmp_path, Model(nn.Linear(3, 4)), [Renormalize()], max_epochs=1)
