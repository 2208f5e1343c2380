"""The figure of how long units remember."""

import csv
from pathlib import Path

import pytest
from figures import colors_in, rgb, size_of

from wnseq.training import plots
from wnseq.training.gate_statistics import UNIT_COLUMNS
from wnseq.training.plots._style import THEORY_COLOR, VARIANT_COLORS


def write(folder: Path, layers: dict[str, str]) -> None:
    with (folder / "units.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(UNIT_COLUMNS)
        for layer, keep in layers.items():
            for unit in range(20):
                csv.writer(file).writerow([layer, "output", unit, 0.5, 0.1, 0.2])
                csv.writer(file).writerow([layer, keep, unit, 0.5 + unit / 50, 0.0, unit / 20])


@pytest.mark.parametrize(("keep", "is_text"), [("forget", True), ("update", False), ("keep", False)])
def test_each_layer_has_a_curve_and_text_its_law(keep: str, is_text: bool, tmp_path: Path) -> None:
    write(tmp_path, {"rnn.l0": keep, "rnn.l1": keep})
    assert plots.plot_timescales(tmp_path, is_text=is_text)
    colors = colors_in(tmp_path / "timescales.png")
    assert size_of(tmp_path / "timescales.png") == (864, 608)
    assert {rgb(color) for color in VARIANT_COLORS[1:3]} <= colors
    assert (rgb(THEORY_COLOR) in colors) == is_text


def test_a_run_without_a_validation_has_no_figure(tmp_path: Path) -> None:
    assert plots.plot_timescales(tmp_path) and plots.plot_saturation(tmp_path)
    assert [*tmp_path.iterdir()] == []
