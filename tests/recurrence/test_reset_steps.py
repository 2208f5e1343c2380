"""Resets by steps that empty the state: as exact as the loop, over borders of every kind, and the rule for them."""

import pytest
import torch
from cases import count_calls, tensors

from wnseq import LSTM, WNLSTM
from wnseq._recurrence import cpu_lstm, cpu_lstm_float, reset_steps
from wnseq._recurrence.backend import backend
from wnseq._recurrence.matmul import onednn_supports

pytestmark = pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")
HAS_BF16 = onednn_supports(torch.zeros(1, dtype=torch.bfloat16))


@pytest.fixture
def calls(monkeypatch):
    """Count the layers and directions that run so."""
    return count_calls(monkeypatch, reset_steps.ResetSteps, "layer")


def problem(features=5, steps=40, batch=4, **form):
    module = WNLSTM(features, 6, num_layers=2, bidirectional=True, **form)
    shape = (batch, steps, features) if module.batch_first else (steps, batch, features)
    x = torch.randn(shape, dtype=form.get("dtype"))
    reset = torch.zeros(steps, batch, dtype=torch.bool)
    for t, n in [(0, 0), (0, 1), (1, 1), (2, 1), (39, 1), (39, 2), (7, 2)]:
        reset[t, n] = True  # at both ends and next to each other; none in the last sequence
    return module, x.requires_grad_(), reset.T if module.batch_first else reset


def results(module, x, reset, choice, states=None):
    """Return output, states, and first and second derivatives."""
    leaves = [x, *module.parameters(), *(states or ())]
    with backend(choice):
        found = tensors(module(x, states, reset=reset))
    first = torch.autograd.grad(sum((k + 1) * p.sin().sum() for k, p in enumerate(found)), leaves, create_graph=True)
    return [*found, *first, *torch.autograd.grad(sum(part.square().sum() for part in first), leaves)]


@pytest.mark.parametrize("form", [{}, {"bias": False, "batch_first": True}], ids=["biases", "batch first"])
def test_equals_the_loop_with_first_and_second_derivatives(form, calls, monkeypatch):
    """In float64, for which torch has another kernel, so that the steps of our own are seen alone."""
    monkeypatch.setitem(reset_steps.MAX_GROWTH, torch.float64, 2.0)
    module, x, reset = problem(dtype=torch.float64, **form)
    states = tuple(torch.randn(4, 4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = results(module, x, reset, "auto", states)
    assert len(calls) == 4
    torch.testing.assert_close(found, results(module, x, reset, "cpu_loop", states), rtol=1e-10, atol=1e-10)
    assert len(calls) == 4


def test_in_float32(calls):
    module, x, reset = problem()
    leaves, found = [x, *module.parameters()], []
    for choice in ("auto", "cpu_loop"):
        with backend(choice):
            parts = tensors(module(x, reset=reset))
        found.append([*parts, *torch.autograd.grad(sum(part.sin().sum() for part in parts), leaves)])
    assert len(calls) == 4
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_nothing_crosses_a_border(calls):
    module, x, reset = problem()
    output = module(x, reset=reset)[0]
    (ahead,) = torch.autograd.grad(output[7:, 2].sum(), x)
    assert ahead[:7].abs().max() < 1e-11 and ahead[7:, 2].abs().max() > 1e-3 and not ahead[:, 3].any()
    large = WNLSTM(5, 6)
    with torch.no_grad():
        large.weight_hh_l0_g.mul_(40)  # whose products could hold a gate open
    probe = x.detach().clone()
    probe[:7, 2] += 1
    torch.testing.assert_close(large(probe, reset=reset)[0][7:, 2], large(x, reset=reset)[0][7:, 2], rtol=0, atol=1e-9)
    assert len(calls) == 6


def test_without_a_border_inside_it_is_the_kernel_alone(calls):
    module, x, reset = problem()
    reset[1:] = False
    torch.testing.assert_close(module(x, reset=reset)[0][:, 2:], module(x)[0][:, 2:], rtol=0, atol=0)
    assert len(calls) == 4


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bfloat16 products of oneDNN's")
@pytest.mark.parametrize("features", [5, 8])
def test_in_bfloat16_autocast(features, calls):
    module, x, reset = problem(features)
    expected = tensors(module(x, reset=reset))
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = tensors(module(x, reset=reset)), tensors(module(x))
    assert len(calls) == 8 and [part.dtype for part in found] == [part.dtype for part in plain]
    leaves = [x, *module.parameters()]
    gradients = [torch.autograd.grad(sum(p.float().sin().sum() for p in parts), leaves) for parts in (found, expected)]
    for ours, exact in zip([*found, *gradients[0]], [*expected, *gradients[1]], strict=True):
        assert (ours.float() - exact).norm() <= 0.03 * exact.norm() + 1e-2


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bfloat16 products of oneDNN's")
def test_large_layers_in_bfloat16_run_by_the_loop_without_resets(calls, monkeypatch):
    loops = count_calls(monkeypatch, cpu_lstm.CPULSTM, "layer")
    module = WNLSTM(8, cpu_lstm.MIN_HIDDEN)
    x = torch.randn(12, 4, 8)
    reset = torch.zeros(x.shape[:2], dtype=torch.bool)
    reset[9, 3] = True
    expected = module(x, reset=reset)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x, reset=reset)[0]
    assert (len(calls), len(loops)) == (2, 1)
    assert (found.float() - expected).norm() <= 0.01 * expected.norm()


def test_what_is_not_finite_runs_by_the_loop(monkeypatch):
    loops = count_calls(monkeypatch, cpu_lstm_float.CPULSTMFloat, "layer")
    module, x, reset = problem()
    with torch.no_grad():
        x[3, 2] = torch.inf
        output, _ = module(x, reset=reset)
    assert loops and output[7:, 2].isfinite().all() and not output[3:7, 2].isfinite().all()


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e20])
def test_no_cell_state_crosses_a_border_whatever_it_holds(value, monkeypatch):
    loops = count_calls(monkeypatch, cpu_lstm_float.CPULSTMFloat, "layer")
    module, x, reset = LSTM(5, 6), torch.randn(10, 2, 5), torch.zeros(10, 2, dtype=torch.bool)
    reset[4] = True
    _, (h, c) = module(x[:4])
    with torch.no_grad():
        output, (h, c) = module(x, (h, torch.full_like(c, value)), reset=reset)
        assert loops
        torch.testing.assert_close((output[4:], (h, c)), module(x[4:]))


def test_the_rule(calls):
    module, x, reset = WNLSTM(5, 6), torch.randn(10, 2, 5), torch.zeros(10, 2, dtype=torch.bool)
    reset[1:3, 0] = True
    module(x, reset=reset)
    assert len(calls) == 1
    reset[5, 0] = True  # more than a fifth of the steps
    module(x, reset=reset)
    reset[5, 0] = False
    with backend("cpu_loop"):
        module(x, reset=reset)
    module.double()(x.double(), reset=reset)
    with torch.no_grad():
        WNLSTM(5, 6)(x[:1], reset=reset[:1])  # a single step
    WNLSTM(5, 6, proj_size=2)(x, reset=reset)
    assert len(calls) == 1
