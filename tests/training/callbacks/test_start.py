"""The start from the first batch: once, with nothing taken from the run, and never when it resumes."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import wnseq
from wnseq.nn._linear import WNLinear
from wnseq.training.callbacks.weight_norm import DataInit, first_batch
from wnseq.training.cli.log_filter import filter_lightning_logs

PLAIN = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Pairs(Dataset[Pair]):
    def __init__(self) -> None:
        self.rows = torch.randn(24, 5, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        return Pair(self.rows[index], self.rows[index].sum(-1))


class Model(LightningModule):
    """A recurrent net, a layer, and dropout that draws in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head, self.drop = wnseq.WNGRU(3, 6, batch_first=True), WNLinear(6, 1), nn.Dropout(0.5)
        self.calls: list[tuple[Tensor, bool]] = []  # inputs, and whether a gradient was recorded

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((x, torch.is_grad_enabled()))
        y: Tensor = self.head(self.drop(self.rnn(x)[0])).squeeze(-1)
        return y

    def training_step(self, batch: Pair, index: int) -> Tensor:
        return nn.functional.mse_loss(self(batch.x), batch.y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Generators(Callback):
    """Record the state of the random generator when each step begins."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_before_zero_grad(self, *_: Any) -> None:
        self.seen.append(torch.get_rng_state())


def fit(folder: Path, model: Model, callbacks: list[Callback], resume: Path | None = None, **options: Any) -> Trainer:
    torch.manual_seed(7)
    with filter_lightning_logs():
        trainer = Trainer(accelerator="cpu", default_root_dir=str(folder), callbacks=callbacks, **{**PLAIN, **options})
        loader = DataLoader(Pairs(), batch_size=4, shuffle=True)
        trainer.fit(model, loader, ckpt_path=resume, weights_only=True)
    return trainer


def test_it_sets_the_start_from_the_first_batch_which_is_trained_on_all_the_same(tmp_path: Path) -> None:
    with_it, without = Model(), Model()
    start, seen, plain = DataInit(), Generators(), Generators()
    fit(tmp_path, with_it, [start, seen], max_epochs=2)
    fit(tmp_path, without, [plain], max_epochs=2)
    assert start.started is not None and sorted(start.started.changed) == ["head", "rnn"]
    trained = [x for x, recorded in with_it.calls if recorded]
    assert len(trained) == len(without.calls) == 12
    for x, (y, _) in zip(trained, without.calls, strict=True):
        assert torch.equal(x, y)
    for one, other in zip(seen.seen, plain.seen, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(x, trained[0]) for x, recorded in with_it.calls if not recorded)


def test_the_first_step_begins_at_the_start_that_was_set(tmp_path: Path) -> None:
    class Look(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            if trainer.global_step == 0:
                self.y = pl_module.eval()(pl_module.calls[0][0]).detach()
                pl_module.train()

    look = Look()
    fit(tmp_path, Model(), [DataInit(init_scale={"head": 0.5}), look], max_steps=1)
    torch.testing.assert_close(look.y.std(correction=0), torch.tensor(0.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(look.y.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_once_also_while_gradients_are_accumulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        "wnseq.training.callbacks.weight_norm.data_init", lambda model, batch, *_, **__: calls.append(batch)
    )
    fit(tmp_path, Model(), [DataInit()], max_epochs=2, accumulate_grad_batches=3)
    assert len(calls) == 1


def test_never_when_a_run_resumes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    half, again = Model(), DataInit()
    path = tmp_path / "half.ckpt"
    fit(tmp_path, half, [DataInit()], max_epochs=1).save_checkpoint(path)
    fit(tmp_path, Model(), [again], max_epochs=2, resume=path)
    assert again.started is None
    fit(tmp_path, Model(), [], max_epochs=0).save_checkpoint(path)
    fit(tmp_path, Model(), [again], max_epochs=1, resume=path)  # though no step was taken yet
    assert again.started is None


def test_what_the_model_is_called_with_can_be_said(tmp_path: Path) -> None:
    start = DataInit(inputs=lambda batch: {"x": batch.x * 2}, horizon=3)
    model = Model()
    fit(tmp_path, model, [start], max_steps=1)
    assert start.started is not None and "at 3 steps" in start.started.notes["rnn"]
    assert torch.equal(model.calls[0][0], model.calls[-1][0] * 2)


def test_in_half_precision(tmp_path: Path) -> None:
    start = DataInit()
    fit(tmp_path, Model(), [start], max_steps=1, precision="bf16-true")
    assert start.started is not None and start.started.error < 0.02


def test_the_input_of_a_batch() -> None:
    x = torch.zeros(2)
    assert first_batch(x) is x and first_batch((x, 1)) is x and first_batch([x]) is x
    with pytest.raises(
        TypeError, match=r"DataInit: the model's input must be a tensor .* got dict; say what the model"
    ):
        first_batch({"x": x})
