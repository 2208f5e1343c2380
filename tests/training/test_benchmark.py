"""Times taken in turn: what is run how often, the statistics, memory, tables and the figure."""

import builtins
import csv
import sys
import time
from pathlib import Path

import pytest
import torch

from wnseq.training import benchmark


def test_each_contender_is_run_once_a_round_in_changing_order() -> None:
    seen: list[str] = []

    def lap(name: str, seconds: float) -> benchmark.Lap:
        return lambda: (seen.append(name), (seconds, 2 * seconds))[1]

    times = benchmark.rounds({"a": lap("a", 1.0), "b": lap("b", 3.0)}, pairs=20, least=0)
    assert times == {"a": [(1.0, 2.0)] * 20, "b": [(3.0, 6.0)] * 20}
    rounds = [tuple(seen[k : k + 2]) for k in range(len(seen) - 40, len(seen), 2)]
    assert set(rounds) == {("a", "b"), ("b", "a")}


def test_what_is_over_soon_is_run_more_often() -> None:
    laps = {"a": lambda: (0.001,), "b": lambda: (next(of_b),)}
    of_b = iter([0.0] * 3 + [1.0, 2.0, 3.0] * 2)  # three to warm up
    assert benchmark.rounds(laps, pairs=2, least=0.003) == {"a": [(0.001,)] * 2, "b": [(2.0,)] * 2}


def test_medians_and_quartiles_are_of_times_and_of_ratios_within_a_round() -> None:
    times = {"a": [(1.0, 1.0), (2.0, 1.0), (4.0, 1.0)], "b": [(2.0, 1.0), (2.0, 2.0), (2.0, 3.0)]}
    a_up, b_up, a_down, b_down = benchmark.summarised(times, ("up", "down"))
    assert (a_up["ms"], a_up["ms_lower"], a_up["ms_upper"], a_up["ratio"]) == (2000, 1500, 3000, 1)
    assert (b_up["ratio_lower"], b_up["ratio"], b_up["ratio_upper"]) == (0.75, 1.0, 1.5)
    assert (b_down["contender"], b_down["phase"], b_down["pairs"], b_down["ratio"]) == ("b", "down", 3, 2)
    assert a_down["ms"] == 1000


@pytest.mark.parametrize(
    ("pairs", "threads", "text"),
    [(1, [1], "pairs must be at least 2, got 1"), (2, [], "at least 1, got []"), (2, [2, 0], "at least 1, got [2, 0]")],
)
def test_what_cannot_be_timed_is_refused(pairs: int, threads: list[int], text: str) -> None:
    benchmark.check(2, [1])
    with pytest.raises(ValueError) as refused:
        benchmark.check(pairs, threads)
    assert text in str(refused.value)


def test_a_contender_that_computes_something_else_is_named() -> None:
    expected = torch.tensor([1.0, -4.0])
    close = benchmark.same("b", "output", torch.tensor([1.0, -4.2]), expected, base="a", tolerance=0.1)
    assert close == pytest.approx(0.05)
    with pytest.raises(
        ValueError, match=r"b computes something else than a: its output is off by 0\.05 of the largest"
    ):
        benchmark.same("b", "output", torch.tensor([1.0, -4.2]), expected, base="a", tolerance=0.01)
    with pytest.raises(ValueError, match=r"off by nan of the largest value, and rounding explains at most 0\.1"):
        benchmark.same("b", "output", torch.tensor([1.0, torch.nan]), expected, base="a", tolerance=0.1)


def test_a_call_is_clocked() -> None:
    (seconds,) = benchmark.clocked(lambda: time.sleep(0.01))()
    assert seconds >= 0.01


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_the_peak_is_what_a_run_needs_for_a_moment() -> None:
    peak = benchmark.peak_memory(lambda: torch.ones(16, 2**20).add_(1).sum().item(), torch.device("cpu"))
    assert peak == pytest.approx(67, abs=4)  # 64 MiB


def test_where_no_one_tells_the_peak_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.ctypes, "CDLL", lambda name: None)
    assert benchmark.peak_memory(lambda: None, torch.device("cpu")) is None


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), benchmark.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_rows_are_written(tmp_path: Path) -> None:
    benchmark.write([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], tmp_path / "new" / "rows.csv")
    with (tmp_path / "new" / "rows.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


PANELS = {
    "one": {"a": [("small", {"ratio": 1.1, "ratio_lower": 1.0, "ratio_upper": 1.2})]},
    "two": {
        "a": [("small", {"ratio": 1.1, "ratio_lower": 1.0, "ratio_upper": 1.2})],
        "b": [("large", {"ratio": 4.0, "ratio_lower": 3.5, "ratio_upper": 4.5})],
    },
}


def test_ratios_are_drawn(tmp_path: Path) -> None:
    assert benchmark.ratios(PANELS, tmp_path / "ratios.png", label="time over c")
    assert (tmp_path / "ratios.png").read_bytes()[1:4] == b"PNG"


def test_without_matplotlib_there_is_a_line_instead_of_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert not benchmark.ratios(PANELS, tmp_path / "ratios.png", label="time over c")
    assert "no figure: it needs matplotlib (pip install 'wnseq[plots]')" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
