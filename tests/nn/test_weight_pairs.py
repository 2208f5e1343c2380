import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from wnseq import WNGRU, WNConvTranspose1d, WNGRUCell
from wnseq.nn._weight_pairs import directions, find_weight_norm, further_parametrizations, is_torch_hook, qualified_name


def test_our_pairs_come_with_their_layouts():
    layer, rnn = WNConvTranspose1d(4, 6, 2, groups=2), WNGRU(2, 3)
    assert find_weight_norm(layer) == {"weight": (layer.weight_v, layer.weight_g, (1, 2))}
    assert {name: pair.layout for name, pair in find_weight_norm(rnn).items()} == {
        "weight_ih_l0": (0, 1), "weight_hh_l0": (0, 1),
    }  # fmt: skip
    assert find_weight_norm(nn.Sequential(layer)) == {} == find_weight_norm(nn.Linear(2, 2))


def test_torch_s_pairs_are_found_in_both_spellings():
    new = parametrizations.weight_norm(nn.Linear(2, 3))
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(2, 3))
    originals = new.parametrizations.weight
    assert find_weight_norm(new)["weight"][:2] == (originals.original1, originals.original0)
    assert find_weight_norm(old)["weight"][:2] == (old.weight_v, old.weight_g)
    assert [is_torch_hook(hook) for hook in old._forward_pre_hooks.values()] == [True]
    assert all(is_torch_hook(hook) for hook in new._load_state_dict_pre_hooks.values())
    assert not is_torch_hook(print)


def test_a_further_parametrization_is_named():
    module = parametrizations.weight_norm(nn.Linear(2, 2))
    assert further_parametrizations(module) == ""
    parametrize.register_parametrization(module, "bias", nn.Identity())
    assert further_parametrizations(module) == "bias has further parametrisations: remove them first"


def test_a_direction_is_listed_once():
    cell = WNGRUCell(2, 3)
    model = nn.ModuleDict({"a": cell, "b": cell, "c": parametrizations.weight_norm(nn.Linear(2, 2))})
    found = dict(directions(model))
    assert list(found) == ["a.weight_ih_v", "a.weight_hh_v"] and found["a.weight_hh_v"].v is cell.weight_hh_v
    assert qualified_name("", "x") == "x" and qualified_name("a.b", "x") == "a.b.x"
    assert torch.equal(found["a.weight_hh_v"].g, cell.weight_hh_g)
