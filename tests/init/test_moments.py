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


def test_a_group_of_units_is_measured_by_its_own_size() -> None:
    y = torch.randn(100, 4) * torch.tensor([1e6, 1e6, 1e-3, 0.0])
    assert Moments.of(y, 1).is_constant(y.dtype).tolist() == [False, False, True, True]
    assert Moments.of(y, 1).is_constant(y.dtype, 2).tolist() == [False, False, False, True]


def test_half_types_add_in_float32() -> None:
    y = (10 + torch.randn(1000, 3)).bfloat16()
    assert not Moments.of(y, 1).is_constant(y.dtype).any()
    assert Moments.of(torch.full((10, 3), 7.0).bfloat16(), 1).is_constant(y.dtype).all()


def test_one_sample_without_a_batch() -> None:
    t = Moments.of(torch.tensor([1.0, 2.0]), 0)
    assert t.mean.tolist() == [1.0, 2.0] and t.std.tolist() == [0.0, 0.0]
