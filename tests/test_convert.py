import pytest
import torch
from torch import nn

from wnseq import WNLSTM
from wnseq.convert import param_groups


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


def test_a_tied_weight_is_listed_once():
    model = nn.ModuleList([nn.Embedding(5, 4), nn.Linear(4, 5)])
    model[1].weight = model[0].weight
    assert sum(len(group["params"]) for group in param_groups(model, 0.1)) == 2


def test_a_negative_decay_is_refused():
    with pytest.raises(ValueError, match="weight_decay must not be negative, got -1"):
        param_groups(nn.Linear(1, 1), -1)
