"""One step of each cell against the equations, and the rows of its gates."""

import pytest
import reference
import torch

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


@pytest.mark.parametrize("kind", GATES)
def test_the_gates_divide_the_rows_in_their_order(kind):
    rows = [range(100)[gate_slice(kind, gate, 2)] for gate in GATES[kind]]
    assert [row for part in rows for row in part] == list(range(2 * len(GATES[kind])))


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="gate must be one of reset, update, new for this gru, got 'input'"):
        gate_slice("gru", "input", 2)
