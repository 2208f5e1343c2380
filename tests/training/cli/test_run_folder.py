"""The folder of a run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wnseq.training.cli import run_folder


def test_every_run_has_the_next_number(after: dict[str, float], main: Callable[..., dict[str, float]]) -> None:
    Path("runs/toy/7").mkdir()
    main("--trainer.max_epochs", "1")
    assert Path("runs/toy/8/metrics.csv").is_file()


def test_two_runs_started_at_once_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").mkdir()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))  # neither has seen the other's folder
    assert run_folder.make_run_folder(tmp_path) == tmp_path / "2"


def test_without_tensorboard_a_run_has_its_csv(
    main: Callable[..., dict[str, float]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "find_spec", lambda name: None)
    main("--trainer.max_epochs", "1")
    assert run_folder.run_files(Path("runs/toy/1")).keys() == {"log", "figure"}
