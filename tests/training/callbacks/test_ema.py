"""The average of the weights: what it is, who sees it, what a checkpoint holds of it, and resume to the bit."""

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn

from wnseq.training.callbacks.ema import PolyakAverage
from wnseq.training.cli.log_filter import filter_lightning_logs

PLAIN = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary"], False)
BATCHES = 6


class Model(LightningModule):
    """A linear model that notes the weights it is evaluated with."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or nn.Linear(3, 1)
        self.first = next(iter(self.net.parameters()))
        self.validated: list[Tensor] = []
        self.tested: list[Tensor] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss: Tensor = self.net(batch.to(self.first.dtype)).square().mean()
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val/loss", self.net(batch.to(self.first.dtype)).square().mean())

    def on_validation_epoch_end(self) -> None:
        self.validated.append(self.first.detach().clone())

    def test_step(self, batch: Tensor, index: int) -> None:
        self.tested.append(self.first.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Moves(Callback):
    """Note the weights after each step, and what training goes on with."""

    def __init__(self) -> None:
        self.after: list[Tensor] = []
        self.before: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Model)
        self.before.append(pl_module.first.detach().clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Model)
        self.after.append(pl_module.first.detach().clone())


class Stop(Callback):
    """Stop after a step: by the Trainer's flag, by an exception there, or by one in the next validation."""

    def __init__(self, how: str, step: int = 4) -> None:
        self.how, self.step = how, step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step and self.how == "flag":
            trainer.should_stop = True
        if trainer.global_step == self.step and self.how == "exception":
            raise KeyboardInterrupt

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step >= self.step and self.how == "validation":
            raise KeyboardInterrupt


