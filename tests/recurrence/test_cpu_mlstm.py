"""The loop of the multiplicative LSTM against its steps, with every gradient, and the rule that chooses."""

import pytest
import torch
from cases import count_calls
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import MLSTM, WNMLSTM
from wnseq._recurrence import cpu_mlstm
from wnseq.nn import backend

FORMS = [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "num_layers": 2}]
each_form = pytest.mark.parametrize("form", FORMS)
bfloat16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        reason="this processor has no bfloat16 products of oneDNN's",
    ),
)


@pytest.fixture
def calls(monkeypatch):
    """Count the layers and directions that the loop runs."""
    return count_calls(monkeypatch, cpu_mlstm.CPUMLSTM, "layer")


def make(form, steps=7, batch=5):
    """Make layers, an input and states, all leaves."""
    module, places = WNMLSTM(12, 16, **form), form.get("num_layers", 1) * (1 + form.get("bidirectional", False))
    shape = (batch, steps, 12) if form.get("batch_first") else (steps, batch, 12)
    states = tuple(torch.randn(places, batch, 16, requires_grad=True) for _ in range(2))
    return module, torch.randn(shape, requires_grad=True), states, places


def run(module, x, states, name, dtype=torch.float32):
    with backend(name), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output, (h, c) = module(x, states)
    return output, h, c


def total(results):
    return sum((k + 1) * part.float().sin().sum() for k, part in enumerate(results))


def far(ours, theirs):
    return max(float((a.detach() - b.detach()).norm() / b.detach().norm()) for a, b in zip(ours, theirs, strict=True))


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, bfloat16])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "states"])
def test_it_is_the_steps_with_every_gradient(form, dtype, given, calls):
    module, x, states, places = make(form)
    states = states if given else None
    leaves = [x, *(states or ()), *module.parameters()]
    exact, theirs = (run(module, x, states, "unrolled", each) for each in (torch.float32, dtype))
    ours = run(module, x, states, "cpu_loop", dtype)
    assert len(calls) == places
    assert [(part.dtype, part.shape) for part in ours] == [(part.dtype, part.shape) for part in theirs]
    gradients = [torch.autograd.grad(total(result), leaves) for result in (exact, ours)]
    assert far(ours, exact) < (1e-6 if dtype == torch.float32 else 0.01)
    assert far(gradients[1], gradients[0]) < (2e-6 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("dtype", [torch.float32, bfloat16])
def test_inference_equals_training(dtype):
    module, x, states, _ = make({"num_layers": 2})
    expected = run(module, x, states, "cpu_loop", dtype)
    with torch.no_grad():
        torch.testing.assert_close(run(module, x, states, "cpu_loop", dtype), expected, rtol=0, atol=0)


def test_a_graph_kept_goes_back_twice():
    module, x, states, _ = make({})
    loss = total(run(module, x, states, "cpu_loop"))
    first = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, list(module.parameters())), first, rtol=0, atol=0)


@each_form
def test_second_derivatives(form):
    module, x, states, _ = make(form)
    leaves, found = [x, *states, *module.parameters()], []
    for name in ("cpu_loop", "unrolled"):
        first = torch.autograd.grad(total(run(module, x, states, name)), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(part.square().sum() for part in first), leaves))
    assert far(*found) < 1e-5


def test_an_input_that_needs_no_gradient_gets_none():
    module, x, _, _ = make({})
    run(module, x.detach(), None, "cpu_loop")[0].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_what_the_loop_does_not_take_runs_step_by_step(calls):
    module, x = MLSTM(3, 4), torch.randn(20, 3, 3)
    module(pack_padded_sequence(x, [20, 9, 1]))
    module(x, None, torch.rand(20, 3) < 0.3)
    module.double()(x.double())
    torch.func.grad(lambda x: MLSTM(3, 4)(x)[0].sum())(x)
    assert not calls


def test_the_rule_takes_many_steps_in_training(calls):
    module = MLSTM(3, 4)
    for steps in (cpu_mlstm.MIN_STEPS - 1, cpu_mlstm.MIN_STEPS):
        assert not calls
        with torch.no_grad():
            module(torch.randn(steps, 2, 3))
        assert not calls
        module(torch.randn(steps, 2, 3))
    assert len(calls) == 1
