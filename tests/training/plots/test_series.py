"""The numbers of a run, read and smoothed."""

from pathlib import Path

import pytest

from wnseq.training.plots import _series as series


def test_columns_are_read_with_their_steps(tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,lr-Adam,step,train/loss,val/loss\n,,0,3.0,\n,0.1,0,,\n,,1,1.5,\n0,,1,,0.5\n0,,2")
    assert series.read_metrics(log) == {
        "train/loss": ([0, 1], [3.0, 1.5]),
        "lr-Adam": ([0], [0.1]),
        "val/loss": ([1], [0.5]),
    }


def test_a_smoothed_curve_does_not_lag() -> None:
    line = [float(value) for value in range(300)]
    assert series.running_mean(line)[:290] == pytest.approx(line[:290])
    assert series.running_mean([1.0]) == [1.0]


def test_only_a_long_curve_is_smoothed() -> None:
    noise = [float(k % 2) for k in range(series.MAX_POINTS + 1)]
    assert series.smooth_if_long(noise) == series.running_mean(noise) != noise
    assert series.smooth_if_long(noise[1:]) == noise[1:]
