"""Paired timing: variants run in turn, round by round, and are compared with the baseline of their own round."""

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, quantiles
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]
TimedCall = Callable[[], tuple[float, ...]]  # runs a variant once; returns the seconds of each of its phases
Times = dict[str, list[Sequence[float]]]  # of each variant, round by round


def check_same(
    name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, baseline: str, tolerance: float
) -> float:
    """Return the largest difference of what a variant computes from what the baseline does.

    A difference is relative to the largest expected value of the same tensor.

    Raises:
        ValueError: A difference is greater than the tolerance, or not a number.
    """
    largest = 0.0
    for part, value in expected.items():
        difference = float((found[part] - value).abs().max() / value.abs().max())
        if not difference <= tolerance:
            raise ValueError(
                f"{name} computes something else than {baseline}: its {part} is off by {difference:.2g} of the largest "
                f"value, and rounding explains at most {tolerance:g}"
            )
        largest = max(largest, difference)
    return largest


def timed(call: Callable[[], Any]) -> TimedCall:
    """Return a function that runs a call and returns its seconds, as one phase."""

    def run() -> tuple[float, ...]:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start,)

    return run


def time_rounds(calls: Mapping[str, TimedCall], *, pairs: int, least: float) -> Times:
    """Run every variant once a round, in a new order each round; return its seconds, round by round.

    Args:
        calls: The variants by name, the baseline first.
        pairs: Rounds.
        least: Seconds. Shorter runs are repeated within a round, as often as the baseline's fits in; their mean counts.
    """
    baseline = next(iter(calls.values()))
    for run in calls.values():
        for _ in range(3):  # the first calls allocate and fill caches
            run()
    repeats = max(1, math.ceil(least / min(baseline()[-1] for _ in range(3))))

    def take(name: str) -> tuple[float, ...]:
        runs = [calls[name]() for _ in range(repeats)]
        return tuple(map(fmean, zip(*runs, strict=True)))

    return take_turns(list(calls), take, pairs)


def take_turns(names: Sequence[str], take: Callable[[str], Sequence[float]], pairs: int) -> Times:
    """Call ``take`` with every name once a round, in a new order each round; return its results by name."""
    times: Times = {name: [] for name in names}
    order, shuffle = list(names), random.Random(0).shuffle
    for _ in range(pairs):
        shuffle(order)
        for name in order:
            times[name].append(take(name))
    return times


def summarise(times: Times, phases: Sequence[str]) -> Iterator[Row]:
    """Yield median and quartiles of each variant's times, and of its ratios to the baseline in the same round.

    The keys of a row are variant, phase, pairs, ms and ratio, the last two also with _lower and _upper. The baseline is
    the first of the variants.
    """
    baseline = next(iter(times.values()))
    for k, phase in enumerate(phases):
        for name, own in times.items():
            ratios = [seconds[k] / base[k] for seconds, base in zip(own, baseline, strict=True)]
            row: Row = {"variant": name, "phase": phase, "pairs": len(own)}
            for label, values in (("ms", [1e3 * seconds[k] for seconds in own]), ("ratio", ratios)):
                lower, middle, upper = quantiles(values, n=4, method="inclusive")
                row |= {label: middle, f"{label}_lower": lower, f"{label}_upper": upper}
            yield row


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set the number of torch's threads within a ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
