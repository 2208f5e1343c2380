import math

import pytest
import torch
from cases import each, layer_cases
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from wnseq import WNGRU, WNLSTM, WNConvTranspose1d, WNGRUCell, WNLinear
from wnseq.convert import slim
from wnseq.optim import direction_norms, param_groups, penalize_units, renormalize_, shrink_units_


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


def composed(model):
    return {
        f"{path}.{name}": getattr(module, name).detach().as_subclass(torch.Tensor).clone()
        for path, module in model.named_children()
        for name in module.weight_names
    }


@pytest.mark.parametrize(("cls", "gates", "candidate"), [(WNLSTM, 4, 2), (WNGRU, 3, 2)])
def test_a_unit_shrinks_with_all_that_belongs_to_it(cls, gates, candidate):
    """Against the proximal step of each layer's units, one layer after the other, as columns lie in the next one's."""
    torch.manual_seed(0)
    model, size, amount = nn.ModuleDict({"rnn": cls(3, 5, 2), "out": WNLinear(5, 4)}).double(), 5, 1.2
    rnn, before = model["rnn"], composed(model)
    with torch.no_grad():
        rnn.weight_hh_l0_g[::2] *= -1
        rnn.weight_ih_l0_g.view(gates, size)[:, 1] = rnn.weight_hh_l0_g.view(gates, size)[:, 1] = 0.01
        rnn.weight_ih_l1_v[:, 1] = rnn.weight_hh_l0_v[:, 1] = 0.01
        before |= composed(model)
    expected = {name: weight.clone() for name, weight in before.items()}
    biases = {name: bias.detach().clone() for name, bias in rnn.named_parameters() if name.startswith("bias")}
    for layer, reader in ((0, "rnn.weight_ih_l1"), (1, "out.weight")):
        own = [f"rnn.weight_ih_l{layer}", f"rnn.weight_hh_l{layer}"]
        b_ih, b_hh = (biases[f"bias_{part}_l{layer}"].view(gates, size)[candidate] for part in ("ih", "hh"))
        square = (b_ih + b_hh) ** 2 if cls is WNLSTM else b_ih**2 + b_hh**2
        square = square + sum(expected[name].view(gates, size, -1).square().sum((0, 2)) for name in own)
        square = square + sum(expected[name].square().sum(0) for name in (reader, own[1]))
        factor = (1 - amount / square.sqrt()).clamp(min=0)
        assert (factor > 0).any() and (layer == 1 or factor[1] == 0)
        for name in own:
            expected[name] *= factor.repeat(gates).unsqueeze(1)
        for name in (own[1], reader):
            expected[name] *= factor
        b_ih *= factor
        b_hh *= factor
    shrink_units_(model, {"rnn": "out"}, amount)
    torch.testing.assert_close(composed(model), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close({name: rnn.get_parameter(name).detach() for name in biases}, biases)
    assert slim(model, {"rnn": "out"})["rnn"].hidden_size == 5  # the other layer needs all of its units
    shrink_units_(model, {"rnn": "out"}, 1e3)
    assert slim(model, {"rnn": "out"})["rnn"].hidden_size == 1


def test_a_tied_reader_keeps_its_columns():
    model = nn.ModuleDict({"embed": nn.Embedding(6, 5), "rnn": WNLSTM(5, 5), "out": nn.Linear(5, 6)})
    model["out"].weight = model["embed"].weight
    before = model["out"].weight.clone()
    shrink_units_(model, {"rnn": "out"}, 1e3)
    assert model["out"].weight.equal(before)
    x, small = model["embed"](torch.arange(6).view(3, 2)), slim(model, {"rnn": "out"})
    assert small["rnn"].hidden_size == 1 and not model["rnn"](x)[0].any()
    model["out"].weight = nn.Parameter(before.clone())
    shrink_units_(model, {"rnn": "out"}, 1e3)
    assert not model["out"].weight.any()


def test_each_step_of_an_optimiser_shrinks_by_its_rate():
    model = nn.ModuleDict({"rnn": WNGRU(3, 5), "out": nn.Linear(5, 4)})
    by_hand = nn.ModuleDict({"rnn": WNGRU(3, 5), "out": nn.Linear(5, 4)})
    by_hand.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    handle = penalize_units(optimizer, model, {"rnn": "out"}, 0.3)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    for amount in (0.15, 0.03):
        shrink_units_(by_hand, {"rnn": "out"}, amount)
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict())
    handle.remove()
    optimizer.step()
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict())


def test_a_penalty_that_cannot_work_is_refused():
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "wn": WNLSTM(3, 4), "out": nn.Linear(4, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with pytest.raises(TypeError, match="penalize_units: 'rnn' must be weight-normalised, got LSTM"):
        penalize_units(optimizer, model, {"rnn": "out"}, 0.1)
    with pytest.raises(ValueError, match="penalize_units: penalty must be a finite number and not negative, got -1"):
        penalize_units(optimizer, model, {"wn": "out"}, -1)
    model["wn"].weight_hh_l0_g = nn.Parameter(torch.ones(16, 1))
    with pytest.raises(ValueError, match=r"shrink_units_: wn\.weight_hh_l0_g must have shape \(16,\), got \(16, 1\)"):
        shrink_units_(model, {"wn": "out"}, 0.1)


def prune_part(module, part):
    prune.random_unstructured(module, part, 1)


def parametrize_part(module, part):
    parametrize.register_parametrization(module, part, nn.Tanh())


@pytest.mark.parametrize("compute", [prune_part, parametrize_part])
def test_the_original_of_a_computed_v_or_g_is_in_its_group(compute):
    for part in ("v", "g"):
        model = nn.Sequential(WNLinear(3, 6))
        compute(model[0], f"weight_{part}")
        decayed, kept, of_v, of_g = param_groups(model, 0.1, v_decay=0.2, g_lr=0.3)
        assert len(of_v["params"]) == len(of_g["params"]) == len(kept["params"]) == 1 and not decayed["params"]
        (found,) = names(of_v if part == "v" else of_g, model)
        assert found.startswith((f"0.weight_{part}_orig", f"0.parametrizations.weight_{part}.original"))


@pytest.mark.parametrize("compute", [prune_part, parametrize_part])
def test_a_computed_direction_is_not_renormalized_in_vain(compute):
    model = nn.Sequential(WNLinear(3, 6))
    norms = direction_norms(model)
    compute(model[0], "weight_v")
    with pytest.raises(RuntimeError, match=r"WNLinear\.weight_v is computed, by pruning or a parametrisation"):
        renormalize_(model, norms)
