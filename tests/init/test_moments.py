"""Moments of units: those of the whole, from its parts."""

import torch

from wnseq.init._moments import Moments


def test_they_are_those_of_each_unit_over_all_other_axes() -> None:
    y = torch.randn(5, 3, 7) * 2 + 1
    t = Moments.of(y, 1)
    torch.testing.assert_close(t.mean, y.double().mean((0, 2)))
    torch.testing.assert_close(t.std, y.double().std((0, 2), correction=0))
    assert t.samples == 35 and t.mean.dtype == torch.float64
    assert abs(t.root_mean_square - float(y.double().square().mean().sqrt())) < 1e-12


def test_a_union_is_the_whole() -> None:
    y = torch.randn(20, 3) * 2 + 1
    whole, union = Moments.of(y, 1), Moments.union([Moments.of(part, 1) for part in (y[:2], y[2:2], y[2:])])
    assert union.samples == 20
    torch.testing.assert_close(union.mean, whole.mean)
    torch.testing.assert_close(union.square, whole.square)


def test_a_constant_is_told_from_what_varies_little() -> None:
    y = torch.ones(100, 3)
    y[::2, 1] += 1e-4
    y[::2, 2] += 1e-7
    assert Moments.of(y, 1).is_constant(y.dtype).tolist() == [True, False, True]
