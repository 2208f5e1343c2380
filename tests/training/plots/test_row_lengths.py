"""The figure of an embedding's rows."""

import csv
from pathlib import Path

from figures import colors_in, rgb, size_of

from wnseq.training import plots
from wnseq.training.plots._row_lengths import LENGTH_COLUMNS
from wnseq.training.plots._style import VALIDATION_COLOR


def test_rows_are_drawn_with_their_median(tmp_path: Path) -> None:
    with (tmp_path / "embedding.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(LENGTH_COLUMNS)
        csv.writer(file).writerows([k, f"$w{k}" if k else "\n", k * k, 1 + k / 10] for k in range(30))
    assert plots.plot_row_lengths(tmp_path)
    assert size_of(tmp_path / "embedding.png") == (864, 608)
    assert rgb(VALIDATION_COLOR) in colors_in(tmp_path / "embedding.png")
