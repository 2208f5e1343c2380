"""What is shown while a run goes on."""

import io
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import rich
from rich.console import Console

from wnseq.training.callbacks import progress


def trainer(step: int, total: float) -> Any:
    return SimpleNamespace(global_step=step, estimated_stepping_batches=total)


def test_time_left_is_estimated_from_the_steps_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    run = trainer(step=100, total=400)  # resumed
    timing = progress.Timing(run)
    assert str(timing) == "0:00"
    run.global_step, now = 200, 30.0
    assert str(timing) == "0:30 · 1:00 left"


def test_without_an_end_there_is_no_time_left() -> None:
    run = trainer(step=0, total=float("inf"))
    timing = progress.Timing(run)
    run.global_step = 10
    assert timing.left is None


def test_a_file_gets_a_line_an_epoch_and_one_a_validation_inside(
    toy: ModuleType, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.main(["--trainer.max_epochs", "2", "--trainer.val_check_interval", "6"])
    lines = [line.split(" · ") for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line[0] for line in lines] == ["epoch 1/2 step 6", "epoch 1/2", "epoch 2/2 step 18", "epoch 2/2"]
    shape = r"epoch 2/2 · train/loss 0\.\d+ · tokens/s [\d,]+ · val/loss 0\.\d+ · 0:\d\d · 0:00 left"
    assert re.fullmatch(shape, " · ".join(lines[-1]))


def test_a_terminal_gets_a_bar_with_the_time_of_the_whole_run(
    toy: ModuleType, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(rich, "_console", console)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("lightning.pytorch.callbacks.progress.rich_progress.reconfigure", lambda: None)
    toy.main([])
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    for epoch in (1, 2, 3):
        shape = rf"epoch {epoch}/3 ━+ 0:\d\d · 0:\d\d left train: 0\.\d+ · tokens/s: [\d,]+ · val: 0\.\d+"
        assert re.search(shape, text), text
    assert "epoch 4" not in text
    assert "v_num" not in text
