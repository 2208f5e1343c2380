"""Initialisation without data: which norm keeps its size, and the directions."""

import math

import pytest
import torch
from torch import nn

from wnseq.convert import remove_weight_norm, weight_normalize
from wnseq.init import data_free_init, draw_directions
from wnseq.nn import WNConv2d, WNLinear


def test_a_plain_net_without_data_too() -> None:
    plain = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.LSTM(4, 3, num_layers=2), nn.GRUCell(4, 3))
    normalised = weight_normalize(plain)
    assert data_free_init(plain) == data_free_init(normalised)
    for name, value in remove_weight_norm(normalised).state_dict().items():
        assert torch.equal(plain.state_dict()[name], value), name


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_without_data_fan_in_keeps_the_norm_forward_and_fan_out_that_of_gradients(mode: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(WNLinear(400, 900), nn.ReLU(), WNLinear(900, 400), nn.ReLU(), WNLinear(400, 600), nn.ReLU())
    draw_directions(net)
    done = data_free_init(net, mode=mode)
    assert done.changed == ["0", "2", "4"] and not any(layer.bias.any() for layer in net[::2])
    x = torch.randn(50, 400, requires_grad=True)
    y = net(x)
    if mode == "fan_in":
        torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1), rtol=0.3, atol=0)
    else:
        wish = torch.randn_like(y)
        (slope,) = torch.autograd.grad(y, x, wish)
        torch.testing.assert_close(slope.norm(dim=1), wish.norm(dim=1), rtol=0.3, atol=0)


def test_without_data_g_is_the_papers() -> None:
    net = nn.ModuleDict(
        {
            "first": WNConv2d(3, 6, 3), "a": nn.ModuleList([WNConv2d(6, 6, 3), WNConv2d(6, 12, 3, stride=2)]),
            "b": nn.ModuleList([WNConv2d(6, 6, 3), WNConv2d(12, 12, 3)]), "shortcut": WNConv2d(6, 12, 1),
            "head": WNLinear(12, 5),
        }
    )  # fmt: skip
    data_free_init(net, {"b.*": 1 / 2, "shortcut": 1.0})
    expected = {"first": 2 * 3 / 6, "a.1": 2 * 6 / 12, "b.1": 0.5, "shortcut": 6 / 12, "head": 2 * 12 / 5}
    for name, square in expected.items():
        g = net.get_submodule(name).weight_g
        torch.testing.assert_close(g.square(), torch.full_like(g, square))


def test_without_data_a_frozen_bias_stays_and_is_noted() -> None:
    net = nn.Sequential(WNLinear(3, 4), WNLinear(4, 2))
    nn.init.ones_(net[0].bias.requires_grad_(False))
    nn.init.ones_(net[1].bias)
    assert data_free_init(net).notes == {"0": "its bias is frozen, and stays"}
    assert net[0].bias.tolist() == [1.0] * 4 and net[1].bias.tolist() == [0.0] * 2


def test_without_data_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="data_free_init: mode must be 'fan_in' or 'fan_out', got 'both'"):
        data_free_init(WNLinear(3, 4), mode="both")
    with pytest.raises(ValueError, match="data_free_init: gamma must be a number greater than 0, got 0"):
        data_free_init(WNLinear(3, 4), 0)


def test_directions_are_drawn_and_scales_stay() -> None:
    net = nn.Sequential(WNLinear(200, 300), WNConv2d(30, 40, 3))
    before = [layer.weight_g.detach().clone() for layer in net]
    draw_directions(net)
    for layer, g in zip(net, before, strict=True):
        assert torch.equal(layer.weight_g, g)
        assert abs(float(layer.weight_v.detach().std()) / 0.05 - 1) < 0.02
    with pytest.raises(ValueError, match="draw_directions: std must be a number greater than 0, got inf"):
        draw_directions(net, math.inf)
    with pytest.raises(ValueError, match="draw_directions: std must be a number greater than 0, got 0"):
        draw_directions(net, 0)


def test_directions_drawn_on_purpose_do_not_warn() -> None:
    net = nn.Sequential(WNLinear(3, 4), WNLinear(4, 2))
    draw_directions(net)
    net(torch.ones(2, 3)).sum().backward()  # warnings are errors
