"""One step of each cell against the equations, and the rows of its gates."""

import pytest
import reference
import torch
import torch.nn.functional as F
from torch.func import vmap

from wnseq._recurrence import steps
from wnseq._recurrence.steps import GATES, gate_slice, gru_step, lstm_step, rnn_step


@pytest.mark.parametrize("kind", ["tanh", "relu", "lstm", "gru"])
def test_a_step_is_that_of_the_equations(kind):
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    x, h, c = (torch.randn(size, dtype=torch.float64) for size in (5, 6, 6))
    weights = [torch.randn(gates * 6, *size, dtype=torch.float64) for size in ((5,), (6,), (), ())]
    if kind == "lstm":
        found, expected = lstm_step(x, (h, c), *weights), reference.lstm_step(x, (h, c), *weights, None)
    elif kind == "gru":
        found, expected = (gru_step(x, h, *weights),), reference.gru_step(x, (h,), *weights, None)
    else:
        found, expected = (rnn_step(x, h, *weights, kind),), reference.rnn_step(x, (h,), *weights, None, kind)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def by_hand(x, state, w_ih, w_hh, b_ih=None, b_hh=None):
    i, f, g, o = (F.linear(x, w_ih, b_ih) + F.linear(state[0], w_hh, b_hh)).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@pytest.mark.parametrize("biases", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "autocast", "mixed"], ids=str)
def test_torchs_cell_computes_the_same_numbers(biases, dtype, monkeypatch):
    calls, cell = [], torch.lstm_cell
    monkeypatch.setattr(torch, "lstm_cell", lambda *args: calls.append(args) or cell(*args))
    lower = torch.bfloat16 if dtype in ("mixed", torch.bfloat16) else torch.float32
    x, h, c = torch.randn(3, 5).to(lower), *(torch.randn(3, 6).to(lower) for _ in range(2))
    weights = [torch.randn(24, *size).to(lower).requires_grad_() for size in ((5,), (6,), (), ())[: 2 + biases]]
    c = c.float() if dtype == "mixed" else c
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        found, expected = lstm_step(x, (h, c), *weights), by_hand(x, (h, c), *weights)
    assert len(calls) == 1
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradients = [torch.autograd.grad(sum(part.float().sum() for part in parts), weights) for parts in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_torchs_cell_is_left_out_where_it_cannot_run(monkeypatch):
    """A row without a batch, one state for many, a projection, a transform, dropout in the step, oneDNN's product."""
    x, h = torch.randn(3, 5), torch.randn(3, 6)
    weights = [torch.randn(24, 5), torch.randn(24, 6)]
    monkeypatch.setattr(torch, "lstm_cell", None)
    torch.testing.assert_close(lstm_step(x[0], (h[0], h[1]), *weights), by_hand(x[0], (h[0], h[1]), *weights))
    torch.testing.assert_close(lstm_step(x, (h[0], h[:1]), *weights), by_hand(x, (h[0], h[:1]), *weights))
    torch.testing.assert_close(
        lstm_step(x, (h[:, :4], h), weights[0], weights[1][:, :4]),
        by_hand(x, (h[:, :4], h), weights[0], weights[1][:, :4]),
    )
    found = vmap(lambda row: lstm_step(row[None], (h[:1], h[1:2]), *weights)[0][0])(x)
    torch.testing.assert_close(found, by_hand(x, (h[:1], h[1:2]), *weights)[0])
    assert lstm_step(x, (h, h), *weights, recurrent_dropout=0.5)[0].shape == h.shape
    for bound in ((True, False), (False, True)):
        answers = iter(bound)
        monkeypatch.setattr(steps, "is_memory_bound", lambda *_, answers=answers: next(answers))
        torch.testing.assert_close(lstm_step(x, (h, h), *weights), by_hand(x, (h, h), *weights))


@pytest.mark.parametrize("kind", GATES)
def test_the_gates_divide_the_rows_in_their_order(kind):
    rows = [range(100)[gate_slice(kind, gate, 2)] for gate in GATES[kind]]
    assert [row for part in rows for row in part] == list(range(2 * len(GATES[kind])))


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="gate must be one of reset, update, new for this gru, got 'input'"):
        gate_slice("gru", "input", 2)