class Batches:
    """An epoch of random batches, whose position is part of a checkpoint."""

    def __init__(self, number: int, seed: int = 0) -> None:
        self.batches = torch.randn(number, 4, 3, generator=torch.Generator().manual_seed(seed))
        self.position = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        self.position %= len(self.batches)
        while self.position < len(self.batches):
            self.position += 1
            yield self.batches[self.position - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def trainer(callbacks: list[Callback], **options: Any) -> Trainer:
    defaults = {"max_epochs": 2, "num_sanity_val_steps": 0, "enable_checkpointing": False, "accelerator": "cpu"}
    return Trainer(callbacks=callbacks, **{**defaults, **PLAIN, **options})


def fit(callbacks: list[Callback], model: Model | None = None, resume: str | Path | None = None, **options: Any) -> Any:
    torch.manual_seed(1)
    model = model or Model()
    with filter_lightning_logs():
        (own := trainer(callbacks, **options)).fit(
            model, Batches(BATCHES), Batches(1, 1), ckpt_path=resume, weights_only=True
        )
    return own, model


def mean(weights: list[Tensor], memory: float) -> Tensor:
    """The average, one step after the other."""
    average = weights[0]
    for taken, weight in enumerate(weights[1:], 1):
        share = max(1 / memory, 9 / (10 + taken))
        average = (1 - share) * average + share * weight
    return average


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left.detach(), right.detach(), rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("memory", [1, 1.3, 3, 2000])
def test_the_average_is_the_exponential_mean_of_the_weights_after_each_step(memory: float) -> None:
    moves = Moves()
    _, model = fit([moves, PolyakAverage(memory)])
    assert len(moves.after) == 2 * BATCHES
    close(model.first, mean(moves.after, memory))


@pytest.mark.parametrize(("memory", "accumulate", "steps"), [(0.5, 1, 3), (1, 2, 3), (0.1, 1, 1)])
def test_a_memory_in_epochs_is_one_in_steps(memory: float, accumulate: int, steps: int) -> None:
    in_epochs = PolyakAverage(memory, "epochs")
    _, model = fit([in_epochs], accumulate_grad_batches=accumulate)
    _, same = fit([PolyakAverage(steps)], accumulate_grad_batches=accumulate)
    assert torch.equal(model.first, same.first)


def test_steps_are_averaged_and_not_batches() -> None:
    moves = Moves()
    _, model = fit([moves, PolyakAverage(3)], accumulate_grad_batches=2)
    close(model.first, mean(moves.after[1::2], 3))


def test_a_long_memory_has_the_decay_that_is_asked_for() -> None:
    average = PolyakAverage(2000)
    average._steps, average._taken, average._average = 2000, 10**6, {"first": torch.zeros(1)}
    for step in range(1, 2001):
        model = nn.Module()
        model.first = nn.Parameter(torch.ones(1))
        average._update(type("Counted", (), {"global_step": step})(), model)  # type: ignore[arg-type]
    assert average._average["first"].item() == pytest.approx(1 - 0.9995**2000, abs=1e-4)


def test_validation_sees_the_average_to_its_end_and_training_goes_on_without_it() -> None:
    moves = Moves()
    _, model = fit([moves, PolyakAverage(2)], val_check_interval=2)
    assert len(model.validated) == BATCHES
    for number, seen in enumerate(model.validated, 1):
        close(seen, mean(moves.after[: 2 * number], 2))
    assert all(torch.equal(*pair) for pair in zip(moves.before[1:], moves.after, strict=False))
    plain = Moves()
    fit([plain], val_check_interval=2)
    assert all(torch.equal(*pair) for pair in zip(plain.after, moves.after, strict=True))


def test_what_follows_training_sees_the_average_whatever_is_tested(folder: Path) -> None:
    moves, keep = Moves(), ModelCheckpoint(folder, filename="last")
    own, model = fit([moves, PolyakAverage(2), keep], enable_checkpointing=True)
    expected = mean(moves.after, 2)
    close(model.first, expected)
    again = Model()
    fresh = trainer([])
    with filter_lightning_logs():
        for path in (None, keep.best_model_path, keep.best_model_path):
            own.test(model, Batches(1), ckpt_path=path, verbose=False)
            close(model.tested[-1], expected)
            own.validate(model, Batches(1), ckpt_path=path, verbose=False)
            close(model.validated[-1], expected)
        fresh.test(again, Batches(1), ckpt_path=keep.best_model_path, verbose=False)
    close(again.tested[0], expected)


WAYS: dict[str, tuple[list[Callback], dict[str, Any]]] = {
    "the end of an epoch": ([], {"max_epochs": 1}),
    "enough steps": ([], {"max_steps": 4, "max_epochs": -1}),
    "the flag": ([Stop("flag")], {}),
    "enough time": ([], {"max_time": timedelta(microseconds=1), "max_epochs": -1}),
    "early stopping": ([EarlyStopping("val/loss", mode="max", patience=1)], {"val_check_interval": 2}),
    "an exception after a batch": ([Stop("exception")], {}),
    "an exception in validation": ([Stop("validation")], {}),
}


def saved(stop: list[Callback], options: dict[str, Any]) -> tuple[dict[str, Any], Moves, Path]:
    """Run to an end of any kind; return what the last checkpoint holds, the weights' moves, and its path."""
    moves, folder = Moves(), Path("kept")
    keep = ModelCheckpoint(folder, filename="last", save_on_exception=True, enable_version_counter=False)
    callbacks = [moves, *stop, PolyakAverage(2), keep]  # what stops comes before the average
    try:
        fit(callbacks, enable_checkpointing=True, **options)
    except SystemExit:
        assert stop
    return torch.load(folder / "last.ckpt", weights_only=True), moves, folder / "last.ckpt"


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_has_the_average_of_all_steps_however_the_run_ends(way: str) -> None:
    checkpoint, moves, _ = saved(*WAYS[way])
    steps = checkpoint["global_step"]
    assert steps == len(moves.after) == checkpoint["polyak_average"]["taken"]
    close(checkpoint["state_dict"]["net.weight"], mean(moves.after, 2))
    assert torch.equal(checkpoint["state_dict"]["first"], checkpoint["state_dict"]["net.weight"])
    assert torch.equal(checkpoint["current_model_state"]["net.weight"], moves.after[-1])
    assert torch.equal(checkpoint["current_model_state"]["first"], moves.after[-1])


@pytest.mark.parametrize("way", ["the end of an epoch", "an exception after a batch"])
def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(way: str) -> None:
    path = saved(*WAYS[way])[2]
    whole, resumed = Moves(), Moves()
    _, one = fit([whole, PolyakAverage(2)])
    _, other = fit([resumed, PolyakAverage(2)], resume=path)
    assert 0 < len(resumed.after) < len(whole.after) == 2 * BATCHES
    assert torch.equal(resumed.after[-1], whole.after[-1])
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(one.validated[-1], other.validated[-1])


def test_a_checkpoint_saved_by_hand_after_training_goes_on_too() -> None:
    own, _ = fit([PolyakAverage(3)], max_epochs=1)
    with filter_lightning_logs():
        own.save_checkpoint("after.ckpt", weights_only=False)
    _, other = fit([PolyakAverage(3)], resume="after.ckpt")
    _, one = fit([PolyakAverage(3)])
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


def test_a_sanity_check_before_a_resumed_run_sees_its_average() -> None:
    checkpoint, moves, path = saved(*WAYS["the end of an epoch"])
    _, model = fit([PolyakAverage(2)], resume=path, num_sanity_val_steps=1)
    assert torch.equal(model.validated[0], checkpoint["state_dict"]["net.weight"])
    assert len(moves.after) == BATCHES


def test_after_a_checkpoint_was_tested_there_is_nothing_to_go_on_with(folder: Path) -> None:
    keep = ModelCheckpoint(folder, filename="last", every_n_train_steps=4)
    own, model = fit([PolyakAverage(2), keep], enable_checkpointing=True)
    with filter_lightning_logs():
        own.test(model, Batches(1), ckpt_path=keep.best_model_path, verbose=False)
        own.save_checkpoint("after.ckpt", weights_only=False)
    assert "current_model_state" not in torch.load("after.ckpt", weights_only=True)


def test_a_resumed_run_without_a_step_left_has_the_average_and_saves_the_same() -> None:
    own, _ = fit([PolyakAverage(2)])
    own.save_checkpoint("whole.ckpt", weights_only=False)
    again, model = fit([PolyakAverage(2)], resume="whole.ckpt")
    again.save_checkpoint("again.ckpt", weights_only=False)
    whole, same = (torch.load(name, weights_only=True) for name in ("whole.ckpt", "again.ckpt"))
    assert whole["polyak_average"]["taken"] == same["polyak_average"]["taken"] == 2 * BATCHES
    for state in (model.state_dict(), same["state_dict"]):
        assert all(torch.equal(value, state[name]) for name, value in whole["state_dict"].items())
    kept = whole["current_model_state"], same["current_model_state"]
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())


