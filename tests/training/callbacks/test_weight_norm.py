"""Initialisation from the first batch, once and never when a run resumes; directions whose norm stays."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import wnseq
from wnseq.nn._linear import WNLinear
from wnseq.optim import direction_norms
from wnseq.training.callbacks.weight_norm import DataInit, Renormalize, model_input
from wnseq.training.cli.log_filter import filter_lightning_logs

PLAIN = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)


def fit(
    folder: Path, model: LightningModule, callbacks: list[Callback], resume: Path | None = None, **options: Any
) -> Trainer:
    torch.manual_seed(7)
    with filter_lightning_logs():
        trainer = Trainer(accelerator="cpu", default_root_dir=str(folder), callbacks=callbacks, **{**PLAIN, **options})
        trainer.fit(model, ckpt_path=resume, weights_only=True)
    return trainer


# ---- DataInit


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


class Regressor(LightningModule):
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

    def train_dataloader(self) -> DataLoader[Pair]:
        return DataLoader(Pairs(), batch_size=4, shuffle=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Generators(Callback):
    """Record the state of the random generator when each step begins."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_before_zero_grad(self, *_: Any) -> None:
        self.seen.append(torch.get_rng_state())


def test_data_init_uses_the_first_batch_which_is_then_trained_on_as_any_other(tmp_path: Path) -> None:
    with_it, without = Regressor(), Regressor()
    start, seen, plain = DataInit(), Generators(), Generators()
    fit(tmp_path, with_it, [start, seen], max_epochs=2)
    fit(tmp_path, without, [plain], max_epochs=2)
    assert start.report is not None and sorted(start.report.changed) == ["head", "rnn"]
    trained = [x for x, recorded in with_it.calls if recorded]
    assert len(trained) == len(without.calls) == 12
    for x, (y, _) in zip(trained, without.calls, strict=True):
        assert torch.equal(x, y)
    for one, other in zip(seen.seen, plain.seen, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(x, trained[0]) for x, recorded in with_it.calls if not recorded)


