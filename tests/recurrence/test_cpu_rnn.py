"""The Elman layer's loop against torch's, with every gradient, and the rule that chooses between them."""

import pytest
import torch
from cases import SEQUENCE, Case, count_calls, each
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import WNRNN
from wnseq._recurrence import cpu_rnn
from wnseq._recurrence.backend import backend
from wnseq._recurrence.matmul import onednn_supports

pytestmark = pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")
FORMS = [{}, {"nonlinearity": "relu", "bias": False}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}]
CASES = [Case("rnn", *SEQUENCE["rnn"], args=(12, 16), kwargs=form) for form in FORMS]


@pytest.fixture
def calls(monkeypatch):
    """Count the layers and directions that the loop runs."""
    return count_calls(monkeypatch, cpu_rnn.CPURNN, "layer")


def parts(result):
    output, h = result
    return [output if isinstance(output, torch.Tensor) else output.data, h]


@each(CASES)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_it_is_torchs_with_first_and_second_derivatives(case, packed, calls):
    module, x, h = case.make(), case.input(batch=5, steps=7).requires_grad_(), case.states(5).requires_grad_()
    leaves, found = [x, h, *module.parameters()], []
    for choice in ("cpu_loop", "torch"):
        given = pack_padded_sequence(x, [7, 7, 4, 2, 1], case.kwargs.get("batch_first", False)) if packed else x
        with backend(choice):
            results = parts(module(given, h))
        plain = sum(part.sum() for part in results)
        alone = torch.autograd.grad(plain, leaves, retain_graph=True)
        first = torch.autograd.grad(
            sum((k + 1) * part.sin().sum() for k, part in enumerate(results)), leaves, create_graph=True
        )
        second = torch.autograd.grad(sum(part.square().sum() for part in first), leaves)
        found.append([*results, *alone, *first, *second])
    assert len(calls) == case.kwargs.get("num_layers", 1) * (1 + case.kwargs.get("bidirectional", False))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_the_rule(calls):
    def taken(steps, batch, size):
        before = len(calls)
        WNRNN(8, size)(torch.randn(steps, batch, 8))
        return len(calls) > before

    assert taken(cpu_rnn.MIN_STEPS_TRAIN, 64, 128) and not taken(cpu_rnn.MIN_STEPS_TRAIN - 1, 64, 128)
    assert not taken(cpu_rnn.MIN_STEPS_TRAIN, 63, 128)
    with torch.no_grad():
        assert not taken(cpu_rnn.MIN_STEPS_TRAIN, 64, 128)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(cpu_rnn.MIN_STEPS_TRAIN, 64, 128)
