"""The bfloat16 loop against float32 and against torch's own recurrence, and the rule that chooses between them."""

import pytest
import torch
from cases import SEQUENCE, Case, count_calls, each, tensors
from torch.func import functional_call, grad
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import WNLSTM
from wnseq._recurrence import cpu_lstm
from wnseq._recurrence.backend import backend

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="this processor has no bfloat16 products of oneDNN's",
)

FORMS = [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "num_layers": 2}]
CASES = [Case("lstm", *SEQUENCE["lstm"], args=(12, 16), kwargs=form) for form in FORMS]


@pytest.fixture
def calls(monkeypatch):
    """Count the layers and directions that the loop runs."""
    return count_calls(monkeypatch, cpu_lstm.CPULSTM, "layer")


def run(module, x, state=None, choice="cpu_loop"):
    with backend(choice, "auto"), torch.autocast("cpu", torch.bfloat16):
        return module(x, state)


def total(result):
    return sum((k + 1) * part.float().sin().sum() for k, part in enumerate(tensors(result)))


def far(ours, theirs):
    return max(
        float((a.detach().float() - b.detach().float()).norm() / b.detach().float().norm())
        for a, b in zip(ours, theirs, strict=True)
    )


@each(CASES)
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "states"])
def test_as_close_to_float32_as_bfloat16_is(case, given, calls):
    module, x = case.make(), case.input(batch=5, steps=7).requires_grad_()
    state = tuple(part.requires_grad_() for part in case.states(5)) if given else None
    leaves = [x, *(state or ()), *module.parameters()]
    exact, ours, theirs = module(x, state), run(module, x, state), run(module, x, state, "torch")
    places = case.kwargs.get("num_layers", 1) * (1 + case.kwargs.get("bidirectional", False))
    assert len(calls) == places
    assert [part.dtype for part in tensors(ours)] == [part.dtype for part in tensors(theirs)]
    assert [part.shape for part in tensors(ours)] == [part.shape for part in tensors(theirs)]
    assert all(part.is_contiguous() for part in tensors(ours)[1:])
    assert far(tensors(ours), tensors(exact)) < 0.01
    gradients = [torch.autograd.grad(total(result), leaves) for result in (exact, ours)]
    assert [part.dtype for part in gradients[1]] == [leaf.dtype for leaf in leaves]
    assert far(gradients[1], gradients[0]) < 0.03


def test_inference_equals_training():
    case = CASES[2]
    module, x = case.make(), case.input()
    expected = run(module, x)
    with torch.no_grad():
        torch.testing.assert_close(tensors(run(module, x)), tensors(expected), rtol=0, atol=0)


def test_a_graph_kept_goes_back_twice():
    module, x = CASES[0].make(), CASES[0].input()
    loss = total(run(module, x))
    first = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, list(module.parameters())), first, rtol=0, atol=0)


def second(result, leaves):
    first = torch.autograd.grad(total(result), leaves, create_graph=True)
    return torch.autograd.grad(sum(part.square().sum() for part in first), leaves)


@each(CASES)
def test_second_derivatives(case):
    module, x = case.make(), case.input().requires_grad_()
    leaves = [x, *module.parameters()]
    assert far(second(run(module, x), leaves), second(module(x), leaves)) < 0.05


def other(name):
    projected = name == "projection"
    module = WNLSTM(12, 16, proj_size=3 if projected else 0, dtype=torch.bfloat16 if name == "half weights" else None)
    x = torch.randn(4, 3, 12, dtype=module.weight_ih_l0_v.dtype)
    return module, pack_padded_sequence(x, [4, 2, 1]) if name == "packed" else x


@pytest.mark.parametrize("name", ["packed", "projection", "half weights"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_what_the_loop_does_not_take_is_torchs(name, calls):
    run(*other(name))
    assert not calls


def test_outside_autocast_it_is_torchs(calls):
    module, x = CASES[0].make(), CASES[0].input()
    with backend("cpu_loop"):
        module(x)
    assert not calls


def test_a_gradient_by_torch_func_is_torchs(calls):
    module, x = CASES[0].make(), CASES[0].input()
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    ours = grad(lambda named: total(run(lambda x, _: functional_call(module, named, (x,)), x)))(parameters)
    assert not calls and all(value.isfinite().all() for value in ours.values())


def test_the_rule_takes_large_layers_in_training_only(calls):
    size, wide = cpu_lstm.MIN_HIDDEN, cpu_lstm.MIN_HIDDEN_WIDE
    columns = cpu_lstm.MIN_COLUMNS_WIDE - wide
    with torch.autocast("cpu", torch.bfloat16):
        for features, units in ((8, size - 1), (columns - 1, wide), (columns + 1, wide - 1)):
            WNLSTM(features, units)(torch.randn(2, 1, features))
        assert not calls
        for features, units in ((8, size), (columns, wide)):
            large, x = WNLSTM(features, units), torch.randn(2, 1, features)
            calls.clear()
            with torch.no_grad():
                large(x)
            with backend("torch"):
                large(x)
            assert not calls
            large(x)
            assert len(calls) == 1
