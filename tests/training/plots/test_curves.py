"""The curves of one run."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from figures import colors_in, rgb, size_of

from wnseq.training import plots
from wnseq.training.plots._style import TRAIN_COLOR, VALIDATION_COLOR

COLUMNS = ["epoch", "lr-Adam", "step", "train/loss", "val/loss"]


def write(log: Path, rows: list[dict[str, Any]]) -> Path:
    with log.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    train = [{"step": step, "train/loss": 3 / (step + 1)} for step in range(200)]
    rates = [{"step": step, "lr-Adam": 0.1} for step in range(200)]
    return write(tmp_path / "metrics.csv", [*train, *rates, {"step": 199, "epoch": 0, "val/loss": 0.5}])


@pytest.mark.parametrize("dropped", [[], ["train/loss"], ["val/loss"], ["lr-Adam"]], ids=lambda names: "-".join(names))
def test_curves_are_drawn_from_what_there_is(log: Path, tmp_path: Path, dropped: list[str]) -> None:
    with log.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not any(row[name] for name in dropped)]
    write(log, rows)
    assert plots.plot_run(tmp_path, metric="loss", title="a title")
    assert size_of(tmp_path / "curves.png") == (1024, 672)
    shown = colors_in(tmp_path / "curves.png")
    for name, color in [("train/loss", TRAIN_COLOR), ("val/loss", VALIDATION_COLOR)]:
        assert (rgb(color) in shown) is (name not in dropped)


def test_the_best_of_a_return_is_its_largest(tmp_path: Path) -> None:
    rows = [{"step": step, "val/mean_return": value} for step, value in enumerate([1.0, 8.0, 3.0])]
    found = []
    for mode in ("min", "max"):
        with (tmp_path / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "val/mean_return"])
            writer.writeheader()
            writer.writerows(rows)
        assert plots.plot_run(tmp_path, metric="mean_return", title="", mode=mode)
        found.append((tmp_path / "curves.png").read_bytes())
    assert found[0] != found[1]


def test_a_run_says_why_it_has_no_figure(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not plots.plot_run(tmp_path, metric="bits", title="")
    assert capsys.readouterr().out == f"no figure: {log} has neither a train/bits nor a val/bits in it.\n"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plots.plot_run(tmp_path, metric="loss", title="")
    assert capsys.readouterr().out == "no figure: it needs matplotlib (pip install 'wnseq[plots]')\n"
    plots.plot_run(tmp_path / "elsewhere", metric="loss", title="")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "curves.png").exists()