def test_the_first_step_begins_with_the_initialised_weights(tmp_path: Path) -> None:
    class Look(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            if trainer.global_step == 0:
                self.y = pl_module.eval()(pl_module.calls[0][0]).detach()
                pl_module.train()

    look = Look()
    fit(tmp_path, Regressor(), [DataInit(init_scale={"head": 0.5}), look], max_steps=1)
    torch.testing.assert_close(look.y.std(correction=0), torch.tensor(0.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(look.y.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_data_init_acts_once_also_while_gradients_are_accumulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        "wnseq.training.callbacks.weight_norm.data_init", lambda model, batch, *_, **__: calls.append(batch)
    )
    fit(tmp_path, Regressor(), [DataInit()], max_epochs=2, accumulate_grad_batches=3)
    assert len(calls) == 1


def test_data_init_never_acts_when_a_run_resumes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    half, again = Regressor(), DataInit()
    path = tmp_path / "half.ckpt"
    fit(tmp_path, half, [DataInit()], max_epochs=1).save_checkpoint(path)
    fit(tmp_path, Regressor(), [again], max_epochs=2, resume=path)
    assert again.report is None
    fit(tmp_path, Regressor(), [], max_epochs=0).save_checkpoint(path)
    fit(tmp_path, Regressor(), [again], max_epochs=1, resume=path)  # though no step was taken yet
    assert again.report is None


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.parametrize("tuner", [LearningRateFinder(num_training_steps=5), BatchSizeFinder(max_trials=1)])
def test_data_init_acts_after_a_tuner(tmp_path: Path, tuner: Callback) -> None:
    class Tuned(Regressor):
        lr, batch_size = 0.01, 4

    start = DataInit()
    fit(tmp_path, Tuned(), [tuner, start], max_epochs=1)
    assert start.report is not None


def test_a_second_fit_of_a_model_goes_on(tmp_path: Path) -> None:
    model, start = Regressor(), DataInit()
    fit(tmp_path, model, [start], max_steps=1)
    report = start.report
    fit(tmp_path, model, [start], max_steps=1)
    assert start.report is report
    fit(tmp_path, Regressor(), [start], max_steps=1)
    assert start.report is not report


def test_weights_that_were_loaded_are_overwritten_with_a_warning(tmp_path: Path) -> None:
    trained, model = Regressor(), Regressor()
    fit(tmp_path, trained, [], max_epochs=4)
    model.load_state_dict(trained.state_dict())
    with pytest.warns(UserWarning, match=r"overwrites .* loaded or changed: rnn.weight_ih_l0_g is not the norm"):
        fit(tmp_path, model, [DataInit()], max_steps=1)


def test_the_input_of_the_model_can_be_named(tmp_path: Path) -> None:
    start = DataInit(inputs=lambda batch: {"x": batch.x * 2}, horizon=3)
    model = Regressor()
    fit(tmp_path, model, [start], max_steps=1)
    assert start.report is not None and "at 3 steps" in start.report.notes["rnn"]
    assert torch.equal(model.calls[0][0], model.calls[-1][0] * 2)


def test_data_init_in_half_precision(tmp_path: Path) -> None:
    start = DataInit()
    fit(tmp_path, Regressor(), [start], max_steps=1, precision="bf16-true")
    assert start.report is not None and start.report.error < 0.02


def test_the_input_of_a_batch() -> None:
    x = torch.zeros(2)
    assert model_input(x) is x and model_input((x, 1)) is x and model_input([x]) is x
    with pytest.raises(
        TypeError, match=r"DataInit: the model's input must be a tensor .* got dict; name the model's input"
    ):
        model_input({"x": x})


# ---- Renormalize


class Cell(LightningModule):
    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or wnseq.WNGRUCell(3, 4)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss: Tensor = self.net(batch).square().sum()
        return loss

    def train_dataloader(self) -> DataLoader[Tensor]:
        rows: Any = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(rows, batch_size=4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Norms(Callback):
    """Record the norms after each batch, and before the first one."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not self.seen:
            self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(direction_norms(pl_module)["net.weight_ih_v"])


def test_the_norms_stay_and_without_it_they_do_not(tmp_path: Path) -> None:
    held, free = Norms(), Norms()
    fit(tmp_path, Cell(), [Renormalize(), held], max_epochs=1)
    fit(tmp_path, Cell(), [free], max_epochs=1)
    assert len(held.seen) == len(free.seen) == 7
    for norms in held.seen[1:]:
        torch.testing.assert_close(norms, held.seen[0])
    assert not torch.allclose(free.seen[-1], free.seen[0])


def test_renormalize_acts_after_a_step_and_not_after_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[LightningModule] = []
    monkeypatch.setattr("wnseq.training.callbacks.weight_norm.renormalize_", lambda model, norms: calls.append(model))
    fit(tmp_path, Cell(), [Renormalize()], max_epochs=1, accumulate_grad_batches=3)
    assert len(calls) == 2


def test_a_resumed_run_keeps_the_norms_and_repeats_the_uninterrupted_one(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = Cell()
    fit(tmp_path, whole, [Renormalize()], max_epochs=2)
    torch.manual_seed(1)
    half, first = Cell(), Renormalize()
    fit(tmp_path, half, [first], max_epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    again, second = Cell(), Renormalize()
    fit(tmp_path, again, [second], max_epochs=2, resume=tmp_path / "half.ckpt")
    for name, norms in first.norms.items():
        assert torch.equal(second.norms[name], norms)
    for one, other in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_each_model_keeps_the_norms_of_its_own(tmp_path: Path) -> None:
    callback, longer, first = Renormalize(), Cell(), Cell()
    fit(tmp_path, first, [callback], max_epochs=1)
    before = direction_norms(first)
    fit(tmp_path, first, [callback], max_epochs=1)
    for name, norms in direction_norms(first).items():
        torch.testing.assert_close(norms, before[name])
    longer.net.weight_ih = 10 * longer.net.weight_ih.detach()
    before = direction_norms(longer)
    fit(tmp_path, longer, [callback], max_epochs=1)
    for name, norms in direction_norms(longer).items():
        torch.testing.assert_close(norms, before[name])


def test_a_model_without_directions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Renormalize: Cell has no weight-normalised module of wnseq"):
        fit(tmp_path, Cell(nn.Linear(3, 4)), [Renormalize()], max_epochs=1)
