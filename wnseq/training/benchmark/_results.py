"""What a benchmark leaves: rows in a CSV, tables in markdown, a figure of the ratios."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wnseq.training.benchmark._rounds import Row
from wnseq.training.plots._style import VARIANT_COLORS, new_figure, print_failures, set_log_scale

MAX_OFFSET = 0.02  # of the ratio of the baseline's second run from 1; beyond it no ratio counts


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """Write rows with the same keys, at least one, as a CSV file; make its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def quartiles(label: str, digits: str) -> str:
    """Return the format string of a median and, in brackets, its quartiles.

    Example:
        >>> quartiles("ms", ".1f").format(ms=2.0, ms_lower=1.5, ms_upper=3.25)
        '2.0 (1.5, 3.2)'
    """
    return f"{{{label}:{digits}}} ({{{label}_lower:{digits}}}, {{{label}_upper:{digits}}})"


def table(rows: Iterable[Row], columns: Mapping[str, str]) -> str:
    """Return a table in markdown, its first two columns aligned to the left and the others to the right.

    Args:
        rows: One a line.
        columns: The format string of each column, by its heading.

    Example:
        >>> print(table([{"size": 8, "ms": 1.5}], {"size": "N={size}", "what": "step", "ms": "{ms:.2f}"}), end="")
        | size | what | ms |
        | --- | --- | --: |
        | N=8 | step | 1.50 |
    """
    lines = [[*columns], ["---", "---", *["--:"] * (len(columns) - 2)]]
    lines += [[column.format(**row) for column in columns.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def phase_columns(rows: Iterable[Row], key: str) -> list[Row]:
    """Merge the rows of a variant's phases, such as ``ms`` of the phase ``both`` to ``both_ms``.

    Args:
        rows: See :func:`summarise`.
        key: Format string that differs between rows that stay apart.
    """
    merged: dict[tuple[str, str], Row] = {}
    for row in rows:
        figures = {f"{row['phase']}_{name}": value for name, value in row.items() if name.startswith(("ms", "ratio"))}
        merged.setdefault((key.format(**row), row["variant"]), dict(row)).update(figures)
    return list(merged.values())


def groups(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    """Return the rows by what a format string makes of them."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key.format(**row), []).append(row)
    return found


def doubts(rows: Iterable[Row], again: str, where: str) -> str:
    """Return a line that names where the baseline's second run, ``again``, is off, or an empty string.

    Each row is named by the format string ``where``.
    """
    off = [where.format(**row) for row in rows if row["variant"] == again and abs(row["ratio"] - 1) > MAX_OFFSET]
    return f"\n{again} is off by more than {MAX_OFFSET:.0%}, so that no ratio counts: {'; '.join(off)}\n" if off else ""


@print_failures("figure")
def plot_ratios(rows: Iterable[Row], figure: Path, *, panel: str, tick: str, label: str) -> None:
    """Draw ratios with their quartiles, and print where; without matplotlib, print that.

    Args:
        rows: See :func:`summarise`; one phase of each variant.
        figure: The file to write; its ending names the format.
        panel: Format string of the title of a row's panel.
        tick: Format string of its label on the horizontal axis.
        label: That of the vertical axis.
    """
    panels = groups(rows, panel)
    names = list(dict.fromkeys(row["variant"] for part in panels.values() for row in part))
    with new_figure(figure, 7.2, 0.8 + 2.4 * len(panels)) as drawing:
        grid = drawing.subplots(len(panels), 1, squeeze=False)[:, 0]
        marks: dict[str, Any] = {}
        for axes, (title, part) in zip(grid, panels.items(), strict=True):
            axes.set_title(title, loc="left", fontweight="bold", fontsize=9, color="#222222")
            axes.axhline(1, color="#333333", linewidth=0.8)
            ticks, variants = list(groups(part, tick)), groups(part, "{variant}")
            for number, (name, points) in enumerate(variants.items()):
                offset = 0.7 * ((number + 0.5) / len(variants) - 0.5)  # side by side above their tick
                x = [ticks.index(tick.format(**row)) + offset for row in points]
                error = [
                    [row["ratio"] - row["ratio_lower"] for row in points],
                    [row["ratio_upper"] - row["ratio"] for row in points],
                ]
                style = {"color": VARIANT_COLORS[names.index(name) % len(VARIANT_COLORS)], "markersize": 4}
                marks[name] = axes.errorbar(x, [row["ratio"] for row in points], error, fmt="o", linewidth=1, **style)
            axes.set_xticks(range(len(ticks)), ticks)
            axes.grid(visible=False, axis="x")
            set_log_scale(axes)
            axes.set_ylabel(label)
        drawing.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=4)
    print(f"figure   {os.path.relpath(figure)}")
