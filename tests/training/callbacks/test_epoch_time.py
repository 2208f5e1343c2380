"""Seconds per epoch: validation not counted, and nothing of an epoch that was not seen from its beginning."""

from types import SimpleNamespace
from typing import Any

import pytest

from wnseq.training.callbacks import basic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(basic.time, "perf_counter", lambda: clock.now)
    return clock


def test_validation_is_not_counted(clock: SimpleNamespace) -> None:
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


def test_the_rest_of_an_epoch_is_not_logged(clock: SimpleNamespace) -> None:
    module: Any = SimpleNamespace(log=lambda *_: pytest.fail("logged"))
    callback: Any = basic.EpochTime()
    callback.on_train_batch_start(None, module, None, 5)
    callback.on_validation_start(None, module)
    callback.on_validation_end(None, module)
    callback.on_train_epoch_end(None, module)
