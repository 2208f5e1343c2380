"""The folder of a run."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wnseq.training.cli import run_folder

TOY = Path(__file__).parents[1] / "toy.py"


def test_every_run_has_the_next_number(after: dict[str, float], main: Callable[..., dict[str, float]]) -> None:
    Path("runs/toy/7").mkdir()
    main("--trainer.max_epochs", "1")
    assert Path("runs/toy/8/metrics.csv").is_file()


def test_two_runs_started_at_once_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").mkdir()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))  # neither has seen the other's folder
    assert run_folder.make_run_folder(tmp_path) == tmp_path / "2"


def test_a_copied_recipe_keeps_its_runs_apart(
    after: dict[str, float], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = here / "my_toy.py"
    shutil.copy(TOY, copy)
    spec = importlib.util.spec_from_file_location("my_toy", copy)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_toy", module)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit):
        module.main(["test", "--ckpt_path", "best"])
    assert "--ckpt_path best: no run in runs/my_toy has left a best.ckpt" in capsys.readouterr().err
    module.main(["--trainer.max_epochs", "1"])
    assert Path("runs/my_toy/1/checkpoints/best.ckpt").is_file()
    assert [path.name for path in Path("runs/toy").iterdir()] == ["1"]
    module.main(["test", "--ckpt_path", "runs/toy/1/checkpoints/best.ckpt"])  # the original's can still be used


def test_a_model_in_no_file_has_the_name_of_its_recipe() -> None:
    assert run_folder.name_of_runs(int, "toy") == "toy"  # as a class of a notebook
