"""The command line of benchmarks with modes."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from wnseq.training import benchmark
from wnseq.training.benchmark import Benchmark, Row

set_up: list[str] = []


@dataclass
class Toy(Benchmark):
    """Counts.

    Args:
        number: Where it begins.
    """

    number: int = 3

    def set_up_process(self) -> None:
        set_up.append("toy")

    def measure(self, threads: int) -> Iterator[list[Row]]:
        yield [{"number": self.number, "threads": torch.get_num_threads()}]
        assert Path(self.out, "toy.csv").read_text().startswith("number,threads\n3,1\n")
        yield [{"number": self.number + 1, "threads": threads}]

    def table(self, rows: list[Row]) -> str:
        return f"{len(rows)} rows"


@dataclass
class Other(Toy):
    """Counts other things."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up.clear()


def run(args: list[str] | None) -> list[Row]:
    return benchmark.run({"toy": Toy, "other": Other}, args, recipe="counting", headline="Counts in two ways.")


def test_every_number_of_threads_is_measured_and_what_there_is_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(["--threads=[1, 2]", "--out=here"])
    assert rows == [{"number": n, "threads": threads} for threads in (1, 2) for n in (3, 4)]
    assert Path("here/toy.csv").read_text().splitlines() == ["number,threads", "3,1", "4,1", "3,2", "4,2"]
    assert Path("here/toy.md").read_text() == "4 rows"
    assert capsys.readouterr().out == "\n4 rows\nresults  here\n"
    assert not Path("here/toy.png").exists()


@pytest.mark.parametrize("words", [[], ["toy"]])
def test_without_a_mode_the_first_is_run(words: list[str]) -> None:
    assert run([*words, "--threads=[1]", "--number=3"])[1]["number"] == 4


def test_only_a_command_line_sets_up_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run(["--threads=[1]"])
    assert set_up == []
    monkeypatch.setattr(sys, "argv", ["counting", "--threads=[1]"])
    run(None)
    assert set_up == ["toy"]


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--pairs=1", "pairs must be at least 2, got 1: one has no spread"),
        ("--threads=[]", "threads must be numbers of at least 1, got []"),
        ("--threads=[2, 0]", "threads must be numbers of at least 1, got [2, 0]"),
    ],
)
def test_a_wrong_value_is_refused(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run([option])
    assert stop.value.code == 1 and text in capsys.readouterr().err


def test_an_unknown_mode_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(["tyo", "--number=3"])
    assert stop.value.code == 2 and "invalid choice: 'tyo' (choose from " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--help"], ["Counts in two ways. Without a subcommand: toy.", "other", "Counts other things."]),
        (["other", "--help"], ["Counts other things.", "--number", "--pairs"]),
    ],
)
def test_help_shows_the_modes_and_their_options(
    words: list[str], texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(words)
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("usage: counting") and all(text in shown for text in texts)
