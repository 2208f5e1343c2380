"""Exact resume, throughput, the time of an epoch, the stop at a loss that is not finite."""

import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from wnseq.training.callbacks import basic

INSIDE = SimpleNamespace(  # of an epoch
    fit_loop=SimpleNamespace(
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=False)), _data_fetcher=None
    )
)


def draws() -> list[float]:
    return [random.random(), float(np.random.standard_normal()), float(torch.rand(()))]


def test_random_state_survives_a_checkpoint_of_plain_types(tmp_path: Path) -> None:
    np.random.standard_normal()  # leaves a second one behind, which is part of the state
    torch.save(basic.RngState().state_dict(), tmp_path / "state")
    expected = draws()
    restored = basic.RngState()
    restored.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    restored.on_train_epoch_start(INSIDE, None)  # type: ignore[arg-type]
    assert draws() == expected


@pytest.mark.parametrize(("index", "again"), [(0, False), (3, True)], ids=["first batch", "inside"])
def test_random_state_is_restored_again_inside_an_epoch_and_only_once(index: int, again: bool) -> None:
    callback: Any = basic.RngState()
    state = callback.state_dict()
    expected = draws()
    callback.load_state_dict(state)
    callback.on_train_epoch_start(INSIDE, None)
    draws()  # what making the loader's iterator may cost
    callback.on_train_batch_start(None, None, None, index)
    assert (draws() == expected) is again
    callback.on_train_batch_start(None, None, None, 5)
    callback.on_train_epoch_start(None, None)
    assert draws() != expected


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loader_that_shuffles_goes_on_with_the_order_of_the_uninterrupted_run(tmp_path: Path, epochs: int) -> None:
    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = torch.nn.Linear(1, 1), list[float]()

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            self.seen += batch.flatten().tolist()
            loss: torch.Tensor = self.net(batch).square().mean()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    def fit(seed: int, resume: Path | None = None) -> Model:
        torch.manual_seed(seed)
        save = ModelCheckpoint(tmp_path / str(seed), "{epoch}", save_top_k=-1)
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        own = Trainer(max_epochs=3, accelerator="cpu", callbacks=[basic.RngState(), save], **quiet)
        loader = DataLoader(torch.arange(12.0).view(12, 1), 2, shuffle=True)  # type: ignore[arg-type]
        own.fit(model := Model(), loader, ckpt_path=resume, weights_only=True)
        return model

    whole = fit(0)
    with pytest.warns(UserWarning, match="dirpath has changed"):
        resumed = fit(1, tmp_path / f"0/epoch={epochs - 1}.ckpt")
    assert len(resumed.seen) == 12 * (3 - epochs) and resumed.seen == whole.seen[12 * epochs :]


def test_throughput_follows_the_clock_and_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(basic.time, "perf_counter", lambda: now)
    logged: dict[str, float] = {}
    module = SimpleNamespace(log=lambda name, value, **_: logged.update({name: value}))
    throughput: Any = basic.Throughput("tokens", len)
    throughput.on_train_epoch_start(None, module)
    for _ in range(3):
        now += 0.5
        throughput.on_train_batch_end(SimpleNamespace(world_size=1), module, None, [0] * 20, 0)
        assert logged == {"train/tokens_per_s": pytest.approx(40)}
    now += 60
    throughput.on_validation_end(None, module)
    now += 0.25
    throughput.on_train_batch_end(SimpleNamespace(world_size=1), module, None, [0] * 20, 0)
    assert 40 < logged["train/tokens_per_s"] < 80


