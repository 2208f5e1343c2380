"""Layers chosen by name and class; those of weight_normalize are in test_report."""

import pytest
import torch
from cases import normalized_weights
from torch import nn
from torch.nn.utils import parametrizations

from wnseq import WNGRU, remove_weight_norm, state_dict_as


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("targets", "left"),
    [
        (None, []),
        ("wn", ["torch.0.weight", "torch.1.weight", "last.weight"]),
        (["torch.*", "last"], ["wn.weight_ih_l0", "wn.weight_hh_l0"]),
        (WNGRU, ["torch.0.weight", "torch.1.weight", "last.weight"]),
        (nn.Linear, ["wn.weight_ih_l0", "wn.weight_hh_l0", "torch.0.weight"]),
        ((nn.Conv1d, "wn"), ["torch.1.weight", "last.weight"]),
        ([], ["wn.weight_ih_l0", "wn.weight_hh_l0", "torch.0.weight", "torch.1.weight", "last.weight"]),
    ],
)
def test_some_layers_lose_their_weight_norm(targets, left):
    layers = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(2, 3, 1)), nn.utils.weight_norm(nn.Linear(2, 3)))
    model = nn.ModuleDict({"wn": WNGRU(2, 3), "torch": layers, "last": parametrizations.weight_norm(nn.Linear(3, 2))})
    made = remove_weight_norm(model, targets)
    assert normalized_weights(made) == left
    torch.testing.assert_close(state_dict_as(made, "plain"), state_dict_as(model, "plain"))
    assert remove_weight_norm(model, target_modules=targets) is not model


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        (
            "out",
            ValueError,
            "target_modules='out' matches no weight-normalised layer of the model; there are 'rnn', 'own'",
        ),
        ([3], TypeError, "remove_weight_norm: target_modules takes names and classes, got int"),
        ("own", ValueError, "target_modules='own' cannot be converted: Own is a subclass"),
    ],
)
def test_targets_that_have_no_weight_norm_are_refused(targets, error, text):
    class Own(WNGRU):
        pass

    model = nn.ModuleDict({"rnn": WNGRU(2, 3), "out": nn.Linear(3, 2), "own": Own(2, 3)})
    with pytest.raises(error, match=text):
        remove_weight_norm(model, targets)
    assert normalized_weights(remove_weight_norm(model, "r*")) == ["own.weight_ih_l0", "own.weight_hh_l0"]
