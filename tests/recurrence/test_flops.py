"""``FlopCounterMode`` counts the products of every back end: as many as torch's modules have, step by step."""

from functools import partial

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

import wnseq
from wnseq._recurrence import dispatch
from wnseq._recurrence.custom_ops import CUSTOM_OPS
from wnseq.nn import backend

T, N, INPUT, H = 5, 3, 4, 6
MODULES = {"WNRNN": 1, "WNGRU": 3, "WNLSTM": 4, "GRU": 3, "LSTM": 4}  # gates


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture
def run_operators(monkeypatch):
    """Run the operators of captured graphs: torch.compile itself does not run inside the counter."""
    return lambda: monkeypatch.setattr(dispatch, "select_backend", lambda call: CUSTOM_OPS)


@pytest.mark.parametrize("how", ["auto", "cpu_loop", "torch", "autocast", "operators"])
@pytest.mark.parametrize("rows", [T * N, 8], ids=["padded", "packed"])
@pytest.mark.parametrize("name", MODULES)
def test_forward_and_backward(name, rows, how, run_operators):
    if how == "operators":
        run_operators()
    rnn = getattr(wnseq, name)(INPUT, H)
    x, h = torch.randn(T, N, INPUT, requires_grad=True), torch.randn(1, N, H, requires_grad=True)
    states = (h, h.detach().clone().requires_grad_()) if "LSTM" in name else h
    if rows < T * N:
        x = PackedSequence(torch.randn(rows, INPUT, requires_grad=True), torch.tensor([3, 2, 1, 1, 1]))
    products = 2 * rows * MODULES[name] * H * (INPUT + H)
    forced = how if how in ("cpu_loop", "torch") else "auto"
    with backend(forced), torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        with torch.no_grad():
            assert counted(lambda: rnn(x, states)) == products
        outputs = []
        assert counted(lambda: outputs.append(rnn(x, states)[0])) == products
    total = (outputs[0] if rows == T * N else outputs[0].data).float().sum()
    again = products if how == "operators" and "LSTM" in name and rows == T * N else 0  # oneDNN's keeps nothing
    assert counted(total.backward) == 2 * products + again


def test_a_projection_is_counted(run_operators):
    rnn, x = wnseq.WNLSTM(INPUT, H, proj_size=2), torch.randn(T, N, INPUT)
    products = 2 * T * N * (4 * H * (INPUT + 2) + 2 * H)
    assert counted(lambda: rnn(x)) == products
    run_operators()
    assert counted(lambda: rnn(x)) == products


def test_a_single_step_is_counted():
    with torch.no_grad():
        for name, gates in MODULES.items():
            rnn, x = getattr(wnseq, name)(INPUT, 600), torch.randn(1, 1, INPUT)
            assert counted(partial(rnn, x)) == 2 * gates * 600 * (INPUT + 600)


@pytest.mark.parametrize("how", ["cpu_loop", "unrolled"])
def test_a_multiplicative_lstm_is_counted(how):
    rnn, states = wnseq.WNMLSTM(INPUT, H), tuple(torch.randn(1, N, H, requires_grad=True) for _ in range(2))
    x, products, outputs = torch.randn(T, N, INPUT, requires_grad=True), 2 * T * N * 5 * H * (INPUT + H), []
    with backend(how):
        assert counted(lambda: outputs.append(rnn(x, states)[0])) == products
    assert counted(outputs[0].sum().backward) == 2 * products
