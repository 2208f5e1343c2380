"""Figures of several runs."""

import sys
from pathlib import Path

import pytest
from figures import colors_in, rgb, size_of

from wnseq.training import plots
from wnseq.training.plots._style import VARIANT_COLORS
from wnseq.training.run_statistics import bootstrap_interval

RUNS = {
    "one": [{f"{stage}/loss": ([1, 2, 3], [3.0, 2.0, 1.0 + seed]) for stage in ("train", "val")} for seed in range(2)],
    "two": [{"train/loss": ([1, 2], [0.5, 0.4])}],
}


def test_each_variant_has_a_colour(tmp_path: Path) -> None:
    both, one = tmp_path / "curves.png", tmp_path / "one.png"
    assert plots.plot_variants(RUNS, both, metric="loss", title="a title")
    assert {rgb(color) for color in VARIANT_COLORS[:2]} <= colors_in(both)
    assert size_of(both)[0] == 1280
    assert plots.plot_variants({"two": RUNS["two"]}, one, metric="loss", title="a title")
    assert size_of(one)[0] < 1280  # without validation there is one panel


def test_a_sweep_is_drawn_with_what_diverged(tmp_path: Path) -> None:
    runs: dict[str, list[tuple[float, float | None]]] = {
        "one": [(0.1, 3.0), (0.1, 4.0), (1.0, 2.0), (10.0, None)],
        "two": [(0.1, 5.0), (1.0, 0.0)],
    }
    figure = tmp_path / "sweep.png"
    assert plots.plot_sweep(runs, figure, option="model.learning_rate", metric="test/loss", title="")
    assert {rgb(color) for color in VARIANT_COLORS[:2]} <= colors_in(figure)


def test_a_sweep_of_returns_has_dots_interquartile_means_and_their_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes").Axes
    drawn: list[list[float]] = []
    bars = axes.errorbar
    monkeypatch.setattr(axes, "errorbar", lambda *a, **k: drawn.extend([a[2], *a[3]]) or bars(*a, **k))
    runs = {"one": [(0.1, final) for final in (1.0, 3.0, 4.0, 30.0)], "two": [(1.0, 2.0)]}
    options = {"option": "rate", "metric": "test/mean_return", "title": ""}
    for returns in (False, True):
        assert plots.plot_sweep(runs, tmp_path / f"{returns}.png", returns=returns, **options)
    low, high = bootstrap_interval([1.0, 3.0, 4.0, 30.0])
    assert drawn == [[9.5], [8.5], [20.5], [2.0], [0.0], [0.0], [3.5], [3.5 - low], [high - 3.5], [2.0], [0.0], [0.0]]


@pytest.mark.parametrize(
    ("options", "expected"), [([0.1, 1.0], [0.1 * 10**-0.05, 0.1 * 10**0.05]), ([0.0, 2.0], [-0.1, 0.1])]
)
def test_variants_stand_side_by_side(
    options: list[float], expected: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes").Axes
    places: list[float] = []
    bars = axes.errorbar
    monkeypatch.setattr(axes, "errorbar", lambda *a, **k: places.append(a[1][0]) or bars(*a, **k))
    runs = {name: [(value, 1.0) for value in options] for name in ("one", "two")}
    assert plots.plot_sweep(runs, tmp_path / "a.png", option="rate", metric="loss", title="")
    assert places == pytest.approx(expected)
    assert plots.plot_sweep({"one": [(3.0, 1.0)]}, tmp_path / "a.png", option="rate", metric="loss", title="")
    assert places[-1] == 3.0


def test_each_run_has_a_dot_beside_the_mean_of_its_variant(tmp_path: Path) -> None:
    few, more = tmp_path / "few.png", tmp_path / "more.png"
    found: dict[str, tuple[list[float], float, tuple[float, float]]] = {"one": ([1.0, 2.0], 1.5, (1.0, 2.0))}
    assert plots.plot_dots(found, few, metric="test/mean_return", title="")
    assert rgb(VARIANT_COLORS[0]) in colors_in(few)
    found["two"] = ([3.0], 3.0, (3.0, 3.0))
    assert plots.plot_dots(found, more, metric="test/mean_return", title="")
    assert {rgb(color) for color in VARIANT_COLORS[:2]} <= colors_in(more) and size_of(more)[1] > size_of(few)[1]


def test_a_comparison_says_why_it_has_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not plots.plot_variants(RUNS, tmp_path / "a.png", metric="bits", title="")
    told = "no figure: no variant has a train/{0} or a val/{0} at a step that all its runs have.\n"
    assert capsys.readouterr().out == told.format("bits")
    apart = {"one": [{"val/loss": ([steps], [1.0])} for steps in (90, 100)]}  # after equal times
    assert not plots.plot_variants(apart, tmp_path / "a.png", metric="loss", title="")
    assert capsys.readouterr().out == told.format("loss")
    assert plots.plot_variants(RUNS | apart, tmp_path / "b.png", metric="loss", title="")
    assert not plots.plot_sweep({"one": [(0.1, None)]}, tmp_path / "a.png", option="rate", metric="loss", title="")
    assert capsys.readouterr().out == "no figure: every run has diverged.\n"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plots.plot_variants(RUNS, tmp_path / "a.png", metric="loss", title="")
    assert not plots.plot_sweep({"one": [(0.1, 1.0)]}, tmp_path / "a.png", option="rate", metric="loss", title="")
    assert capsys.readouterr().out == "no figure: it needs matplotlib (pip install 'wnseq[plots]')\n" * 2
    assert not (tmp_path / "a.png").exists()
