"""Exact resume, throughput, the guard against a loss that is not finite."""

import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wnseq.training import callbacks


def draws() -> list[float]:
    return [random.random(), float(np.random.standard_normal()), float(torch.rand(()))]


def test_random_state_survives_a_checkpoint_of_plain_types(tmp_path: Path) -> None:
    np.random.standard_normal()  # leaves a second one behind, which is part of the state
    torch.save(callbacks.RandomState().state_dict(), tmp_path / "state")
    expected = draws()
    restored = callbacks.RandomState()
    restored.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    restored.on_train_epoch_start(None, None)  # type: ignore[arg-type]
    assert draws() == expected


@pytest.mark.parametrize(("index", "again"), [(0, False), (3, True)], ids=["first batch", "inside"])
def test_random_state_is_restored_again_inside_an_epoch_and_only_once(index: int, again: bool) -> None:
    callback: Any = callbacks.RandomState()
    state = callback.state_dict()
    expected = draws()
    callback.load_state_dict(state)
    callback.on_train_epoch_start(None, None)
    draws()  # what making the loader's iterator may cost
    callback.on_train_batch_start(None, None, None, index)
    assert (draws() == expected) is again
    callback.on_train_batch_start(None, None, None, 5)
    callback.on_train_epoch_start(None, None)
    assert draws() != expected


def test_throughput_follows_the_clock_and_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now)
    logged: dict[str, float] = {}
    module = SimpleNamespace(log=lambda name, value, **_: logged.update({name: value}))
    throughput: Any = callbacks.Throughput("tokens", len)
    throughput.on_train_epoch_start(None, module)
    for _ in range(3):
        now += 0.5
        throughput.on_train_batch_end(None, module, None, [0] * 20, 0)
        assert logged == {"train/tokens_per_s": pytest.approx(40)}
    now += 60
    throughput.on_validation_end(None, module)
    now += 0.25
    throughput.on_train_batch_end(None, module, None, [0] * 20, 0)
    assert 40 < logged["train/tokens_per_s"] < 80


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
