"""Figures of a run, in one style. matplotlib is imported where it is drawn with, and never through pyplot."""

import csv
from pathlib import Path
from statistics import fmean
from typing import Any

STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#777777",
    "axes.labelcolor": "#333333",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "savefig.dpi": 160,
}
TRAIN, VALIDATION, QUIET = "#5b8fc7", "#c2410c", "#777777"
GATES = ("#5b8fc7", "#c2410c", "#4d8b5e", "#8a6bb1")  # input, forget, cell, output
GATE_COLUMNS = ("step", "weight", "gate", "g", "v_norm", "radians_per_step")
SMOOTH = 60  # a curve of more points than this is smoothed, or drawn without a mark at each

Series = tuple[list[int], list[float]]


def of_run(folder: Path, *, metric: str, title: str) -> None:
    """Draw the curves of a run into its folder, or say in a line why there is no figure.

    Args:
        folder: that of the run.
        metric: see :func:`curves`.
        title: see :func:`curves`.
    """
    log = folder / "metrics.csv"
    if not log.is_file():
        return  # the user wanted no log
    try:
        curves(log, folder / "curves.png", metric=metric, title=title)
    except ModuleNotFoundError:
        print("no figure: it needs matplotlib (pip install 'wnseq[plots]')")
    except ValueError as nothing:
        print(f"no figure: {nothing}")


def curves(log: Path, figure: Path, *, metric: str, title: str) -> Path:
    """Draw training and validation loss, and the learning rate, against the step.

    Args:
        log: the ``metrics.csv`` of a run.
        figure: the file to write; its ending names the format.
        metric: what follows ``train/`` and ``val/`` in the names of the columns, and labels the axis.
        title: stands above the figure.

    Returns:
        The path of the figure.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if the log holds no such metric.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = read(log)
    train, validation = columns.get(f"train/{metric}"), columns.get(f"val/{metric}")
    rate = next((series for name, series in columns.items() if name.startswith("lr-")), None)
    if train is None and validation is None:
        raise ValueError(f"{log} has neither a train/{metric} nor a val/{metric} in it.")
    with rc_context(STYLE):
        drawing = Figure(figsize=(6.4, 4.2), layout="constrained")
        rows = 2 if rate else 1
        above, *below = drawing.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=[4, 1][:rows])[:, 0]
        above.set_title(title, loc="left", fontweight="bold", color="#222222")
        above.set_ylabel(metric.replace("_", " "))
        if train:
            noisy = len(train[1]) > SMOOTH
            above.plot(
                *train, color=TRAIN, linewidth=0.8, alpha=0.4 if noisy else 1.0, label="" if noisy else "training"
            )
            if noisy:
                above.plot(train[0], smooth(train[1]), color=TRAIN, linewidth=1.4, label="training")
        if validation:
            few = len(validation[1]) <= SMOOTH
            above.plot(*validation, color=VALIDATION, marker="o" if few else "", markersize=3.5, label="validation")
            best = min(range(len(validation[1])), key=validation[1].__getitem__)
            where = validation[0][best], validation[1][best]
            above.annotate(
                f"{where[1]:.4g}", where, (0, 6), textcoords="offset points", ha="center", va="bottom", color=VALIDATION
            )
        above.margins(x=0.02, y=0.1)
        above.legend(loc="upper right")
        if rate:
            below[0].plot(*rate, color=QUIET, linewidth=1.2)
            below[0].set_ylim(0, 1.15 * max(rate[1]))
            below[0].set_ylabel("learning rate")
        (below or [above])[0].set_xlabel("step")
        drawing.align_ylabels()
        drawing.savefig(figure)
    return figure


def of_gates(folder: Path) -> None:
    """Draw ``gates.csv`` as ``gates.png`` in the same folder, or say in a line why there is no figure.

    Args:
        folder: that of the run.
    """
    try:
        gates(folder / "gates.csv", folder / "gates.png")
    except ModuleNotFoundError:
        print("no figure of the gates: it needs matplotlib (pip install 'wnseq[plots]')")
    except ValueError as nothing:
        print(f"no figure of the gates: {nothing}")


def gates(log: Path, figure: Path) -> Path:
    """Draw each gate's mean g, mean ‖v‖ and mean angle turned per step against the step, a column a weight.

    Args:
        log: the ``gates.csv`` of a run.
        figure: the file to write; its ending names the format.

    Returns:
        The path of the figure.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if the log holds fewer than two steps.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    weights = read_gates(log)
    if all(len(steps) < 2 for of in weights.values() for steps, _ in (series["g"] for series in of.values())):
        raise ValueError(f"{log} has fewer than two steps in it; the run was shorter than the monitor's every_n_steps.")
    quantities = {"g": "mean g", "v_norm": "mean ‖v‖", "radians_per_step": "radians per step"}
    with rc_context(STYLE):
        drawing = Figure(figsize=(max(6.4, 0.8 + 2.6 * len(weights)), 6.4), layout="constrained")
        grid = drawing.subplots(3, len(weights), sharex=True, sharey="row", squeeze=False)
        labels: dict[str, dict[str, None]] = {}  # an LSTM's first gate has the colour of a GRU's first
        for column, title, of in zip(grid.T, short(list(weights)), weights.values(), strict=True):
            column[0].set_title(title, loc="left", fontweight="bold", fontsize=9, color="#222222")
            column[-1].set_xlabel("step")
            column[-1].locator_params(axis="x", nbins=4)
            for (gate, series), color in zip(of.items(), GATES, strict=False):  # a GRU has three gates
                labels.setdefault(color, {})[gate] = None
                for axes, quantity in zip(column, quantities, strict=True):
                    steps, values = series[quantity]
                    many = len(values) > SMOOTH
                    shown, mark = (smooth(values), "") if many else (values, "o")
                    axes.plot(steps, shown, color=color, linewidth=1.4, marker=mark, markersize=2.5)
        for axes, label in zip(grid[:, 0], quantities.values(), strict=True):
            axes.set_ylabel(label)
            axes.margins(x=0.02, y=0.1)
        grid[-1, 0].set_ylim(bottom=0)
        drawing.align_ylabels()
        lines = [Line2D([], [], color=color, linewidth=1.4) for color in labels]
        names = [", ".join(names) for names in labels.values()]
        drawing.legend(lines, names, loc="outside upper center", ncols=len(lines))
        drawing.savefig(figure)
    return figure


