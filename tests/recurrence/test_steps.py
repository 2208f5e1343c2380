"""One step of each cell against the equations, and the rows of its gates."""

import functools

import pytest
import reference
import torch
import torch.nn.functional as F
from torch.func import vmap

from wnseq._recurrence import steps
from wnseq._recurrence.steps import GATES, gate_slice, gru_step, lstm_step, rnn_step

CELLS = {"tanh": "rnn_tanh_cell", "relu": "rnn_relu_cell", "lstm": "lstm_cell", "gru": "gru_cell"}


def step(kind, x, states, *weights, **options):
    if kind == "lstm":
        return lstm_step(x, states, *weights, **options)
    by_kind = {"gru": gru_step, "tanh": rnn_step, "relu": functools.partial(rnn_step, nonlinearity="relu")}
    return (by_kind[kind](x, states[0], *weights, **options),)


@pytest.mark.parametrize("kind", CELLS)
def test_a_step_is_that_of_the_equations(kind):
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    x, h, c = (torch.randn(size, dtype=torch.float64) for size in (5, 6, 6))
    weights = [torch.randn(gates * 6, *size, dtype=torch.float64) for size in ((5,), (6,), (), ())]
    states = (h, c) if kind == "lstm" else (h,)
    if kind in reference.STEPS:
        expected = reference.STEPS[kind](x, states, *weights, None)
    else:
        expected = reference.rnn_step(x, states, *weights, None, kind)
    found = step(kind, x, states, *weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def by_hand(kind, x, states, w_ih, w_hh, b_ih=None, b_hh=None):
    by_x, by_h = F.linear(x, w_ih, b_ih), F.linear(states[0], w_hh, b_hh)
    if kind == "lstm":
        i, f, g, o = (by_x + by_h).chunk(4, -1)
        c = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if kind == "gru":
        (r_x, z_x, n_x), (r_h, z_h, n_h) = by_x.chunk(3, -1), by_h.chunk(3, -1)
        n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
        return (n + (z_x + z_h).sigmoid() * (states[0] - n),)
    return (getattr(torch, kind)(by_x + by_h),)


def draw(kind, batch=3, biases=2, dtype=torch.float32):
    rows = 6 * {"lstm": 4, "gru": 3}.get(kind, 1)
    x, *states = (torch.randn(batch, size).to(dtype) for size in ((5, 6, 6) if kind == "lstm" else (5, 6)))
    sizes = ((5,), (6,), (), ())[: 2 + biases]
    return x, tuple(states), [torch.randn(rows, *size).to(dtype).requires_grad_() for size in sizes]


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("biases", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "autocast", "a wide cell state"], ids=str)
def test_torchs_cell_computes_the_same_numbers(kind, biases, dtype, monkeypatch):
    calls, cell = [], getattr(torch, CELLS[kind])
    monkeypatch.setattr(torch, CELLS[kind], lambda *args: calls.append(args) or cell(*args))
    lower = torch.float32 if dtype in (torch.float32, "autocast") else torch.bfloat16
    x, states, weights = draw(kind, biases=biases, dtype=lower)
    if dtype == "a wide cell state":
        states = states[:1] + tuple(c.float() for c in states[1:])
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        found, expected = step(kind, x, states, *weights), by_hand(kind, x, states, *weights)
    assert len(calls) == 1
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradients = [torch.autograd.grad(sum(part.float().sum() for part in parts), weights) for parts in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("kind", CELLS)
def test_torchs_cell_is_left_out_where_it_cannot_run(kind, monkeypatch):
    """A row without a batch, a state of one row for many, a transform, dropout in the step, a product of oneDNN's."""
    x, states, weights = draw(kind)
    one = tuple(state[:1] for state in states)
    monkeypatch.setattr(torch, CELLS[kind], None)
    for x_t, before in ((x[0], tuple(state[0] for state in states)), (x, one)):
        torch.testing.assert_close(step(kind, x_t, before, *weights), by_hand(kind, x_t, before, *weights))
    found = vmap(lambda row: step(kind, row[None], one, *weights)[0][0])(x)
    torch.testing.assert_close(found, by_hand(kind, x, one, *weights)[0])
    if kind in ("lstm", "gru"):
        assert step(kind, x, states, *weights, recurrent_dropout=0.5)[0].shape == states[0].shape
    for bound in ((True, False), (False, True)):
        answers = iter(bound)
        monkeypatch.setattr(steps, "is_memory_bound", lambda *_, answers=answers: next(answers))
        torch.testing.assert_close(step(kind, x, states, *weights), by_hand(kind, x, states, *weights))


def test_torchs_cell_is_left_out_with_a_projection(monkeypatch):
    x, (h, c), weights = draw("lstm", biases=0)
    monkeypatch.setattr(torch, "lstm_cell", None)
    narrow = x, (h[:, :4], c), weights[0], weights[1][:, :4]
    torch.testing.assert_close(lstm_step(*narrow), by_hand("lstm", *narrow))


@pytest.mark.parametrize("kind", GATES)
def test_the_gates_divide_the_rows_in_their_order(kind):
    rows = [range(100)[gate_slice(kind, gate, 2)] for gate in GATES[kind]]
    assert [row for part in rows for row in part] == list(range(2 * len(GATES[kind])))


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="gate must be one of reset, update, new for this gru, got 'input'"):
        gate_slice("gru", "input", 2)
