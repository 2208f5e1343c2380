"""Times of contenders that do the same, taken in turn in one process, and their ratios round by round."""

import contextlib
import csv
import ctypes
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import torch
from torch import Tensor

from wnseq.training.plots._style import STYLE, VARIANT_COLORS, set_log_scale

Row = dict[str, Any]
Lap = Callable[[], tuple[float, ...]]  # one run of a contender: the seconds of each of its phases
Times = dict[str, list[tuple[float, ...]]]  # of each contender, round by round
MEGABYTE = 1e6
SAME = 0.02  # a twin may be off by this much


def check(pairs: int, threads: Sequence[int]) -> None:
    """Refuse too few rounds, and no threads.

    Args:
        pairs: rounds.
        threads: numbers of threads.

    Raises:
        ValueError: there are fewer than two rounds, or there is a number of threads below one.
    """
    if pairs < 2:
        raise ValueError(f"pairs must be at least 2, got {pairs}: one has no spread")
    if not threads or min(threads) < 1:
        raise ValueError(f"threads must be numbers of at least 1, got {list(threads)}")


def rounds(laps: Mapping[str, Lap], *, pairs: int, least: float) -> Times:
    """Run every contender once a round, in a new order each round.

    Args:
        laps: what is run, by name; the first is what the others are compared with.
        pairs: rounds.
        least: seconds. What is over sooner is run as often as the first fits in, and its mean is taken.

    Returns:
        The seconds of each phase, by name and round.
    """
    first = next(iter(laps.values()))
    for run in laps.values():
        for _ in range(3):  # what is made at the first calls is there then
            run()
    repeats = max(1, math.ceil(least / min(first()[-1] for _ in range(3))))
    times: Times = {name: [] for name in laps}
    order, shuffle = list(laps), random.Random(0).shuffle
    for _ in range(pairs):
        shuffle(order)
        for name in order:
            runs = [laps[name]() for _ in range(repeats)]
            times[name].append(tuple(map(fmean, zip(*runs, strict=True))))
    return times


def summarised(times: Times, phases: Sequence[str]) -> Iterator[Row]:
    """Take the median and quartiles of times in ms, and of the ratios to the first contender in the same round.

    Args:
        times: see :func:`rounds`.
        phases: names of the phases.

    Returns:
        An iterator over the rows: contender, phase, pairs; ms and ratio, each also with _lower and _upper.
    """
    base = next(iter(times.values()))
    for place, phase in enumerate(phases):
        for name, own in times.items():
            ratios = [mine[place] / theirs[place] for mine, theirs in zip(own, base, strict=True)]
            row: Row = {"contender": name, "phase": phase, "pairs": len(own)}
            for label, values in (("ms", [1e3 * of[place] for of in own]), ("ratio", ratios)):
                lower, middle, upper = quantiles(values, n=4, method="inclusive")
                row |= {label: middle, f"{label}_lower": lower, f"{label}_upper": upper}
            yield row


def clocked(run: Callable[[], Any]) -> Lap:
    """Make a lap of one phase out of a call.

    Example:
        >>> seconds, = clocked(lambda: sum(range(1000)))()
        >>> 0 < seconds < 1
        True
    """

    def once() -> tuple[float, ...]:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start,)

    return once


def same(name: str, part: str, found: Tensor, expected: Tensor, *, base: str, tolerance: float) -> float:
    """Hold what a contender computes against what it should.

    Args:
        name: that of the contender.
        part: what is held.
        found: what it computes.
        expected: what the base computes.
        base: its name.
        tolerance: see Returns.

    Returns:
        The largest difference, in parts of the largest expected value; at most the tolerance.

    Raises:
        ValueError: it is greater, or not a number.
    """
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= tolerance:
        raise ValueError(
            f"{name} computes something else than {base}: its {part} is off by {difference:.2g} of the largest value, "
            f"and rounding explains at most {tolerance:g}"
        )
    return difference


def peak_memory(run: Callable[[], Any], device: torch.device) -> float | None:
    """Measure by how many MB a run exceeds at its peak what lay in memory before, or None where no one tells.

    Args:
        run: what is run, twice: what it keeps for the next time does not count.
        device: where it runs. On a CPU the figure is the process's, as Linux counts it.
    """
    run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # lets the peak begin anew
        before = resident("VmRSS")
        run()
        return (resident("VmHWM") - before) / MEGABYTE
    except (OSError, AttributeError, TypeError):  # neither Linux nor glibc
        return None


def resident(what: str) -> int:
    """Read from Linux how many bytes of memory the process has (``VmRSS``), or had at its peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use a number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write(rows: Sequence[Row], file: Path) -> None:
    """Write rows with the same keys as a CSV, making its folder.

    Args:
        rows: at least one.
        file: the file to write.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def quartiles(row: Row, label: str, digits: str) -> str:
    """Write a median and in brackets its quartiles.

    Example:
        >>> quartiles({"ms": 2.0, "ms_lower": 1.5, "ms_upper": 3.25}, "ms", ".1f")
        '2.0 (1.5, 3.2)'
    """
    middle, lower, upper = (format(row[key], digits) for key in (label, f"{label}_lower", f"{label}_upper"))
    return f"{middle} ({lower}, {upper})"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Write a table in markdown, its first two columns to the left and the others to the right.

    Example:
        >>> print(table(["what", "who", "ms"], [["step", "a", "1.5"]]), end="")
        | what | who | ms |
        | --- | --- | --: |
        | step | a | 1.5 |
    """
    rule = ["---", "---", *["--:"] * (len(head) - 2)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def ratios(panels: Mapping[str, Mapping[str, Sequence[tuple[str, Row]]]], figure: Path, *, label: str) -> bool:
    """Draw ratios with their quartiles, or say in a line why there is no figure.

    Args:
        panels: of each panel and contender the places along the axis, and what stands there.
        figure: the file to write; its ending names the format.
        label: that of the axis.

    Returns:
        Whether there is a figure.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print("no figure: it needs matplotlib (pip install 'wnseq[plots]')")
        return False
    names = list(dict.fromkeys(name for of in panels.values() for name in of))
    with rc_context(STYLE):
        drawing = Figure(figsize=(7.2, 0.8 + 2.4 * len(panels)), layout="constrained")
        grid = drawing.subplots(len(panels), 1, squeeze=False)[:, 0]
        marks: dict[str, Any] = {}
        for axes, (title, of) in zip(grid, panels.items(), strict=True):
            axes.set_title(title, loc="left", fontweight="bold", fontsize=9, color="#222222")
            axes.axhline(1, color="#333333", linewidth=0.8)
            places = list(dict.fromkeys(place for shown in of.values() for place, _ in shown))
            for number, (name, shown) in enumerate(of.items()):
                x = [places.index(place) + 0.7 * ((number + 0.5) / len(of) - 0.5) for place, _ in shown]
                y = [row["ratio"] for _, row in shown]
                error = [
                    [row["ratio"] - row["ratio_lower"] for _, row in shown],
                    [row["ratio_upper"] - row["ratio"] for _, row in shown],
                ]
                color = VARIANT_COLORS[names.index(name) % len(VARIANT_COLORS)]
                marks[name] = axes.errorbar(x, y, error, fmt="o", color=color, markersize=4, linewidth=1)
            axes.set_xticks(range(len(places)), places)
            axes.grid(visible=False, axis="x")
            set_log_scale(axes)
            axes.set_ylabel(label)
        drawing.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=4)
        drawing.savefig(figure)
    return True
