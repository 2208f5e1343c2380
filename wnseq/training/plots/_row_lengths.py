"""The figure of how long the rows of an embedding have become, against how often their tokens occur."""

import csv
import math
from pathlib import Path
from statistics import median

from wnseq.training.plots._style import TITLE_COLOR, TRAIN_COLOR, VALIDATION_COLOR, new_figure, print_failures

LENGTH_COLUMNS = ("id", "token", "count", "length")
LABELLED, LEAST = 8, 100  # tokens that are named, and how often they must occur at least


@print_failures("figure of the embedding")
def plot_row_lengths(folder: Path) -> None:
    """Draw ``embedding.csv`` as ``embedding.png``: the length of each token's row against its count, and medians.

    Tokens whose rows are much longer or shorter than those of others as frequent are named.

    Args:
        folder: The folder of the run.
    """
    with (folder / "embedding.csv").open(newline="", encoding="utf-8") as file:
        rows = [(int(row["count"]), float(row["length"]), row["token"]) for row in csv.DictReader(file)]
    bins: dict[int, list[tuple[int, float]]] = {}
    for count, length, _ in rows:
        bins.setdefault(math.floor(math.log2(count + 1)), []).append((count, length))
    middles = {k: [median(values) for values in zip(*bins[k], strict=True)] for k in sorted(bins)}
    with new_figure(folder / "embedding.png", 5.4, 3.8) as figure:
        axes = figure.subplots()
        axes.set_title("the length of a token's row", loc="left", fontweight="bold", color=TITLE_COLOR)
        size, alpha = (4.0, 0.5) if len(rows) < 3000 else (2.0, 0.2)
        counts, lengths, _ = zip(*rows, strict=True)
        style = {"color": TRAIN_COLOR, "markersize": size, "alpha": alpha, "markeredgewidth": 0}
        axes.plot([count + 1 for count in counts], lengths, "o", rasterized=True, **style)
        line = {"color": VALIDATION_COLOR, "linewidth": 1.8, "label": "median"}
        axes.plot([count + 1 for count, _ in middles.values()], [length for _, length in middles.values()], **line)
        often = [row for row in rows if row[0] >= LEAST]  # named are those that differ most from others as frequent
        often.sort(key=lambda row: -abs(row[1] - middles[math.floor(math.log2(row[0] + 1))][1]))
        named: list[tuple[float, float]] = []
        for count, length, token in often:
            place = math.log10(count + 1), length / max(lengths)
            if len(named) == LABELLED or any(abs(place[0] - x) < 0.3 and abs(place[1] - y) < 0.04 for x, y in named):
                continue  # enough, or it would cover another
            named.append(place)
            shown = repr(token)[1:-1] if token.isspace() else token.replace("$", r"\$")
            axes.annotate(shown, (count + 1, length), (3, 3), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("1 + times in the training text")
        axes.set_ylabel("length of the row")
        axes.legend(loc="upper left")
