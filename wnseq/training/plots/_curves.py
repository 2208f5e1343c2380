"""The figure of one run: training, validation and learning rate against the step."""

from pathlib import Path
from typing import Any

from wnseq.training.plots._series import MAX_POINTS, Series, read_metrics, running_mean
from wnseq.training.plots._style import (
    MUTED_COLOR,
    TITLE_COLOR,
    TRAIN_COLOR,
    VALIDATION_COLOR,
    new_figure,
    print_failures,
)


@print_failures("figure")
def plot_run(folder: Path, *, metric: str, title: str, mode: str = "min") -> None:
    """Draw a run's training and validation loss and its learning rate against the step, as ``curves.png``.

    Args:
        folder: The folder of the run. Without a ``metrics.csv`` in it nothing is drawn: the user wanted no log.
        metric: What follows ``train/`` and ``val/`` in the names of the columns. It labels the axis.
        title: Text above the figure.
        mode: ``min`` or ``max``: which value of the validation is the best, and has its number beside it.
    """
    log = folder / "metrics.csv"
    if not log.is_file():
        return
    columns = read_metrics(log)
    train, validation = columns.get(f"train/{metric}"), columns.get(f"val/{metric}")
    rate = next((series for name, series in columns.items() if name.startswith("lr-")), None)
    if train is None and validation is None:
        raise ValueError(f"{log} has neither a train/{metric} nor a val/{metric} in it.")
    rows = 2 if rate else 1
    with new_figure(folder / "curves.png", 6.4, 4.2) as figure:
        above, *below = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=[4, 1][:rows])[:, 0]
        above.set_title(title, loc="left", fontweight="bold", color=TITLE_COLOR)
        above.set_ylabel(metric.replace("_", " "))
        if train:
            _draw_training(above, train)
        if validation:
            _draw_validation(above, validation, mode)
        above.margins(x=0.02, y=0.1)
        above.legend(loc="upper right")
        if rate:
            below[0].plot(*rate, color=MUTED_COLOR, linewidth=1.2)
            below[0].set_ylim(0, 1.15 * max(rate[1]))
            below[0].set_ylabel("learning rate")
        (below or [above])[0].set_xlabel("step")
        figure.align_ylabels()


def _draw_training(axes: Any, series: Series) -> None:
    steps, values = series
    if len(values) <= MAX_POINTS:
        axes.plot(steps, values, color=TRAIN_COLOR, linewidth=0.8, label="training")
        return
    axes.plot(steps, values, color=TRAIN_COLOR, linewidth=0.8, alpha=0.4)
    axes.plot(steps, running_mean(values), color=TRAIN_COLOR, linewidth=1.4, label="training")


def _draw_validation(axes: Any, series: Series, mode: str) -> None:
    steps, values = series
    marker = "o" if len(values) <= MAX_POINTS else ""
    axes.plot(steps, values, color=VALIDATION_COLOR, marker=marker, markersize=3.5, label="validation")
    best = (max if mode == "max" else min)(range(len(values)), key=values.__getitem__)
    label = {"ha": "center", "va": "bottom", "color": VALIDATION_COLOR}
    axes.annotate(f"{values[best]:.4g}", (steps[best], values[best]), (0, 6), textcoords="offset points", **label)
