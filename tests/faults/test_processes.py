"""SIGTERM to one of two processes at any time: both end with 143, and a checkpoint that resumes to the bit."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.nursery import Nursery
from faults.test_kills import RECIPES, SHORT, difference, last_of, module, prepare

pytestmark = pytest.mark.slow
RECIPE = "language_model"
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
WORDS = ["fit", *RECIPES[RECIPE], *SHORT, "--trainer.max_epochs=60", *TWO]


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def unbroken(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair") / "run"
    answer = nursery.run(folder, module(RECIPE), WORDS, environment=prepare(folder), ranks=2, port=port())
    assert answer["statuses"] == [0, 0], (folder / "output.0.txt").read_text()
    return folder


@pytest.mark.parametrize("trial", range(24))
def test_a_signal_to_one_of_two_processes(
    nursery: Nursery, unbroken: Path, tmp_path: Path, trial: int, outcome: Callable[..., None]
) -> None:
    outcome("two processes", "SIGTERM to one", 0, 1)
    draw, folder = random.Random(trial), tmp_path / "run"
    environment = prepare(folder)
    again: list[Any] = (
        [(trial % 2, signal.SIGTERM, 3)] if trial % 6 == 5 else []
    )  # in the same process, or in the other
    stop = (trial % 2, signal.SIGTERM, draw.uniform(0, 2.5))
    answer = nursery.run(
        folder, module(RECIPE), WORDS, environment=environment, ranks=2, port=port(), signals=[stop, *again]
    )
    output = "".join((folder / f"output.{rank}.txt").read_text() for rank in range(2))
    assert answer["statuses"] == [143, 143], output
    assert answer["ended"] <= 15 and "To go on from there" in output and last_of(folder)
    resumed = nursery.run(
        folder, module(RECIPE), [*WORDS, "--ckpt_path", "last"], environment=environment, ranks=2, port=port()
    )
    assert resumed["statuses"] == [0, 0], (folder / "output.0.txt").read_text()
    assert not difference(unbroken, folder)
    outcome("two processes", "SIGTERM to one", 1, 0)


@pytest.mark.parametrize("to", ["the first", "the one it started"])
def test_a_process_that_lightning_started_ends_with_its_starter(tmp_path: Path, to: str) -> None:
    """Lightning's own watch over the processes that it started would kill the first with -9."""
    folder = tmp_path / "run"
    environment = {**os.environ, **prepare(folder), "PYTHONPATH": str(Path(__file__).parents[1] / "training")}
    command = [sys.executable, "-m", "wnseq", "run", "language_model", *WORDS, "--trainer.max_epochs=1000"]
    output = (folder / "output.txt").open("w")
    with output, subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as first:
        deadline = time.monotonic() + 90
        while not (folder / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        (child,) = map(int, Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split())
        os.kill(first.pid if to == "the first" else child, signal.SIGTERM)
        assert first.wait(15) == 143, (folder / "output.txt").read_text()
    assert not Path(f"/proc/{child}").exists()
    assert "To go on from there" in (folder / "output.txt").read_text() and last_of(folder)
