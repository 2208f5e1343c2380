"""Rows in a CSV, tables, and the figure."""

import builtins
import csv
from pathlib import Path

import pytest

from wnseq.training import benchmark


def test_rows_are_written(tmp_path: Path) -> None:
    benchmark.write_csv([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], tmp_path / "new" / "rows.csv")
    with (tmp_path / "new" / "rows.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


def row(size: str, variant: str, phase: str, ratio: float) -> benchmark.Row:
    return {
        **{"size": size, "variant": variant, "phase": phase, "ms": 2.0, "ratio": ratio},
        **{"ratio_lower": ratio - 0.1, "ratio_upper": ratio + 0.1},
    }


def test_the_phases_of_a_variant_become_one_line() -> None:
    rows = [row(size, name, phase, 1.0) for phase in ("up", "down") for size in ("1", "2") for name in ("a", "b")]
    lines = benchmark.phase_columns(rows, "{size}")
    assert [(line["size"], line["variant"]) for line in lines] == [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")]
    assert all(line["up_ms"] == line["down_ms"] == 2 and line["up_ratio_upper"] == 1.1 for line in lines)


def test_rows_are_grouped_in_their_order() -> None:
    rows = [row("2", "a", "up", 1.0), row("1", "a", "up", 2.0), row("2", "a", "up", 3.0)]
    assert benchmark.groups(rows, "size {size}") == {"size 2": [rows[0], rows[2]], "size 1": [rows[1]]}


def test_the_second_run_of_the_baseline_decides_whether_ratios_count() -> None:
    rows = [row("1", "a", "up", 1.5), row("1", "a again", "up", 1.01), row("2", "a again", "up", 0.97)]
    assert benchmark.doubts(rows[:2], "a again", "{size}") == ""
    text = benchmark.doubts([*rows, row("3", "a again", "down", 1.03)], "a again", "{size} {phase}")
    assert text == "\na again is off by more than 2%, so that no ratio counts: 2 up; 3 down\n"


ROWS = [
    {**row("small", "a", "up", 1.1), "kind": "one"},
    {**row("small", "a", "up", 1.1), "kind": "two"},
    {**row("large", "b", "up", 4.0), "kind": "two"},
]
FIGURE = {"panel": "{kind}", "tick": "{size}", "label": "time over c"}


def test_ratios_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.plot_ratios(ROWS, tmp_path / "ratios.png", **FIGURE)
    assert capsys.readouterr().out.endswith("ratios.png\n")
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
    benchmark.plot_ratios(ROWS, tmp_path / "ratios.png", **FIGURE)
    assert "no figure: it needs matplotlib (pip install 'wnseq[plots]')" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
