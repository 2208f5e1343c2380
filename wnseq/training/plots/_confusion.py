"""The figure of a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

from wnseq.training.plots._style import TITLE_COLOR, new_figure, print_failures

MOST = 30  # classes up to which cells have their numbers
LONGEST = 18  # characters of a name


@print_failures("confusion matrix")
def plot_confusion(counts: Sequence[Sequence[float]], classes: Sequence[str], file: Path, *, title: str) -> None:
    """Draw how many examples of each class are taken for which: a row for each true class, shaded by its shares.

    Args:
        counts: Examples by true and predicted class.
        classes: Names of the classes.
        file: The file to write. Its ending names the format.
        title: Text above the figure.
    """
    number = len(classes)
    shares = [[count / (sum(row) or 1) for count in row] for row in counts]
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in classes]
    size = min(9.0, max(3.2, 1.6 + 0.45 * number))
    with new_figure(file, size + 0.6, size) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=9, color=TITLE_COLOR)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(number), names, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(number), names, fontsize=7)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("true", fontsize=8)
        for row, column in ((row, column) for row in range(number) for column in range(number) if number <= MOST):
            color = "white" if shares[row][column] > 0.5 else TITLE_COLOR
            axes.text(column, row, f"{counts[row][column]:.0f}", ha="center", va="center", fontsize=6, color=color)
