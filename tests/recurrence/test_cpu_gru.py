"""The GRU's loop against torch's, in float32 and under bfloat16 autocast, and the rule that chooses between them."""

import pytest
import torch
from cases import SEQUENCE, Case, count_calls, each, tensors
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import WNGRU
from wnseq._recurrence import cpu_gru
from wnseq._recurrence.backend import backend
from wnseq._recurrence.matmul import onednn_supports

pytestmark = pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")
needs_bfloat16 = pytest.mark.skipif(
    not onednn_supports(torch.zeros(1, dtype=torch.bfloat16)),
    reason="this processor has no bfloat16 products of oneDNN's",
)
FORMS = [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "num_layers": 2}]
CASES = [Case("gru", *SEQUENCE["gru"], args=(12, 16), kwargs=form) for form in FORMS]
each_input = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
LENGTHS = [7, 7, 4, 2, 1]


@pytest.fixture
def calls(monkeypatch):
    """Count the layers and directions that the loop runs."""
    return count_calls(monkeypatch, cpu_gru.CPUGRU, "layer")


def run(module, x, h=None, choice="cpu_loop", autocast=False):
    with backend(choice), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return module(x, h)


def total(result):
    return sum((k + 1) * part.float().sin().sum() for k, part in enumerate(parts(result)))


def parts(result):
    output, h = result
    return [output if isinstance(output, torch.Tensor) else output.data, h]


def problem(case, packed):
    """Make a module, leaves to differentiate by, and a call of the module on them."""
    module, x = case.make(), case.input(batch=5, steps=7).requires_grad_()
    h = case.states(5).requires_grad_()
    batch_first = case.kwargs.get("batch_first", False)

    def call(**how):
        given = pack_padded_sequence(x, LENGTHS, batch_first) if packed else x
        return run(module, given, h, **how)

    return call, [x, h, *module.parameters()]


def far(ours, theirs):
    return max(
        float((a.detach().float() - b.detach().float()).norm() / b.detach().float().norm())
        for a, b in zip(ours, theirs, strict=True)
    )


@each(CASES)
@each_input
def test_it_is_torchs_in_float32(case, packed, calls):
    call, leaves = problem(case, packed)
    theirs, ours = call(choice="torch"), call()
    assert len(calls) == case.kwargs.get("num_layers", 1) * (1 + case.kwargs.get("bidirectional", False))
    torch.testing.assert_close(parts(ours), parts(theirs))
    gradients = [torch.autograd.grad(total(result), leaves) for result in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@needs_bfloat16
@each(CASES)
@each_input
def test_as_close_to_float32_as_bfloat16_is(case, packed, calls):
    call, leaves = problem(case, packed)
    exact, ours, theirs = call(choice="torch"), call(autocast=True), call(choice="torch", autocast=True)
    assert calls
    assert [part.dtype for part in parts(ours)] == [part.dtype for part in parts(theirs)]
    assert far(parts(ours), parts(exact)) < 0.01
    gradients = [torch.autograd.grad(total(result), leaves) for result in (ours, exact)]
    assert [part.dtype for part in gradients[0]] == [leaf.dtype for leaf in leaves]
    assert far(*gradients) < 0.03


@needs_bfloat16
def test_half_states_come_back_as_half():
    module, x = CASES[0].make(), CASES[0].input().bfloat16()
    ours, theirs = (run(module, x, choice=choice, autocast=True) for choice in ("cpu_loop", "torch"))
    assert [part.dtype for part in parts(ours)] == [part.dtype for part in parts(theirs)] == [torch.bfloat16] * 2


def test_inference_equals_training():
    module, x = CASES[2].make(), CASES[2].input()
    expected = run(module, x)
    with torch.no_grad():
        torch.testing.assert_close(tensors(run(module, x)), tensors(expected), rtol=0, atol=0)


def test_a_graph_kept_goes_back_twice():
    call, leaves = problem(CASES[0], packed=False)
    loss = total(call())
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), first, rtol=0, atol=0)


def test_a_backward_inside_autocast_is_float32_after_a_forward_outside():
    call, leaves = problem(Case("gru", *SEQUENCE["gru"], args=(12, 16)), packed=False)
    expected = torch.autograd.grad(total(call()), leaves)
    loss = total(call())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(torch.autograd.grad(loss, leaves), expected, rtol=1e-5, atol=1e-6)


def second(result, leaves):
    first = torch.autograd.grad(total(result), leaves, create_graph=True)
    return torch.autograd.grad(sum(part.square().sum() for part in first), leaves)


@each(CASES)
@each_input
def test_second_derivatives(case, packed):
    call, leaves = problem(case, packed)
    assert far(second(call(), leaves), second(call(choice="torch"), leaves)) < 1e-4


def test_an_expanded_gradient_is_left_as_it_is():
    call, leaves = problem(CASES[0], packed=False)
    output, _ = call()
    d = torch.ones(1).expand_as(output)
    torch.testing.assert_close(
        torch.autograd.grad(output, leaves, d, retain_graph=True), torch.autograd.grad(output.sum(), leaves)
    )
    assert d.unique().item() == 1


def test_the_rule(calls):
    def taken(steps, batch, size, autocast=False):
        before = len(calls)
        run(WNGRU(8, size), torch.randn(steps, batch, 8), choice="auto", autocast=autocast)
        return len(calls) > before

    assert taken(cpu_gru.MIN_STEPS_TRAIN, 2, 128) and not taken(cpu_gru.MIN_STEPS_TRAIN - 1, 2, 128)
    assert not taken(cpu_gru.MIN_STEPS_TRAIN, 1, 128)
    assert taken(cpu_gru.MIN_STEPS, 4, 512) and not taken(cpu_gru.MIN_STEPS - 1, 4, 512)
    with torch.no_grad():
        assert taken(cpu_gru.MIN_STEPS, 4, 512) and not taken(cpu_gru.MIN_STEPS_TRAIN, 2, 128)


@needs_bfloat16
def test_the_rule_under_autocast(calls):
    for steps, size in ((cpu_gru.MIN_STEPS_TRAIN, 128), (cpu_gru.MIN_STEPS, 512)):
        run(WNGRU(8, size), torch.randn(steps, 4, 8), choice="auto", autocast=True)
    assert len(calls) == 1
    with torch.no_grad():
        run(WNGRU(8, 512), torch.randn(32, 4, 8), choice="auto", autocast=True)
    assert len(calls) == 1
