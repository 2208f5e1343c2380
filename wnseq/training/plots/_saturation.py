"""The figure of how often the gates of each unit are shut and open."""

import csv
from pathlib import Path

from wnseq.training.plots._gates import drop_common_modules
from wnseq.training.plots._style import MUTED_COLOR, TITLE_COLOR, VARIANT_COLORS, new_figure, print_failures


@print_failures("figure of the saturation")
def plot_saturation(folder: Path) -> None:
    """Draw ``units.csv`` as ``saturation.png``: by how often it is open and shut, a dot for each unit, a panel a gate.

    A unit on the dashed line is always one of both; one at the origin lets through a part all the time.

    Args:
        folder: The folder of the run. Without a ``units.csv`` in it nothing is drawn: there was no validation.

    Source:
        Karpathy, Johnson & Fei-Fei 2015, arXiv 1506.02078, figure 3.
    """
    table = folder / "units.csv"
    gates: dict[str, dict[str, tuple[list[float], list[float]]]] = {}  # by gate and layer
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                is_open, is_shut = gates.setdefault(row["gate"], {}).setdefault(row["layer"], ([], []))
                is_open.append(float(row["open"]))
                is_shut.append(float(row["shut"]))
    if not gates:
        return
    layers = [*next(iter(gates.values()))]
    with new_figure(folder / "saturation.png", 0.6 + 2.5 * max(2, len(gates)), 3.4) as figure:
        grid = figure.subplots(1, len(gates), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (gate, of_layers) in zip(grid, gates.items(), strict=True):
            axes.set_title(f"{gate} gate", loc="left", fontweight="bold", color=TITLE_COLOR)
            axes.plot([0, 1], [1, 0], color=MUTED_COLOR, linewidth=1, linestyle="--")
            for k, points in enumerate(of_layers.values()):
                color = VARIANT_COLORS[(k + 1) % len(VARIANT_COLORS)]
                axes.plot(*points, "o", color=color, markersize=3, alpha=0.5, markeredgewidth=0, clip_on=False)
            axes.set_xlabel("share of time open (> 0.9)")
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        grid[0].set_ylabel("share of time shut (< 0.1)")
        from matplotlib.lines import Line2D

        colors = [VARIANT_COLORS[(k + 1) % len(VARIANT_COLORS)] for k in range(len(layers))]
        marks = [Line2D([], [], color=color, marker="o", linestyle="", markersize=4) for color in colors]
        figure.legend(marks, drop_common_modules(layers), loc="outside upper center", ncols=min(6, len(layers)))
