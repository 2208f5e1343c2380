"""The log of a run: a row for each step, and what becomes of it in a resumed run."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from wnseq.training.run_log import LogState, RunLog, logged_before, read_rows


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    log = RunLog(tmp_path)
    log.log_hyperparams({"rate": 0.1})
    for step, values in ((0, {"a": torch.tensor(0.5)}), (0, {"b": 1}), (4, {"a": 0.25}), (9, {"c": 2.0})):
        log.log_metrics(values, step)
        log.save()
    return log


def test_a_step_has_one_row_and_the_newest_is_kept_back(log: RunLog, tmp_path: Path) -> None:
    assert rows(tmp_path) == [{"a": "0.5", "b": "1", "step": "0"}, {"a": "0.25", "step": "4"}]
    log.finalize("success")
    assert rows(tmp_path)[2:] == [{"c": "2.0", "step": "9"}]
    log.log_metrics({"b": 3}, 9)  # after the end of a fit
    log.log_metrics({"b": 4})
    log.finalize("success")
    log.finalize("success")
    assert rows(tmp_path)[2:] == [{"b": "3", "c": "2.0", "step": "9"}, {"b": "4", "step": "10"}]
    assert (tmp_path / "hparams.yaml").read_text() == "rate: 0.1\n"
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "a,b,c,step"


@pytest.mark.parametrize("damage", ["", "12,9", '"', "\n\n"], ids=["none", "cut", "quote", "blank"])
def test_a_resumed_log_is_the_unbroken_one(log: RunLog, tmp_path: Path, damage: str) -> None:
    row = log.snapshot({"a": 7.0}, 9)
    assert row == {"a": 7.0, "c": 2.0, "step": 9} and logged_before({"callbacks": {"LogState": {"row": row}}}) == 9
    log.log_metrics({"a": 7.0}, 9)
    before = [*rows(tmp_path), {"a": "7.0", "c": "2.0", "step": "9"}]
    for step in (11, 12):  # is lost
        log.log_metrics({"d": 1.0}, step)
    with log.path.open("a") as file:
        file.write(damage)
    again = RunLog(tmp_path)
    assert [each["step"] for each in again.resume(row, 10, log.path)] == [0, 4, 9]
    again.finalize("success")
    assert rows(tmp_path) == before
    other = RunLog(tmp_path / "other")
    other.resume(row, 10, log.path)
    other.finalize("success")
    assert rows(tmp_path / "other") == before == rows(tmp_path)


def test_a_snapshot_of_a_new_step_keeps_the_row_before(log: RunLog, tmp_path: Path) -> None:
    assert log.snapshot({"a": 7.0}, 10) == {"a": 7.0, "step": 10}
    assert rows(tmp_path)[-1] == {"c": "2.0", "step": "9"}
    assert log.snapshot({}, 11) == {}


def test_a_checkpoint_without_a_row_is_cut_by_its_step(log: RunLog, tmp_path: Path) -> None:
    log.finalize("success")
    RunLog(tmp_path).resume({}, logged_before({"global_step": 5}), log.path)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "4"]
    RunLog(tmp_path / "new").resume({}, 5, tmp_path / "nowhere.csv")
    assert read_rows(tmp_path / "new/metrics.csv") == []


def test_without_a_log_nothing_is_kept() -> None:
    state = LogState()
    assert state.state_dict() == {}
    trainer = Trainer(logger=False, accelerator="cpu", callbacks=[state])
    state.setup(trainer, None, "fit")  # type: ignore[arg-type]
    assert state.state_dict() == {}
