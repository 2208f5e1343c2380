"""Training loops that take turns in processes of their own, forked here, which takes no time."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from wnseq.training.benchmark import TrainingProcess, TurnTaker, _processes

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processes, "START_METHOD", "fork")


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def count(first: float) -> None:
    turns = TurnTaker()
    for step in range(100):
        turns.next_step()
        turns.loss = first + step
    turns.next_step()


def fail() -> None:
    TurnTaker().next_step()
    print("a step was begun")
    sys.exit("and it failed")


def test_steps_are_taken_in_turns(tmp_path: Path, processes: ExitStack) -> None:
    process = TrainingProcess("counter", count, (5.0,), tmp_path, threads=1)
    processes.callback(process.end)
    assert len(process.take(2)) == 2 and process.losses == [5, 6]
    assert all(seconds > 0 for seconds in process.take(3)) and process.losses == [5, 6, 7, 8, 9]
    assert process.mean_loss(slice(-2, None)) == 8.5
    assert process.peak > 1


def test_the_output_of_one_that_fails_is_quoted(tmp_path: Path, processes: ExitStack) -> None:
    process = TrainingProcess("broken", fail, (), tmp_path, threads=1)
    processes.callback(process.end)
    with pytest.raises(ValueError, match="'broken' ended with status 1; it said:\na step was begun\nand it failed"):
        process.take(2)


def test_it_ends_wherever_it_is(tmp_path: Path) -> None:
    process = TrainingProcess("counter", count, (0.0,), tmp_path, threads=1)
    process.end()
    assert process._process.exitcode == -9


def threads(before: int) -> None:
    turns = TurnTaker()
    turns.next_step()
    turns.loss = float(torch.get_num_threads())
    turns.next_step()


def test_it_has_its_number_of_threads(tmp_path: Path, processes: ExitStack) -> None:
    process = TrainingProcess("threads", threads, (1,), tmp_path, threads=3)
    processes.callback(process.end)
    process.take(1)
    assert process.losses == [3]
