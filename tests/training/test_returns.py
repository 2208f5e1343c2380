"""Returns of Q(λ), against the weighted mean of those of all lengths."""

import numpy as np
import pytest
import torch

from wnseq.training.returns import q_lambda_returns


def direct_return(t, n, rewards, values, terminated, resets, discount, trace):
    """The weighted mean of the returns over 1, 2, … steps, in float64: (1 − λ)·Σ λ^(k−1) G^k, the rest on the last."""
    if resets[t, n]:
        return values[t, n]
    won, total = 0.0, 0.0
    for ahead in range(1, len(rewards) - t + 1):
        step = t + ahead - 1
        won += discount ** (ahead - 1) * rewards[step, n]
        is_end = terminated[step, n]
        of_so_many = won + (0.0 if is_end else discount**ahead * values[step + 1, n])
        is_last = is_end or step + 1 == len(rewards) or resets[step + 1, n]
        total += trace ** (ahead - 1) * (1.0 if is_last else 1 - trace) * of_so_many
        if is_last:
            return total


@pytest.mark.parametrize(("discount", "trace"), [(0.99, 0.65), (0.9, 0.0), (0.95, 1.0)])
def test_returns_are_the_weighted_mean_of_those_of_all_lengths(discount, trace):
    draw = np.random.default_rng(0)
    steps, number = 25, 6
    rewards, values = draw.normal(size=(steps, number)), draw.normal(size=(steps + 1, number))
    ends = draw.random((steps, number)) < 0.2
    ends[1:] &= ~ends[:-1]  # the step after an end is a reset
    resets = np.concatenate([np.zeros((1, number), bool), ends[:-1]])
    rewards[resets] = 0
    terminated = ends & (draw.random((steps, number)) < 0.5)
    assert (ends & ~terminated).any() and terminated.any()
    found = q_lambda_returns(*map(torch.from_numpy, (rewards, values, terminated, resets)), discount, trace)
    arguments = (rewards, values, terminated, resets, discount, trace)
    expected = [[direct_return(t, n, *arguments) for n in range(number)] for t in range(steps)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
