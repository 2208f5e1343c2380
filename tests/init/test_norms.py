"""g_from_v_: every weight becomes what its v holds."""

import pytest
import torch
from torch import nn

from wnseq import WNLSTM, WNConv2d, WNConvTranspose1d
from wnseq.init import g_from_v_


def overwritten(module):
    for parameter in module.parameters():
        parameter.data.uniform_(-0.1, 0.1)
    return module


def test_g_from_v_makes_v_the_weight():
    model = nn.Sequential(overwritten(WNConv2d(3, 4, 3)), nn.ReLU(), overwritten(WNConv2d(4, 4, 3)))
    with torch.no_grad():
        model[0].weight_v[1] = 0
    before = [model[k].weight_v.clone() for k in (0, 2)]
    g_from_v_(model)
    model(torch.randn(2, 3, 8, 8))
    for k, v in zip((0, 2), before, strict=True):
        torch.testing.assert_close(model[k].weight.detach().as_subclass(torch.Tensor), v)
    assert model[0].weight_v[1].norm() == 1  # so that the row of zeros can be trained
    with pytest.raises(ValueError, match=r"g_from_v_: Linear has no weight-normalised layer"):
        g_from_v_(nn.Linear(2, 3))


@pytest.mark.parametrize("make", [lambda: WNLSTM(3, 4, proj_size=2), lambda: WNConvTranspose1d(4, 6, 3, groups=2)])
def test_g_of_every_layout_is_the_norm(make):
    module = overwritten(make())
    g_from_v_(module)
    for name in module.weight_names:
        v = module.v_and_g(name)[0].detach()
        torch.testing.assert_close(getattr(module, name).detach().as_subclass(torch.Tensor), v)
