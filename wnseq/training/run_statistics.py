"""Statistics of a few runs: the interquartile mean, and how far another set of runs may be from it."""

import numpy as np
import numpy.typing as npt

__all__ = ["bootstrap_interval", "interquartile_mean"]

Scores = npt.NDArray[np.floating]


def interquartile_mean(scores: npt.ArrayLike) -> float:
    """Return the mean of the middle half of all scores: without the lowest and the highest quarter, rounded down.

    Example:
        >>> interquartile_mean([0.0, 2.0, 3.0, 4.0, 100.0])
        3.0

    Source:
        Agarwal et al. 2021, arXiv 2108.13264, section 4.3.
    """
    return float(_of_each(np.asarray(scores, np.float64).reshape(1, -1))[0])


def bootstrap_interval(
    scores: npt.ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the interquartile mean by the stratified bootstrap.

    For each task as many of its runs are drawn with replacement as it has; the interval is that between the quantiles
    of the interquartile means of all draws.

    Args:
        scores: Scores of the runs.
        level: Share of the draws in the interval.
        draws: Number of draws.
        seed: Seed of the draws.

    Shape:
        - scores: ``(runs, tasks)``, or ``(runs,)`` of one task

    Source:
        Agarwal et al. 2021, arXiv 2108.13264, section 4.1.
    """
    scores = np.asarray(scores, np.float64)
    runs, tasks = scores.reshape(len(scores), -1).shape
    chosen = np.random.default_rng(seed).integers(0, runs, (draws, runs, tasks))
    drawn = np.take_along_axis(scores.reshape(1, runs, tasks), chosen, 1)
    means = _of_each(drawn.reshape(draws, -1))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _of_each(rows: Scores) -> Scores:
    """Return the interquartile mean of each row."""
    cut = rows.shape[1] // 4
    middle: Scores = np.sort(rows, 1)[:, cut : rows.shape[1] - cut].mean(1)
    return middle