class Metric(Callback):
    """Log a metric of its own at the end of each validation."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/own", self.values[trainer.global_step // 2 - 1])


BOUNCES = (4.0, 4.5, 4.4, 4.1, 3.9, 3.8)  # the fourth, at step 8, is the first above one more than two before


def triggered(moves: Callback, resume: str | None = None, stop: Callback | None = None, **options: Any) -> Any:
    average = PolyakAverage(math.inf, trigger="val/own", patience=2)
    callbacks = [Metric(*BOUNCES), moves, *([stop] if stop else []), average]
    return fit(callbacks, val_check_interval=2, resume=resume, **options)


def test_an_average_that_waits_begins_where_the_metric_stays_above_its_least(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moves = Moves()
    _, model = triggered(moves)
    assert "averaging the weights from step 8 on: val/own is 4.1000" in capsys.readouterr().out
    for number, seen in enumerate(model.validated, 1):
        weights = moves.after[8 : 2 * number]
        close(seen, torch.stack(weights).mean(0) if weights else moves.after[2 * number - 1])
    close(model.first, torch.stack(moves.after[8:]).mean(0))


@pytest.mark.parametrize("step", [5, 9], ids=["before it begins", "after"])
def test_an_average_that_waits_resumes_to_the_bit(step: int, folder: Path) -> None:
    whole, resumed = Moves(), Moves()
    _, one = triggered(whole)
    keep = ModelCheckpoint(folder, filename="last", save_on_exception=True, enable_version_counter=False)
    with pytest.raises(SystemExit):
        fit(
            [Metric(*BOUNCES), Stop("exception", step), PolyakAverage(math.inf, trigger="val/own", patience=2), keep],
            val_check_interval=2,
            enable_checkpointing=True,
        )
    _, other = triggered(resumed, resume="last.ckpt")
    assert 0 < len(resumed.after) < len(whole.after)
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(one.validated[-1], other.validated[-1])


def test_a_trigger_that_is_not_logged_is_refused() -> None:
    with pytest.raises(ValueError, match="the validation has no metric 'val/missing' to begin by"):
        fit([PolyakAverage(math.inf, trigger="val/missing")])
    with pytest.raises(ValueError, match="by which the average begins, needs a validation"):
        fit([PolyakAverage(math.inf, trigger="val/own")], limit_val_batches=0)
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        PolyakAverage(math.inf, trigger="val/loss", patience=0)


def test_a_second_fit_begins_a_new_average() -> None:
    average, moves = PolyakAverage(2), Moves()
    fit([average])
    _, model = fit([average, moves], max_epochs=1)
    close(model.first, mean(moves.after, 2))


def test_a_checkpoint_without_an_average_begins_one(capsys: pytest.CaptureFixture[str]) -> None:
    own, _ = fit([], max_epochs=1)
    with filter_lightning_logs():
        own.save_checkpoint("plain.ckpt", weights_only=False)
    moves = Moves()
    _, model = fit([moves, PolyakAverage(2)], resume="plain.ckpt")
    assert (
        "the checkpoint has no average of the weights to go on with: one begins with the next step"
        in capsys.readouterr().out
    )
    close(model.first, mean(moves.after, 2))
    assert len(moves.after) == BATCHES


def test_an_average_that_waits_does_not_go_on_with_an_exponential_one(capsys: pytest.CaptureFixture[str]) -> None:
    moves, resumed = Moves(), Moves()
    own, _ = fit([moves, PolyakAverage(2)], max_epochs=1)
    with filter_lightning_logs():
        own.save_checkpoint("exponential.ckpt", weights_only=False)
    _, model = triggered(resumed, resume="exponential.ckpt")
    assert "to go on with: one begins once val/own stays above its least" in capsys.readouterr().out
    assert torch.equal(resumed.before[0], moves.after[-1])
    assert torch.equal(model.first, resumed.after[-1])  # it was still to begin


def test_half_types_are_averaged_in_single_precision() -> None:
    moves = Moves()
    own, model = fit([moves, PolyakAverage(2000)], Model(nn.Linear(3, 1).bfloat16()))
    with filter_lightning_logs():
        own.save_checkpoint("half.ckpt", weights_only=False)
    checkpoint = torch.load("half.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["net.weight"].dtype == model.first.dtype == torch.bfloat16
    exact = checkpoint["polyak_average"]["average"]["first"]
    assert exact.dtype == torch.float32
    close(exact, mean([weight.float() for weight in moves.after], 2000))
    assert torch.equal(model.first, exact.bfloat16())


def test_buffers_are_the_models_own() -> None:
    _, model = fit([PolyakAverage(2)], Model(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))))
    _, plain = fit([], Model(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))))
    assert torch.equal(model.net[1].num_batches_tracked, plain.net[1].num_batches_tracked)
    assert model.net[1].num_batches_tracked == 2 * BATCHES


@pytest.mark.parametrize("memory", [0, -1, math.nan])
def test_a_memory_of_nothing_is_refused(memory: float) -> None:
    with pytest.raises(ValueError, match=f"PolyakAverage: memory must be greater than 0, got {memory}"):
        PolyakAverage(memory)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="unit must be steps or epochs, got 'days'"):
        PolyakAverage(1, "days")  # type: ignore[arg-type]


def test_a_checkpoint_of_weights_only_is_refused(folder: Path) -> None:
    keep = ModelCheckpoint(folder, save_weights_only=True)
    with pytest.raises(ValueError, match="leave save_weights_only out"):
        fit([PolyakAverage(1), keep], enable_checkpointing=True)


def test_epochs_of_no_known_length_are_refused() -> None:
    class Endless(Batches):
        __len__ = None

    with (
        filter_lightning_logs(),
        pytest.raises(ValueError, match="no length, so 2 epochs are no number of steps; give the memory in"),
    ):
        trainer([PolyakAverage(2, "epochs")]).fit(Model(), Endless(3), Batches(1))


@pytest.mark.parametrize("why", ["sharded", "renamed"])
def test_a_parameter_that_no_checkpoint_could_hold_is_refused(why: str) -> None:
    model = Model()
    if why == "sharded":
        model.net.weight.full_tensor = None
    else:
        model.register_state_dict_post_hook(lambda module, state, *_: state.update(other=state.pop("first")))
    with pytest.raises(ValueError, match=r"the parameter first is sharded, or not in the state dict under its own nam"):
        fit([PolyakAverage(1)], model)
