import pytest
import torch
from torch import nn

import wnseq
from wnseq.init import memory_bias_

ROWS = {"lstm": slice(4, 8), "gru": slice(4, 8), "mingru": slice(0, 4), "minlstm": slice(4, 8), "mlstm": slice(4, 8)}
MODULES = [
    *((wnseq.nn.RECURRENT_LAYERS[kind, norm], kind) for kind in ROWS for norm in ("weight", "none")),
    (wnseq.WNLSTMCell, "lstm"), (wnseq.WNGRUCell, "gru"), (nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.LSTMCell, "lstm"),
    (nn.GRUCell, "gru"), (wnseq.WNMinGRUCell, "mingru"), (wnseq.MLSTMCell, "mlstm"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "kind"), MODULES)
def test_the_gate_that_keeps_the_state_starts_open(cls, kind):
    model = nn.ModuleList([cls(3, 4), nn.Linear(2, 2), wnseq.WNRNN(3, 4)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    memory_bias_(model, 2.0)
    for name, value in model.state_dict().items():
        kept = torch.ones(len(value), dtype=torch.bool)
        if name.startswith("0.bias"):
            kept[ROWS[kind]] = False
            start = 0.0 if "_hh" in name else -2.0 if kind == "mingru" else 2.0
            assert (value[~kept] == start).all(), name
        assert torch.equal(value[kept], before[name][kept]), name


@pytest.mark.parametrize("model", [wnseq.WNRNN(3, 4), nn.LSTM(3, 4, bias=False), nn.Linear(2, 2)], ids=str)
def test_a_model_without_such_a_bias_is_refused(model):
    with pytest.raises(ValueError, match=rf"memory_bias_: {type(model).__name__} has no recurrent layer or cell with"):
        memory_bias_(model)
    with pytest.raises(ValueError, match="memory_bias_: value must be a finite number, got nan"):
        memory_bias_(nn.LSTM(3, 4), float("nan"))


@pytest.mark.parametrize("name", ["kind", "mode"])
@pytest.mark.parametrize("value", ["lstm", "LSTM", ["a"]])
def test_an_attribute_of_another_module_says_nothing(name, value):
    model = nn.Module()
    model.rnn = nn.LSTM(2, 3)
    setattr(model, name, value)
    memory_bias_(model)
    assert (model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0)[3:6].tolist() == [1.0] * 3


def test_a_subclass_of_a_cell_is_a_cell():
    class Cell(nn.LSTMCell):
        pass

    memory_bias_(cell := Cell(2, 3), 2.0)
    assert (cell.bias_ih + cell.bias_hh)[3:6].tolist() == [2.0] * 3
