"""What all figures share: fonts and colours, how a figure is made and saved, and what is printed without one."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

P = ParamSpec("P")

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
TRAIN_COLOR, VALIDATION_COLOR, MUTED_COLOR, TITLE_COLOR = "#5b8fc7", "#c2410c", "#777777", "#222222"
THEORY_COLOR = "#8a2f5b"  # of what a formula predicts
VARIANT_COLORS = ("#777777", "#c2410c", "#5b8fc7", "#8a6bb1", "#4d8b5e", "#b08b3e")


@contextmanager
def new_figure(file: Path, width: float, height: float) -> Iterator[Any]:
    """Make an empty figure in the project's style, and save it when the block ends.

    Args:
        file: The file to write. Its ending names the format.
        width: Width in inches.
        height: Height in inches.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(file)


def print_failures(subject: str) -> Callable[[Callable[P, None]], Callable[P, bool]]:
    """Decorate a function that draws, so that it never fails a run: it prints in a line why there is no figure.

    Args:
        subject: What is missing then: ``figure``.

    Returns:
        The decorator. What it decorates returns False if it printed that line: without matplotlib, and on a ValueError.
    """

    def decorate(draw: Callable[P, None]) -> Callable[P, bool]:
        @functools.wraps(draw)
        def draw_or_print(*args: P.args, **kwargs: P.kwargs) -> bool:
            try:
                draw(*args, **kwargs)
            except ModuleNotFoundError:
                print(f"no {subject}: it needs matplotlib (pip install 'wnseq[plots]')")
            except ValueError as error:
                print(f"no {subject}: {error}")
            else:
                return True
            return False

        return draw_or_print

    return decorate


def set_log_scale(axes: Any) -> None:
    """Make the y axis of a plot logarithmic, with plain numbers as labels, between powers of ten too if they fit."""
    from matplotlib.ticker import LogFormatter

    class PlainFormatter(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(PlainFormatter())
    axes.yaxis.set_minor_formatter(PlainFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
