"""torch.fx.symbolic_trace takes wnseq's modules where it takes torch's, and records them alike."""

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace

import wnseq

SEQUENCE, STEP = (5, 2, 3), (2, 3)
MODULES = [
    (nn.Linear, wnseq.WNLinear, (3, 4), STEP),
    (nn.Conv1d, wnseq.WNConv1d, (3, 4, 2), (2, 3, 5)),
    (nn.Conv2d, wnseq.WNConv2d, (3, 4, 2), (2, 3, 5, 5)),
    (nn.ConvTranspose1d, wnseq.WNConvTranspose1d, (3, 4, 2), (2, 3, 5)),
    (nn.ConvTranspose2d, wnseq.WNConvTranspose2d, (3, 4, 2), (2, 3, 5, 5)),
    (nn.LSTM, wnseq.WNLSTM, (3, 4), SEQUENCE),
    (nn.GRU, wnseq.WNGRU, (3, 4), SEQUENCE),
    (nn.RNN, wnseq.WNRNN, (3, 4), SEQUENCE),
    (nn.LSTMCell, wnseq.WNLSTMCell, (3, 4), STEP),
    (nn.GRUCell, wnseq.WNGRUCell, (3, 4), STEP),
    (nn.RNNCell, wnseq.WNRNNCell, (3, 4), STEP),
    (nn.LSTM, wnseq.LSTM, (3, 4), SEQUENCE),
    (nn.GRU, wnseq.GRU, (3, 4), SEQUENCE),
    (nn.BatchNorm1d, wnseq.MeanOnlyBatchNorm1d, (3,), STEP),
    (nn.BatchNorm2d, wnseq.MeanOnlyBatchNorm2d, (3,), (2, 3, 5, 5)),
]


@pytest.mark.parametrize(("plain", "ours", "args", "shape"), MODULES)
def test_a_part_of_a_model_is_one_node(plain, ours, args, shape):
    model, x = nn.Sequential(ours(*args)), torch.randn(shape)
    traced = symbolic_trace(model)
    targets = [[node.target for node in symbolic_trace(nn.Sequential(cls(*args))).graph.nodes] for cls in (plain, ours)]
    assert targets[0] == targets[1]
    torch.testing.assert_close(traced(x), model(x))
    assert traced.get_submodule("0") is model[0]  # with v and g to train


@pytest.mark.parametrize(("plain", "ours", "args", "shape"), MODULES)
def test_a_layer_by_itself_is_traced_where_torch_s_is(plain, ours, args, shape):
    try:
        symbolic_trace(plain(*args))
    except torch.fx.proxy.TraceError:
        with pytest.raises(TypeError, match=rf"forward of {ours.__name__} looks at its input.*nn.Sequential\(module\)"):
            symbolic_trace(ours(*args))
        return
    layer, x = ours(*args), torch.randn(shape)
    traced = symbolic_trace(layer)
    torch.testing.assert_close(traced(x), layer(x))
    traced(x).sum().backward()
    assert layer.weight_g.grad.norm() > 0 and layer.weight_v.grad.norm() > 0


def test_a_state_is_passed_on():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = wnseq.WNLSTMCell(3, 4)
            self.rnn = wnseq.WNGRU(4, 5)

        def forward(self, x, h, c):
            h, c = self.cell(x, (h, c))
            return self.rnn(h.unsqueeze(0), None)[0] + 0 * c.sum()

    model, inputs = Model(), (torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4))
    traced = symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["cell", "rnn"]
    torch.testing.assert_close(traced(*inputs), model(*inputs))
