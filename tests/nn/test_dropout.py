import pytest
import torch

from wnseq import LockedDropout


def test_the_mask_is_held_over_time_and_keeps_the_mean():
    y = LockedDropout(0.3)(torch.ones(7, 20, 500))
    assert (y == y[:1]).all()
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs(y.mean() - 1) < 0.03


def test_evaluation_and_zero_leave_the_input_alone():
    x = torch.randn(3, 2, 4)
    assert LockedDropout(0.5).eval()(x) is x
    assert LockedDropout(0.0)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_bad_probability_is_refused(p):
    with pytest.raises(ValueError, match=rf"dropout probability has to be between 0 and 1, got p={p:g}"):
        LockedDropout(p)
