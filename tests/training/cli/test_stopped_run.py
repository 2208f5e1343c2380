"""What a run that is stopped says, and the status with which it ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wnseq.training.cli.stopped_run import stopped_run


def end(run: Path | None, error: BaseException, status: int = 143, is_new: bool = True, **trainer: Any) -> Any:
    """End a block by an error; return what comes out of it."""
    usual = {"is_global_zero": True, "global_step": 7, "ckpt_path": None}
    shutdown: Any = SimpleNamespace(status=status, wait_for_others=lambda: None)
    process: Any = SimpleNamespace(**usual | trainer)
    with (
        pytest.raises(type(error)) as raised,
        stopped_run(process, shutdown, run, ["fit"], "lm", is_new=is_new),
    ):
        raise error
    return raised.value


@pytest.fixture
def run(here: Path) -> Path:
    folder = Path("runs/lm/1")
    (folder / "checkpoints").mkdir(parents=True)
    return folder


def test_a_stop_names_the_step_of_the_checkpoint_and_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = run / "checkpoints/last.ckpt"
    for saved, said in ((7, "step 7. To"), (4, "step 7; the last checkpoint is of step 4. To")):
        torch.save({"global_step": saved, "w": torch.ones(3)}, last)
        assert end(run, SystemExit(1), 130).code == 130
        assert capsys.readouterr().out == f"stopped at {said} go on from there:\nlm fit --ckpt_path {last}\n"


def test_a_run_without_a_checkpoint_names_the_one_that_it_resumed_from(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end(run, SystemExit(1))
    assert capsys.readouterr().out == "stopped at step 7; no checkpoint was written\n"
    torch.save({"global_step": 7}, "other.ckpt")
    end(run, SystemExit(1), ckpt_path="other.ckpt")
    assert capsys.readouterr().out.endswith("--ckpt_path other.ckpt\n")


def test_only_a_new_run_without_a_step_is_removed(run: Path) -> None:
    end(run, SystemExit(1), global_step=0, is_new=False)
    end(run, SystemExit(1), global_step=0, is_global_zero=False)
    assert run.exists()
    end(run, SystemExit(1), global_step=0)
    assert not run.exists()


def test_a_bug_passes_as_it_was_raised(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bug = LookupError("a bug")
    assert end(run, bug) is bug
    assert end(None, stop := SystemExit(2), status=0) is stop
    assert capsys.readouterr().out == "" and run.exists()
