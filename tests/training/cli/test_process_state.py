"""A run leaves the process as it was: the environment, ``sys.argv``, the C library's allocator and torch's settings."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from wnseq.training.cli import recipe
from wnseq.training.cli.process_state import restored_process_state

Main = Callable[..., dict[str, float]]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that set the allocator."""
    calls: list[str] = []
    monkeypatch.setattr(recipe, "keep_freed_memory", lambda: calls.append("keep_freed_memory"))
    return calls


def state() -> list[Any]:
    return [
        dict(os.environ),
        list(sys.argv),
        torch.get_float32_matmul_precision(),
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.benchmark,
        torch.get_default_dtype(),
        torch.get_num_threads(),
    ]


SHORT = ["--trainer.max_epochs", "1"]


@pytest.mark.parametrize(
    ("flag", "position"),
    [
        (["--matmul_precision", "medium"], 2),
        (["--trainer.deterministic", "true"], 3),
        (["--trainer.benchmark", "true"], 4),
    ],
    ids=["precision", "deterministic", "benchmark"],
)
def test_main_with_arguments_changes_nothing_for_the_process(
    flag: list[str], position: int, main: Main, toy: ModuleType, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[Any] = []
    monkeypatch.setattr(toy.ToyCLI, "report", lambda self: during.extend(state()))
    before = state()
    main(*SHORT, *flag)
    assert state() == before
    assert during[position] != before[position]
    assert during[0]["WNSEQ_RUN"] == str(Path("runs/toy/1"))
    assert calls == []


def test_so_does_main_with_a_mistake(main: Main) -> None:
    before = state()
    with pytest.raises(SystemExit):
        main("--matmul_precision", "medium", "--trainer.deterministic", "true", "--model.lr", "-1")
    assert state() == before


def test_the_command_line_of_the_process_is_the_default_and_sets_the_allocator(
    toy: ModuleType,
    here: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipes/toy.py", "--model.widht", "3"])
    with pytest.raises(SystemExit) as exit:
        toy.main()
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("python recipes/toy.py fit: error: unknown option --model.widht. Did you")
    assert sys.argv == ["recipes/toy.py", "--model.widht", "3"]
    assert calls == ["keep_freed_memory"]


def test_other_processes_start_by_the_command_line_that_was_typed(
    toy: ModuleType, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(toy.ToyCLI, "report", lambda self: seen.append(sys.argv))
    monkeypatch.setattr(sys, "orig_argv", ["python", "/bin/wnseq", "run", "toy", "--trainer.max_epochs", "1"])
    monkeypatch.setattr(sys, "argv", ["wnseq run toy", "--trainer.max_epochs", "1"])  # as the command leaves it
    toy.main()
    assert seen == [["/bin/wnseq", "run", "toy", "--trainer.max_epochs", "1"]]
    assert sys.argv == ["wnseq run toy", "--trainer.max_epochs", "1"]


def test_what_lightning_has_launched_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with restored_process_state():
        os.environ |= {"KEPT": "2", "NEW": "3", "LOCAL_RANK": "0"}
    assert os.environ["KEPT"] == "1" and "NEW" not in os.environ
    assert os.environ.pop("LOCAL_RANK") == "0"
