import math

import pytest
import torch
from cases import each, layer_cases
from torch import nn
from torch.nn.utils import parametrizations

from wnseq import WNGRU, WNLSTM, WNConvTranspose1d, WNGRUCell
from wnseq.optim import direction_norms, param_groups, renormalize_


def names(group, model):
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return {by_id[id(parameter)] for parameter in group["params"]}


def test_g_and_plain_matrices_decay_and_nothing_else():
    model = nn.ModuleDict({"rnn": WNLSTM(3, 4), "out": nn.Linear(4, 2)})
    decayed, kept = param_groups(model, 0.1)
    assert names(decayed, model) == {"rnn.weight_ih_l0_g", "rnn.weight_hh_l0_g", "out.weight"}
    assert names(kept, model) == {
        "rnn.weight_ih_l0_v", "rnn.weight_hh_l0_v", "rnn.bias_ih_l0", "rnn.bias_hh_l0", "out.bias",
    }  # fmt: skip
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


def test_g_decays_exactly_as_w_does_in_the_plain_model():
    torch.manual_seed(0)
    plain = nn.LSTM(3, 4)
    ours = WNLSTM(3, 4)
    ours.load_state_dict(plain.state_dict())
    for model in (plain, ours):  # AdamW with a zero gradient only decays
        optimizer = torch.optim.AdamW(param_groups(model, 0.1), lr=0.5)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(getattr(ours, name).detach().as_subclass(torch.Tensor), parameter.detach())


def test_v_may_decay_and_g_may_have_its_own_learning_rate():
    model = nn.ModuleDict({"rnn": WNGRU(3, 4, bias=False), "out": parametrizations.weight_norm(nn.Linear(4, 2))})
    decayed, others, v, g = param_groups(model, 0.1, v_decay=0.2, g_lr=0.3)
    out = "out.parametrizations.weight.original"
    assert decayed["params"] == [] and names(others, model) == {"out.bias"}
    assert names(v, model) == {"rnn.weight_ih_l0_v", "rnn.weight_hh_l0_v", f"{out}1"}
    assert names(g, model) == {"rnn.weight_ih_l0_g", "rnn.weight_hh_l0_g", f"{out}0"}
    assert (v["weight_decay"], g["weight_decay"], g["lr"]) == (0.2, 0.1, 0.3) and "lr" not in v
    rnn = model["rnn"]
    before = direction_norms(rnn), rnn.weight_hh_l0_g.clone()
    optimizer = torch.optim.SGD([decayed, others, v, g], lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(direction_norms(rnn), {name: 0.8 * value for name, value in before[0].items()})
    torch.testing.assert_close(rnn.weight_hh_l0_g.detach(), (1 - 0.1 * 0.3) * before[1].detach())


def test_a_tied_weight_is_listed_once():
    model = nn.ModuleList([nn.Embedding(5, 4), nn.Linear(4, 5)])
    model[1].weight = model[0].weight
    assert sum(len(group["params"]) for group in param_groups(model, 0.1)) == 2


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "0.1", True])
@pytest.mark.parametrize("name", ["weight_decay", "v_decay", "g_lr"])
def test_an_argument_that_is_no_rate_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number and not negative, got {value!r}"):
        param_groups(nn.Linear(2, 3), **{"weight_decay": 0.1, name: value})
    with pytest.raises(ValueError, match="weight_decay must be a finite number and not negative, got None"):
        param_groups(nn.Linear(2, 3), None)


def test_renormalizing_changes_the_directions_lengths_and_no_function():
    cell = WNLSTM(3, 4)
    model = nn.ModuleList([cell, cell, nn.Linear(4, 4)])
    norms = direction_norms(model)
    assert sorted(norms) == ["0.weight_hh_l0_v", "0.weight_ih_l0_v"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for x in torch.randn(5, 7, 2, 3):
        optimizer.zero_grad()
        cell(x)[0].square().mean().backward()
        optimizer.step()
        before = cell(x)[0].detach()
        assert not torch.allclose(direction_norms(model)["0.weight_hh_l0_v"], norms["0.weight_hh_l0_v"])
        v = cell.weight_hh_l0_v
        renormalize_(model, norms)
        assert cell.weight_hh_l0_v is v
        torch.testing.assert_close(cell(x)[0].detach(), before)
        torch.testing.assert_close(direction_norms(model), norms)


def test_a_row_that_was_zero_is_not_renormalized():
    cell = WNGRUCell(3, 4)
    with torch.no_grad():
        cell.weight_hh_v[1] = 0
        norms = direction_norms(cell)
        cell.weight_hh_v.add_(1)
        row, before = cell.weight_hh_v[1].clone(), cell.weight_hh.clone()
    renormalize_(cell, norms)
    torch.testing.assert_close(cell.weight_hh_v[1].detach(), row)
    torch.testing.assert_close(cell.weight_hh.detach().as_subclass(torch.Tensor), before.as_subclass(torch.Tensor))


def test_a_frozen_direction_is_not_renormalized():
    cell = WNGRUCell(3, 4)
    norms = direction_norms(cell)
    with torch.no_grad():
        cell.weight_hh_v.mul_(2).requires_grad_(False)
        cell.weight_ih_v.mul_(2)
    renormalize_(cell, norms)
    torch.testing.assert_close(direction_norms(cell)["weight_hh_v"], 2 * norms["weight_hh_v"])
    torch.testing.assert_close(direction_norms(cell)["weight_ih_v"], norms["weight_ih_v"])


def test_norms_of_another_model_are_refused():
    norms = direction_norms(WNGRUCell(3, 4))
    with pytest.raises(ValueError, match=r"none for \['weight_hh_l0_v', .*and \['weight_hh_v', 'weight_ih_v'\] that"):
        renormalize_(WNGRU(3, 4), norms)


@each(layer_cases())
def test_renormalizing_a_layer_changes_no_function(case):
    module, x = case.make(), case.input()
    norms, expected = direction_norms(module), module(x).detach()
    with torch.no_grad():
        module.weight_v.mul_(3)
    renormalize_(module, norms)
    torch.testing.assert_close(direction_norms(module), norms)
    torch.testing.assert_close(module(x), expected)


def test_renormalizing_along_the_axis_of_the_inputs():
    theirs, ours = parametrizations.weight_norm(nn.ConvTranspose1d(4, 3, 2)), WNConvTranspose1d(4, 3, 2)
    ours.load_state_dict(theirs.state_dict())
    norms = direction_norms(ours)
    assert norms["weight_v"].shape == (4, 1, 1)
    with torch.no_grad():
        ours.weight_v.mul_(torch.tensor([1.0, 2, 3, 4])[:, None, None])
    renormalize_(ours, norms)
    torch.testing.assert_close(ours.weight_v, theirs.parametrizations.weight.original1)