def short(names: list[str]) -> list[str]:
    """Drop the modules that all names lie in.

    Example:
        >>> short(["net.rnn.weight_ih_l0", "net.rnn.weight_hh_l0"]), short(["a.weight_ih", "b.weight_ih"])
        (['weight_ih_l0', 'weight_hh_l0'], ['a.weight_ih', 'b.weight_ih'])
    """
    parts = [name.split(".") for name in names]
    while all(len(path) > 1 and path[0] == parts[0][0] for path in parts):
        parts = [path[1:] for path in parts]
    return [".".join(path) for path in parts]


def smooth(values: list[float]) -> list[float]:
    """A centred running mean over about a thirtieth of the curve, so that it lags nowhere."""
    reach = max(1, len(values) // 60)
    means = []
    for here in range(len(values)):
        near = min(reach, here)  # narrow at the steep start, one-sided at the flat end
        means.append(fmean(values[here - near : here + near + 1]))
    return means


def read(log: Path) -> dict[str, Series]:
    """Steps and values of every column of Lightning's ``metrics.csv``, in which most cells of a row are empty."""
    columns: dict[str, Series] = {}
    with log.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    steps, values = columns.setdefault(name, ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
    return columns


def read_gates(log: Path) -> dict[str, dict[str, dict[str, Series]]]:
    """Steps and values by weight, gate and quantity, of the ``gates.csv`` of a run."""
    weights: dict[str, dict[str, dict[str, Series]]] = {}
    with log.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            gate = weights.setdefault(row["weight"], {}).setdefault(row["gate"], {})
            for quantity in GATE_COLUMNS[3:]:
                steps, values = gate.setdefault(quantity, ([], []))
                if row[quantity]:  # there is no angle at the start
                    steps.append(int(row["step"]))
                    values.append(float(row[quantity]))
    return weights
