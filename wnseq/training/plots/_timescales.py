"""The figure of how long the units of a recurrent net remember."""

import csv
from pathlib import Path

import torch

from wnseq.training.gate_statistics import text_law, timescale
from wnseq.training.plots._gates import drop_common_modules
from wnseq.training.plots._style import THEORY_COLOR, TITLE_COLOR, VARIANT_COLORS, new_figure, print_failures

KEEP_GATES = ("forget", "update", "keep")  # of each kind of layer, that by which the state stays
LONGEST = 1e4  # steps on the axis


@print_failures("figure of the timescales")
def plot_timescales(folder: Path, *, is_text: bool = False) -> None:
    """Draw ``units.csv`` as ``timescales.png``: the share of each layer's units that remember longer than a time.

    Args:
        folder: The folder of the run. Without a ``units.csv`` in it nothing is drawn: there was no validation.
        is_text: Whether the law of text is drawn too, a dashed line, :func:`wnseq.training.gate_statistics.text_law`.
    """
    layers: dict[str, list[float]] = {}
    for layer, gate, mean in _read_means(folder / "units.csv"):
        if gate in KEEP_GATES:
            layers.setdefault(layer, []).append(mean)
    if not layers:
        return
    with new_figure(folder / "timescales.png", 5.4, 3.8) as figure:
        axes = figure.subplots()
        axes.set_title("how long units remember", loc="left", fontweight="bold", color=TITLE_COLOR)
        names = drop_common_modules([*layers])
        shown = []
        for k, (name, means) in enumerate(zip(names, layers.values(), strict=True)):
            times = timescale(torch.tensor(means, dtype=torch.float64)).sort().values
            shares = 1 - torch.arange(len(times), dtype=torch.float64) / len(times)  # of those at least as long
            label = f"{name}: median {times[len(times) // 2]:.3g}, longest {times[-1]:.3g}"
            color = VARIANT_COLORS[(k + 1) % len(VARIANT_COLORS)]
            axes.step(times.tolist(), shares.tolist(), where="pre", color=color, linewidth=1.5, label=label)
            shown.append(times)
        first, last = min(float(times[0]) for times in shown), max(float(times[-1]) for times in shown)
        low, high = max(0.01, min(0.3, first)), min(LONGEST, max(30.0, 2 * last))
        if is_text:
            steps = torch.logspace(torch.tensor(low).log10().item(), torch.tensor(high).log10().item(), 200)
            style = {"color": THEORY_COLOR, "linewidth": 1.2, "linestyle": "--"}
            axes.plot(steps.tolist(), text_law(steps).tolist(), label="law of English words, 1/t$^{0.56}$", **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(0.5 / max(map(len, layers.values())), 1.3)
        axes.set_xlabel("timescale -1/log E[f], steps")
        axes.set_ylabel("share of units with a longer one")
        axes.legend(loc="lower left")


def _read_means(table: Path) -> list[tuple[str, str, float]]:
    """Return layer, gate and mean of each unit; nothing without the file."""
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return [(row["layer"], row["gate"], float(row["mean"])) for row in csv.DictReader(file)]
