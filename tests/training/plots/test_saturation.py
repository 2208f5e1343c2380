"""The figure of how often gates are shut and open."""

import csv
from pathlib import Path

from figures import colors_in, rgb, size_of

from wnseq.training import plots
from wnseq.training.gate_statistics import UNIT_COLUMNS
from wnseq.training.plots._style import MUTED_COLOR


def test_each_gate_has_a_panel(tmp_path: Path) -> None:
    with (tmp_path / "units.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(UNIT_COLUMNS)
        for layer in ("rnn.l0", "rnn.l1"):
            for gate in ("input", "forget", "output"):
                csv.writer(file).writerows([layer, gate, unit, 0.5, unit / 10, 0.3] for unit in range(5))
    assert plots.plot_saturation(tmp_path)
    assert size_of(tmp_path / "saturation.png") == (1296, 544)
    assert rgb(MUTED_COLOR) in colors_in(tmp_path / "saturation.png")
