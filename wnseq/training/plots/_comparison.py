"""Figures of several runs: the curves of variants, and final values against a swept option."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle, pairwise
from operator import add, mul
from pathlib import Path
from statistics import fmean

from wnseq.training.plots._series import Series, common_steps, smooth_if_long
from wnseq.training.plots._style import TITLE_COLOR, VARIANT_COLORS, new_figure, print_failures, set_log_scale
from wnseq.training.run_statistics import bootstrap_interval, interquartile_mean

TITLES = {"train": "training", "val": "validation"}


@print_failures("figure")
def plot_variants(
    variants: Mapping[str, Sequence[Mapping[str, Series]]], file: Path, *, metric: str, title: str, log: bool = True
) -> None:
    """Draw mean and range over the runs of each variant against the step, training and validation side by side.

    Args:
        variants: The runs of each variant, as :func:`read_metrics` returns them.
        file: The file to write. Its ending names the format.
        metric: What follows ``train/`` and ``val/`` in the names of the columns. It labels the axis.
        title: Text above the figure.
        log: Whether positive values are on a logarithmic axis.
    """
    panels = {stage: _runs_with(variants, f"{stage}/{metric}") for stage in TITLES}
    panels = {stage: runs for stage, runs in panels.items() if any(runs.values())}
    if not panels:
        raise ValueError(f"no variant has a train/{metric} or a val/{metric} at a step that all its runs have.")
    with new_figure(file, 0.8 + 3.6 * len(panels), 3.4) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10, color=TITLE_COLOR)
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        lowest = math.inf
        for axes, (stage, runs_of) in zip(grid, panels.items(), strict=True):
            axes.set_title(TITLES[stage], loc="left", fontsize=9)
            axes.set_xlabel("step")
            for (name, runs), color in zip(runs_of.items(), cycle(VARIANT_COLORS), strict=False):
                if not runs:
                    continue
                steps, values = common_steps(runs)
                means = smooth_if_long([fmean(at_step) for at_step in values])
                axes.plot(steps, means, color=color, linewidth=1.5, label=name)
                if len(runs) > 1:
                    low, high = ([extreme(at_step) for at_step in values] for extreme in (min, max))
                    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
                lowest = min(lowest, *map(min, values))
        if log and lowest > 0:
            set_log_scale(grid[0])  # and the other, which shares its axis
        grid[0].set_ylabel(metric.replace("_", " "))
        lines, names = max((axes.get_legend_handles_labels() for axes in grid), key=lambda found: len(found[1]))
        figure.legend(lines, names, loc="outside lower center", ncols=min(5, len(names)))


def _runs_with(variants: Mapping[str, Sequence[Mapping[str, Series]]], column: str) -> dict[str, list[Series]]:
    """Return the curves of each variant; none where they have no step in common, as after equal times."""
    curves = {name: [run[column] for run in runs if column in run] for name, runs in variants.items()}
    return {name: each if each and common_steps(each)[0] else [] for name, each in curves.items()}


@print_failures("figure")
def plot_sweep(
    variants: Mapping[str, Sequence[tuple[float, float | None]]],
    file: Path,
    *,
    option: str,
    metric: str,
    title: str,
    returns: bool = False,
) -> None:
    """Draw mean and range over the runs of each variant against a swept option; a cross marks a run that diverged.

    Of returns it draws a dot for each run, and the interquartile mean with its 95 % interval by the bootstrap.

    Args:
        variants: For each run of each variant, the value of the option and the final metric; None if it diverged.
        file: The file to write. Its ending names the format.
        option: The swept option, which labels the axis.
        metric: The name of the final metric, which labels the other axis.
        title: Text above the figure.
        returns: Whether more is better; else positive finals are on a logarithmic axis.
    """
    finals = [final for runs in variants.values() for _, final in runs if final is not None]
    if not finals:
        raise ValueError("every run has diverged.")
    with new_figure(file, 5.4, 3.6) as figure:
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontweight="bold", color=TITLE_COLOR)
        options = sorted({value for runs in variants.values() for value, _ in runs})
        for (name, runs), color, shift in zip(
            variants.items(), cycle(VARIANT_COLORS), _side_by_side(options, len(variants)), strict=False
        ):
            by_option: dict[float, list[float]] = {}
            for value, final in sorted((value, final) for value, final in runs if final is not None):
                by_option.setdefault(value, []).append(final)
            means, below, above = [], [], []
            for value, at in by_option.items():
                mean, (low, high) = fmean(at), (min(at), max(at))
                if returns:
                    mean, (low, high) = interquartile_mean(at), bootstrap_interval(at)
                    axes.plot([shift(value)] * len(at), at, "o", color=color, markersize=2.5, alpha=0.6, linewidth=0)
                means.append(mean)
                below.append(max(0.0, mean - low))
                above.append(max(0.0, high - mean))
            marks = {
                "color": color,
                "marker": "o",
                "markersize": 4.5,
                "linewidth": 1.2,
                "elinewidth": 0.8,
                "label": name,
            }
            axes.errorbar([*map(shift, by_option)], means, [below, above], **marks)
            if diverged := [shift(value) for value, final in runs if final is None]:
                at_top = {"transform": axes.get_xaxis_transform(), "clip_on": False}
                axes.plot(diverged, [1.0] * len(diverged), "x", color=color, **at_top)
        if options[0] > 0:
            axes.set_xscale("log")
            axes.set_xticks(options, [f"{value:g}" for value in options])
            axes.minorticks_off()
        if not returns and min(finals) > 0:
            set_log_scale(axes)
        axes.set_xlabel(option.rpartition(".")[2].replace("_", " "))
        axes.set_ylabel(metric.replace("_", " "))
        figure.legend(loc="outside lower center", ncols=min(5, len(variants)))


def _side_by_side(options: Sequence[float], variants: int) -> list[Callable[[float], float]]:
    """Return for each variant what moves it aside from the others, by a fifth of the way to the next value in all."""
    shares = [0.2 * ((k + 0.5) / variants - 0.5) for k in range(variants)]
    if options[0] > 0:
        ratio = min((high / low for low, high in pairwise(options)), default=1.0)
        return [partial(mul, ratio**share) for share in shares]
    gap = min((high - low for low, high in pairwise(options)), default=0.0)
    return [partial(add, gap * share) for share in shares]


@print_failures("figure of the runs")
def plot_dots(
    variants: Mapping[str, tuple[Sequence[float], float, tuple[float, float]]], file: Path, *, metric: str, title: str
) -> None:
    """Draw a dot for the final value of each run, and for each variant a mean with its interval.

    Args:
        variants: Final values of the runs, their mean and its interval, by variant.
        file: The file to write. Its ending names the format.
        metric: The name of the final metric, which labels the axis.
        title: Text above the figure.
    """
    with new_figure(file, 5.4, 0.9 + 0.4 * len(variants)) as figure:
        axes = figure.subplots()
        axes.use_sticky_edges = False  # else the outermost dots lie on the axis, half of them cut off
        axes.set_title(title, loc="left", fontweight="bold", color=TITLE_COLOR)
        for place, ((values, mean, (low, high)), color) in enumerate(
            zip(variants.values(), cycle(VARIANT_COLORS), strict=False)
        ):
            axes.barh(place, high - low, 0.5, low, color=color, alpha=0.25, linewidth=0)
            axes.plot([mean, mean], [place - 0.25, place + 0.25], color=color, linewidth=1.5)
            axes.plot(values, [place] * len(values), "o", color=color, markersize=3.5)
        axes.set_yticks(range(len(variants)), [*variants])
        axes.invert_yaxis()
        axes.set_xlabel(metric.replace("_", " "))
