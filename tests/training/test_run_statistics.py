"""The statistics of runs against their definition, computed one by one."""

import random
from statistics import fmean

import numpy as np
import pytest

from wnseq.training.run_statistics import bootstrap_interval, interquartile_mean


@pytest.mark.parametrize(("number", "cut"), [(3, 0), (4, 1), (5, 1), (8, 2), (11, 2)])
def test_the_middle_half_is_averaged(number: int, cut: int) -> None:
    values = [2.0**k for k in range(number)]
    random.Random(0).shuffle(values)
    assert interquartile_mean(values) == pytest.approx(fmean(sorted(values)[cut : number - cut]), rel=1e-14)


def test_runs_are_drawn_within_their_task() -> None:
    scores = np.random.default_rng(1).normal([0, 100, 1000], size=(5, 3))
    draw = np.random.default_rng(7).integers(0, 5, (300, 5, 3))
    means = []
    for chosen in draw:
        drawn = sorted(float(scores[chosen[run, task], task]) for run in range(5) for task in range(3))
        means.append(fmean(drawn[3:12]))
    expected = np.quantile(means, [0.05, 0.95])
    found = bootstrap_interval(scores, level=0.9, draws=300, seed=7)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert max(means) < 500  # no task is drawn more often than it has runs


def test_one_task_needs_no_second_axis_and_equal_runs_have_no_spread() -> None:
    scores = [3.0, 1.0, 2.0, 8.0]
    assert bootstrap_interval(scores) == bootstrap_interval(np.array(scores)[:, None])
    low, high = bootstrap_interval(scores)
    assert 1 <= low < interquartile_mean(scores) < high <= 8
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
