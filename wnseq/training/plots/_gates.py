"""The figure of a run's gates: what :class:`~wnseq.training.callbacks.GateMonitor` has measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wnseq.training.plots._series import MAX_POINTS, Series, smooth_if_long, whole_rows
from wnseq.training.plots._style import THEORY_COLOR, TITLE_COLOR, new_figure, print_failures

GATE_COLORS = ("#5b8fc7", "#c2410c", "#4d8b5e", "#8a6bb1")  # an LSTM's input, forget, cell, output
GATE_COLUMNS = ("step", "weight", "gate", "g", "v_norm", "radians_per_step", "equilibrium_radians")
EQUILIBRIUM: dict[str, Any] = {"color": THEORY_COLOR, "linewidth": 1.2, "linestyle": "--"}
LABELS = {"g": "mean g", "v_norm": "mean ‖v‖", "radians_per_step": "radians per step"}

Gates = Mapping[str, Mapping[str, Mapping[str, Series]]]  # weight → gate → quantity


def read_gates(log: Path) -> Gates:
    """Read steps and values by weight, gate and quantity from the ``gates.csv`` of a run."""
    weights: dict[str, dict[str, dict[str, Series]]] = {}
    with log.open(newline="", encoding="utf-8") as file:
        for row in whole_rows(file):
            gate = weights.setdefault(row["weight"], {}).setdefault(row["gate"], {})
            for quantity in GATE_COLUMNS[3:]:
                steps, values = gate.setdefault(quantity, ([], []))
                if row.get(quantity):  # there is no angle at the start, and no equilibrium without a decay
                    steps.append(int(row["step"]))
                    values.append(float(row[quantity]))
    return weights


@print_failures("figure of the gates")
def plot_gates(folder: Path) -> None:
    """Draw ``gates.csv`` as ``gates.png``: each gate's g, ‖v‖ and angle per step, means, with one column per weight.

    Where v decays, a dashed line is the angle that the optimiser's rate and decay lead to in the end.

    Args:
        folder: The folder of the run.
    """
    from matplotlib.lines import Line2D

    log = folder / "gates.csv"
    weights = read_gates(log)
    if all(len(series["g"][0]) < 2 for gates in weights.values() for series in gates.values()):
        raise ValueError(f"{log} has fewer than two steps in it; the run was shorter than the monitor's every_n_steps.")
    with new_figure(folder / "gates.png", max(6.4, 0.8 + 2.6 * len(weights)), 6.4) as figure:
        grid = figure.subplots(3, len(weights), sharex=True, sharey="row", squeeze=False)
        has_equilibrium = False
        names: dict[str, dict[str, None]] = {}  # an LSTM's first gate has the colour of a GRU's first
        for column, title, gates in zip(grid.T, drop_common_modules(list(weights)), weights.values(), strict=True):
            column[0].set_title(title, loc="left", fontweight="bold", fontsize=9, color=TITLE_COLOR)
            column[-1].set_xlabel("step")
            column[-1].locator_params(axis="x", nbins=4)
            for (gate, series), color in zip(gates.items(), GATE_COLORS, strict=False):  # a GRU has three gates
                names.setdefault(color, {})[gate] = None
                for axes, quantity in zip(column, LABELS, strict=True):
                    steps, values = series[quantity]
                    marker = "o" if len(values) <= MAX_POINTS else ""
                    axes.plot(steps, smooth_if_long(values), color=color, linewidth=1.4, marker=marker, markersize=2.5)
            equilibrium = next(iter(gates.values()))["equilibrium_radians"]  # one rate and decay for all gates
            if equilibrium[0]:
                column[-1].plot(*equilibrium, **EQUILIBRIUM)
                has_equilibrium = True
        for axes, label in zip(grid[:, 0], LABELS.values(), strict=True):
            axes.set_ylabel(label)
            axes.margins(x=0.02, y=0.1)
        grid[-1, 0].set_ylim(bottom=0)
        figure.align_ylabels()
        lines = [Line2D([], [], color=color, linewidth=1.4) for color in names]
        labels = [", ".join(gates) for gates in names.values()]
        if has_equilibrium:
            lines.append(Line2D([], [], **EQUILIBRIUM))
            labels.append("turn in equilibrium")
        figure.legend(lines, labels, loc="outside upper center", ncols=len(lines))


def drop_common_modules(names: list[str]) -> list[str]:
    """Drop the leading modules that all names share.

    Example:
        >>> drop_common_modules(["net.rnn.weight_ih_l0", "net.rnn.weight_hh_l0"])
        ['weight_ih_l0', 'weight_hh_l0']
        >>> drop_common_modules(["a.weight_ih", "b.weight_ih"])
        ['a.weight_ih', 'b.weight_ih']
    """
    paths = [name.split(".") for name in names]
    while all(len(path) > 1 and path[0] == paths[0][0] for path in paths):
        paths = [path[1:] for path in paths]
    return [".".join(path) for path in paths]
