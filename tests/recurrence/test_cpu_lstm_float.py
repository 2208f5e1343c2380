"""The LSTM's loop in float32, forced, against torch's with every gradient; the rule where states are reset often."""

import pytest
import torch
from cases import SEQUENCE, Case, count_calls, each
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import WNLSTM
from wnseq._recurrence import cpu_lstm_float
from wnseq._recurrence.backend import backend
from wnseq._recurrence.matmul import onednn_supports

pytestmark = pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")
FORMS = [{}, {"proj_size": 3, "bias": False}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}]
CASES = [Case("lstm", *SEQUENCE["lstm"], args=(12, 16), kwargs=form) for form in FORMS]


@pytest.fixture
def calls(monkeypatch):
    """Count the layers and directions that the loop runs."""
    return count_calls(monkeypatch, cpu_lstm_float.CPULSTMFloat, "layer")


def parts(result):
    output, states = result
    return [output if isinstance(output, torch.Tensor) else output.data, *states]


@each(CASES)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_it_is_torchs_with_first_and_second_derivatives(case, packed, calls):
    module, x = case.make(), case.input(batch=5, steps=7).requires_grad_()
    states = tuple(state.requires_grad_() for state in case.states(5))
    leaves, found = [x, *states, *module.parameters()], []
    for choice in ("cpu_loop", "torch"):
        given = pack_padded_sequence(x, [7, 7, 4, 2, 1], case.kwargs.get("batch_first", False)) if packed else x
        with backend(choice):
            results = parts(module(given, states))
        plain = sum(part.sum() for part in results)
        alone = torch.autograd.grad(plain, leaves, retain_graph=True)
        first = torch.autograd.grad(
            sum((k + 1) * part.sin().sum() for k, part in enumerate(results)), leaves, create_graph=True
        )
        second = torch.autograd.grad(sum(part.square().sum() for part in first), leaves)
        found.append([*results, *alone, *first, *second])
    assert len(calls) == case.kwargs.get("num_layers", 1) * (1 + case.kwargs.get("bidirectional", False))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_it_runs_where_states_are_reset_often(calls):
    module, x, reset = WNLSTM(8, 16), torch.randn(4, 3, 8), torch.zeros(4, 3, dtype=torch.bool)
    reset[1:, 2] = True
    plain = module(x)[0]
    assert not calls
    torch.testing.assert_close(module(x, reset=reset)[0][:, :2], plain[:, :2])
    assert len(calls) == 1
