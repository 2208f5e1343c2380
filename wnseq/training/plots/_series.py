"""The numbers of a run: read from its log, aligned with those of other runs, smoothed."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

Series = tuple[list[int], list[float]]  # steps, and the value at each

MAX_POINTS = 60  # a longer curve is smoothed, or drawn without a mark at each point


def whole_rows(file: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a table by its header, but for one that was cut short."""
    return (row for row in csv.DictReader(file) if None not in row.values())


def read_metrics(log: Path) -> dict[str, Series]:
    """Read steps and values of every column of Lightning's ``metrics.csv``, in which most cells are empty."""
    columns: dict[str, Series] = {}
    with log.open(newline="", encoding="utf-8") as file:
        for row in whole_rows(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    steps, values = columns.setdefault(name, ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
    return columns


def common_steps(runs: Sequence[Series]) -> tuple[list[int], list[list[float]]]:
    """Return the steps that all runs have, and the values of the runs at each.

    Example:
        >>> common_steps([([1, 2, 3], [0.1, 0.2, 0.3]), ([2, 3, 4], [2.0, 3.0, 4.0])])
        ([2, 3], [[0.2, 2.0], [0.3, 3.0]])
    """
    by_step = [dict(zip(*run, strict=True)) for run in runs]
    steps = sorted(set.intersection(*(set(run) for run in by_step)))
    return steps, [[run[step] for run in by_step] for step in steps]


def running_mean(values: list[float]) -> list[float]:
    """Return the centred mean over about a thirtieth of a curve, which does not lag behind it."""
    reach = max(1, len(values) // 60)
    means = []
    for position in range(len(values)):
        near = min(reach, position)  # narrow at the steep start, one-sided at the flat end
        means.append(fmean(values[position - near : position + near + 1]))
    return means


def smooth_if_long(values: list[float]) -> list[float]:
    """Return the running mean of a curve of more than ``MAX_POINTS`` values, and a shorter one as it is."""
    return running_mean(values) if len(values) > MAX_POINTS else values
