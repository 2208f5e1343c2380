"""Figures of a run, in one style. matplotlib is imported where it is drawn with, and never through pyplot."""

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
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
VARIANTS = ("#777777", "#c2410c", "#5b8fc7", "#8a6bb1", "#4d8b5e", "#b08b3e")
GATE_COLUMNS = ("step", "weight", "gate", "g", "v_norm", "radians_per_step")
SMOOTH = 60  # a curve of more points than this is smoothed, or drawn without a mark at each
Series = tuple[list[int], list[float]]


def plot_run(folder: Path, *, metric: str, title: str) -> None:
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


def plot_gates(folder: Path) -> None:
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


def plot_images(images: "npt.NDArray[np.floating[Any]]", captions: Sequence[str], figure: Path, *, title: str) -> bool:
    """Draw images with their captions, or say in a line why there is no figure.

    Args:
        images: see :func:`images_with`.
        captions: see :func:`images_with`.
        figure: see :func:`images_with`.
        title: see :func:`images_with`.

    Returns:
        Whether there is a figure.
    """
    try:
        images_with(captions, images, figure, title=title)
    except ModuleNotFoundError:
        print("no figure of images: it needs matplotlib (pip install 'wnseq[plots]')")
        return False
    return True


def images_with(
    captions: Sequence[str], images: "npt.NDArray[np.floating[Any]]", figure: Path, *, title: str, columns: int = 10
) -> Path:
    """Draw images in rows, each under its caption.

    Args:
        captions: one an image.
        images: values from 0 to 1, of shape ``(N, 1, H, W)`` or ``(N, 3, H, W)``.
        figure: the file to write; its ending names the format.
        title: stands above the figure.
        columns: images a row.

    Returns:
        The path of the figure.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = -(-len(captions) // columns)
    columns = min(columns, len(captions))
    with rc_context(STYLE):
        drawing = Figure(figsize=(max(2.4, 0.8 * columns), 0.4 + rows), layout="constrained")
        drawing.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=9, color="#222222")
        axes = drawing.subplots()  # one for all: forty of them take a second and a half
        axes.set_axis_off()
        for place, (caption, image) in enumerate(zip(captions, images, strict=True)):
            row, column = divmod(place, columns)
            shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            extent = (column, column + 0.9, 1.2 * row + 0.9, 1.2 * row)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
            axes.text(column + 0.45, 1.2 * row - 0.06, caption, ha="center", fontsize=6, color="#333333")
        axes.set_xlim(0, columns)
        axes.set_ylim(1.2 * rows, -0.25)
        drawing.savefig(figure)
    return figure


def animated(
    frames: "npt.NDArray[np.floating[Any]]",
    boxes: "npt.NDArray[np.floating[Any]] | None",
    figure: Path,
    *,
    columns: int,
) -> Path:
    """Animate grey images that change together, each with the outline of the window that looks at it.

    Args:
        frames: values from 0 to 1, of shape ``(T, N, H, W)``.
        boxes: left, top, right and bottom of the windows in pixels from the upper left corner, of shape ``(T, N, 4)``;
            NaN where an image has none, None where none has.
        figure: the GIF to write. It stays on the last step for a second and a half.
        columns: images a row.

    Returns:
        The path of the figure.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    import numpy as np
    from matplotlib.animation import PillowWriter
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    steps, number, height, width = frames.shape
    places = np.array([divmod(place, columns) for place in range(number)])
    top, left = (places * (height + 1, width + 1)).T  # a pixel between images
    sheet = np.ones((steps, int(top.max()) + height, (width + 1) * min(columns, number) - 1))
    for place in range(number):
        sheet[:, top[place] : top[place] + height, left[place] : left[place] + width] = frames[:, place]
    drawing = Figure(figsize=(sheet.shape[2] * 0.8 / height, sheet.shape[1] * 0.8 / height))
    axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    shown = axes.imshow(sheet[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    outlines = LineCollection([], colors=VALIDATION, linewidths=1.5)
    axes.add_collection(outlines)
    rate = max(4, steps // 6)
    writer = PillowWriter(fps=rate)
    with writer.saving(drawing, str(figure), dpi=96):
        for step in [*range(steps), *[steps - 1] * (3 * rate // 2)]:
            shown.set_data(sheet[step])
            if boxes is not None:
                x = left + boxes[step][:, [0, 2, 2, 0, 0]].clip(0, width).T - 0.5  # (5, N)
                y = top + boxes[step][:, [1, 1, 3, 3, 1]].clip(0, height).T - 0.5
                outlines.set_segments(list(np.stack((x, y), -1).swapaxes(0, 1)))
            writer.grab_frame()
    return figure


def plot_variants(
    variants: Mapping[str, Sequence[Mapping[str, Series]]], figure: Path, *, metric: str, title: str
) -> None:
    """Draw training and validation of several variants, or say in a line why there is no figure.

    Args:
        variants: of each variant the columns of its runs, as :func:`read` gives them.
        figure: see :func:`compared`.
        metric: see :func:`compared`.
        title: see :func:`compared`.
    """
    try:
        compared(variants, figure, metric=metric, title=title)
    except ModuleNotFoundError:
        print("no figure: it needs matplotlib (pip install 'wnseq[plots]')")
    except ValueError as nothing:
        print(f"no figure: {nothing}")


def compared(variants: Mapping[str, Sequence[Mapping[str, Series]]], figure: Path, *, metric: str, title: str) -> Path:
    """Draw mean and range over the runs of each variant against the step, training and validation side by side.

    Args:
        variants: of each variant the columns of its runs, as :func:`read` gives them.
        figure: the file to write; its ending names the format.
        metric: what follows ``train/`` and ``val/`` in the names of the columns, and labels the axis.
        title: stands above the figure.

    Returns:
        The path of the figure.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if no run holds such a metric.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    stages = {
        stage: found
        for stage in ("train", "val")
        if (
            found := {
                name: [run[of] for run in runs if (of := f"{stage}/{metric}") in run] for name, runs in variants.items()
            }
        )
        and any(found.values())
    }
    if not stages:
        raise ValueError(f"no run has a train/{metric} or a val/{metric} in it.")
    with rc_context(STYLE):
        drawing = Figure(figsize=(0.8 + 3.6 * len(stages), 3.4), layout="constrained")
        drawing.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10, color="#222222")
        panels = drawing.subplots(1, len(stages), sharey=True, squeeze=False)[0]
        lowest = math.inf
        for axes, (stage, runs_of) in zip(panels, stages.items(), strict=True):
            axes.set_title({"train": "training", "val": "validation"}[stage], loc="left", fontsize=9)
            axes.set_xlabel("step")
            for (name, runs), color in zip(runs_of.items(), cycle(VARIANTS), strict=False):
                if not runs:
                    continue
                steps, columns = together(runs)
                means = [fmean(column) for column in columns]
                shown = smooth(means) if len(means) > SMOOTH else means
                axes.plot(steps, shown, color=color, linewidth=1.5, label=name)
                if len(runs) > 1:
                    low, high = ([most(column) for column in columns] for most in (min, max))
                    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
                lowest = min(lowest, *map(min, columns))
        if lowest > 0:
            logarithmic(panels[0])  # and the other, which shares its axis
        panels[0].set_ylabel(metric.replace("_", " "))
        lines, names = max((axes.get_legend_handles_labels() for axes in panels), key=lambda found: len(found[1]))
        drawing.legend(lines, names, loc="outside lower center", ncols=min(5, len(names)))
        drawing.savefig(figure)
    return figure


def together(runs: Sequence[Series]) -> tuple[list[int], list[list[float]]]:
    """The steps that all runs have, and their values at each.

    Example:
        >>> together([([1, 2, 3], [0.1, 0.2, 0.3]), ([2, 3, 4], [2.0, 3.0, 4.0])])
        ([2, 3], [[0.2, 2.0], [0.3, 3.0]])
    """
    by_step = [dict(zip(*run, strict=True)) for run in runs]
    steps = sorted(set.intersection(*(set(run) for run in by_step)))
    return steps, [[run[step] for run in by_step] for step in steps]


def plot_sweep(
    variants: Mapping[str, Sequence[tuple[float, float | None]]], figure: Path, *, option: str, metric: str, title: str
) -> None:
    """Draw final values against a swept option, or say in a line why there is no figure.

    Args:
        variants: see :func:`swept`.
        figure: see :func:`swept`.
        option: see :func:`swept`.
        metric: see :func:`swept`.
        title: see :func:`swept`.
    """
    try:
        swept(variants, figure, option=option, metric=metric, title=title)
    except ModuleNotFoundError:
        print("no figure: it needs matplotlib (pip install 'wnseq[plots]')")
    except ValueError as nothing:
        print(f"no figure: {nothing}")


def swept(
    variants: Mapping[str, Sequence[tuple[float, float | None]]], figure: Path, *, option: str, metric: str, title: str
) -> Path:
    """Draw mean and range over the runs of each variant against a swept option; a cross on top where a run diverged.

    Args:
        variants: of each variant what was swept and the final value, run by run; None where the run diverged.
        figure: the file to write; its ending names the format.
        option: the swept option, which labels the axis.
        metric: the name of the final value, which labels the other axis.
        title: stands above the figure.

    Returns:
        The path of the figure.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if no run has a final value.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    finals = [final for runs in variants.values() for _, final in runs if final is not None]
    if not finals:
        raise ValueError("every run has diverged.")
    with rc_context(STYLE):
        drawing = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = drawing.subplots()
        axes.set_title(title, loc="left", fontweight="bold", color="#222222")
        for (name, runs), color in zip(variants.items(), cycle(VARIANTS), strict=False):
            at: dict[float, list[float]] = {}
            for value, final in runs:
                if final is not None:
                    at.setdefault(value, []).append(final)
            values = sorted(at)
            means = [fmean(at[value]) for value in values]
            below = [mean - min(at[value]) for mean, value in zip(means, values, strict=True)]
            above = [max(at[value]) - mean for mean, value in zip(means, values, strict=True)]
            axes.errorbar(values, means, [below, above], color=color, marker="o", markersize=3.5, capsize=2, label=name)
            diverged = [value for value, final in runs if final is None]
            axes.plot(
                diverged, [1.0] * len(diverged), "x", color=color, transform=axes.get_xaxis_transform(), clip_on=False
            )
        every = sorted({value for runs in variants.values() for value, _ in runs})
        if every[0] > 0:
            axes.set_xscale("log")
            axes.set_xticks(every, [f"{value:g}" for value in every])
            axes.minorticks_off()
        if min(finals) > 0:
            logarithmic(axes)
        axes.set_xlabel(option.rpartition(".")[2].replace("_", " "))
        axes.set_ylabel(metric.replace("_", " "))
        drawing.legend(loc="outside lower center", ncols=min(3, len(variants)))
        drawing.savefig(figure)
    return figure


def logarithmic(axes: Any) -> None:
    """Scale the y axis by powers, and label it in plain numbers, between the powers too where there is room."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(Plain())
    axes.yaxis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


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
