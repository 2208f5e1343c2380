import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import wnseq
from wnseq.nn._units import find_units


def units_of(rnn, readers=("out",), out=None):
    features = (getattr(rnn, "proj_size", 0) or rnn.hidden_size) * (1 + rnn.bidirectional)
    model = nn.ModuleDict({"rnn": rnn, "out": out or nn.Linear(features, 3)})
    ((path, every),) = find_units(model, {"rnn": readers}, "slim")
    assert path == "rnn"
    return every


def test_rows_and_columns_of_each_layer_and_direction():
    rnn = wnseq.WNLSTM(5, 4, 2, bidirectional=True)
    first, back, second, _ = units_of(rnn)
    assert first.rows == ["weight_ih_l0", "weight_hh_l0"]
    assert [(name, at) for _, name, at in first.columns] == [
        ("weight_ih_l1", 0), ("weight_ih_l1_reverse", 0), ("weight_hh_l0", 0),
    ]  # fmt: skip
    assert [(name, at) for _, name, at in back.columns] == [
        ("weight_ih_l1", 4), ("weight_ih_l1_reverse", 4), ("weight_hh_l0_reverse", 0),
    ]  # fmt: skip
    assert [(name, at) for _, name, at in second.columns] == [("weight", 0), ("weight_hh_l1", 0)]


@pytest.mark.parametrize("cell", [nn.LSTMCell(4, 3), wnseq.WNGRUCell(4, 3), nn.GRU(4, 3, bidirectional=True)])
def test_a_cell_and_a_recurrent_layer_read_units_too(cell):
    (units,) = units_of(nn.RNN(5, 4), out=cell)
    assert units.columns[0][1].startswith("weight_ih")


def test_the_strength_is_the_lesser_of_speaking_and_being_read():
    rnn = nn.GRU(5, 3)
    (units,) = units_of(rnn)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.fill_(0.0)
        rnn.bias_hh_l0[6:] = torch.tensor([3.0, 4.0, 0.0])
        rnn.weight_ih_l0[6:, 0] = torch.tensor([4.0, 3.0, 0.0])
        units.columns[0][0].weight[0] = torch.tensor([6.0, 1.0, 7.0])
        units.columns[0][0].weight[1:] = 0
    assert units.strength().tolist() == [5.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("readers", "error", "text"),
    [
        ({"lstm": "out"}, ValueError, "slim: the model has no module 'lstm'; there are , rnn, out, conv"),
        ({"out": "out"}, TypeError, "slim: 'out' must be a recurrent layer, and no multiplicative LSTM, got Linear"),
        ({"rnn": "conv"}, TypeError, "slim: 'conv' must be a linear or recurrent layer or a cell to read units"),
        ({"rnn": ()}, ValueError, r"slim: readers\['rnn'\] must name the layers that read its output, got none"),
        ({"rnn": "out"}, ValueError, "slim: 'out' reads 5 features, and 'rnn' gives 4"),
    ],
)
def test_readers_that_are_none_are_refused(readers, error, text):
    model = nn.ModuleDict({"rnn": wnseq.WNGRU(5, 4), "out": nn.Linear(5, 3), "conv": nn.Conv1d(4, 2, 3)})
    with pytest.raises(error, match=text):
        list(find_units(model, readers, "slim"))


@pytest.mark.parametrize(
    "apply", [parametrizations.weight_norm, lambda layer: prune.random_unstructured(layer, "weight", 1)]
)
def test_a_computed_weight_is_refused(apply):
    with pytest.raises(ValueError, match=r"slim: out\.weight is computed, not a parameter; remove its pruning"):
        units_of(nn.RNN(5, 4), out=apply(nn.Linear(4, 3)))