def test_throughput_is_logged_at_the_first_batch_and_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter(range(100))
    monkeypatch.setattr(basic.time, "perf_counter", lambda: next(steps) / 20)
    logged: list[float] = []
    module = SimpleNamespace(log=lambda name, value, **_: logged.append(value))
    throughput: Any = basic.Throughput("tokens", len)
    throughput.on_train_start(None, module)
    for batch_idx in range(25):
        throughput.on_train_batch_end(SimpleNamespace(world_size=2), module, None, [0] * batch_idx, batch_idx)
    counted = [sum(0.95 ** (last - k) * 2 * k for k in range(last + 1)) for last in (0, 10, 20)]
    waited = [sum(0.95**k for k in range(last + 1)) / 20 for last in (0, 10, 20)]
    assert logged == pytest.approx([count / wait for count, wait in zip(counted, waited, strict=True)])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(basic.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_time_of_an_epoch_excludes_validation(clock: SimpleNamespace) -> None:
    logged: list[tuple[str, float]] = []
    module: Any = SimpleNamespace(log=lambda name, value: logged.append((name, value)))
    callback: Any = basic.EpochTime()
    for batch in range(3):
        callback.on_train_batch_start(None, module, None, batch)
        clock.now += 2
    callback.on_validation_start(None, module)
    clock.now += 50
    callback.on_validation_end(None, module)
    callback.on_train_epoch_end(None, module)
    assert logged == [("train/seconds_per_epoch", 6.0)]


def test_the_time_of_the_rest_of_an_epoch_is_not_logged(clock: SimpleNamespace) -> None:
    module: Any = SimpleNamespace(log=lambda *_: pytest.fail("logged"))
    callback: Any = basic.EpochTime()
    callback.on_train_batch_start(None, module, None, 5)
    callback.on_validation_start(None, module)
    callback.on_validation_end(None, module)
    callback.on_train_epoch_end(None, module)


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoints(
    fails: Callable[..., str], here: Path
) -> None:
    error = fails(1, "--model.explode_at", "17")
    assert "the training loss is inf at step 17, epoch 1. Lower the learning rate" in error
    for name in ("best", "last"):
        checkpoint = torch.load(f"runs/toy/1/checkpoints/{name}.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 12
        assert all(torch.isfinite(weight).all() for weight in checkpoint["state_dict"].values())


def test_the_weights_have_not_seen_the_gradient_of_that_loss(
    toy: ModuleType, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(toy.ToyModel, "on_before_optimizer_step", lambda self, _: seen.append(self.global_step))
    fails(1, "--model.explode_at", "5")
    assert seen == [0, 1, 2, 3, 4]


class Process(SimpleNamespace):
    """One of two processes, as the callbacks see their Trainer."""

    def __init__(self, rank: int = 0) -> None:
        super().__init__(
            global_rank=rank, world_size=2, global_step=0, validating=False, state=SimpleNamespace(fn="fit")
        )


def test_ranks_with_the_same_weights_draw_differently_once_they_train() -> None:
    drawn = []
    for rank in (0, 1, 0):
        torch.manual_seed(5)
        basic.RngState().on_train_start(Process(rank), None)  # type: ignore[arg-type]
        drawn.append(draws())
    assert drawn[0] == drawn[2]
    assert all(one != other for one, other in zip(drawn[0], drawn[1], strict=True))


@pytest.mark.parametrize(
    ("saved", "said"),
    [([{}] * 3, "the checkpoint has the random generators of 3 processes, and this run has 2"),
     (None, "the checkpoint has no random generators of its processes, and this run has 2")],
)  # fmt: skip
def test_generators_of_another_number_of_processes_are_left_with_a_message(saved: Any, said: str) -> None:
    printed: list[str] = []
    callback: Any = basic.RngState()
    callback.load_state_dict({"processes": saved})
    callback.on_train_start(Process(1), SimpleNamespace(print=printed.append))
    callback.on_train_epoch_start(None, None)  # restores nothing
    assert len(printed) == 1 and printed[0].startswith(said)


@pytest.mark.parametrize(("exception", "saves"), [(RuntimeError(), False), (SIGTERMException(), True)])
def test_one_of_several_processes_that_fails_alone_saves_nothing(
    exception: BaseException, saves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[BaseException] = []
    monkeypatch.setattr(basic.ModelCheckpoint, "on_exception", lambda *args: saved.append(args[-1]))
    callback = basic.Checkpoint(save_on_exception=True)
    callback.on_exception(Process(), None, exception)  # type: ignore[arg-type]
    assert not saved  # before its first batch
    callback._trains = True
    callback.on_exception(Process(), None, exception)  # type: ignore[arg-type]
    assert bool(saved) is saves


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory .* exists")
@pytest.mark.parametrize(("batch", "saved"), [(6, []), (7, []), (8, [2]), (9, [])])
def test_an_error_amid_an_accumulated_gradient_saves_nothing(
    toy: ModuleType, tmp_path: Path, batch: int, saved: list[int]
) -> None:
    class Fail(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            if args[-1] == batch:
                raise OSError("unreadable")

    callbacks = [basic.Checkpoint(tmp_path, filename="{step}", save_on_exception=True), Fail()]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**quiet, accelerator="cpu", accumulate_grad_batches=4, max_epochs=1, callbacks=callbacks)
    with pytest.raises(OSError, match="unreadable"):
        trainer.fit(toy.ToyModel(), toy.ToyData())
    assert [torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("*.ckpt")] == saved


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory .* exists")
def test_a_resumed_run_validates_on_as_many_batches_or_on_none(toy: ModuleType, tmp_path: Path) -> None:
    def run(command: str, steps: int, ckpt_path: Path | None = None, **limits: float) -> None:
        callback = basic.Checkpoint(tmp_path, filename="best", monitor="val/loss", save_on_train_epoch_end=False)
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(**quiet, accelerator="cpu", max_steps=steps, callbacks=[callback], **limits)
        getattr(trainer, command)(toy.ToyModel(), toy.ToyData(), ckpt_path=ckpt_path)

    run("fit", 12, limit_val_batches=1)
    best = tmp_path / "best.ckpt"
    for limit in (1.0, 2):
        with pytest.raises(ValueError, match=f"with limit_val_batches 1, this one has {limit}: .*not comparable"):
            run("fit", 24, best, limit_val_batches=limit)
    run("test", 24, best)
    run("fit", 24, best, limit_val_batches=1)
    run("fit", 36, best, limit_val_batches=0)


def test_a_run_without_validations_keeps_the_limit_of_its_figures() -> None:
    callback: Any = basic.Checkpoint(monitor="val/loss")
    callback.best_model_score, callback._limit = torch.tensor(1.0), 2
    for now, saved in ((0, 2), (0.5, 0.5)):
        callback._trainer = SimpleNamespace(limit_val_batches=now)
        assert callback.state_dict()["limit_val_batches"] == saved
