"""The loop of minGRU and minLSTM against the scan, with every gradient, and the rule that chooses between them."""

import pytest
import torch
from cases import count_calls
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import MinGRU, MinLSTM, WNMinGRU, WNMinLSTM
from wnseq._recurrence import cpu_min_rnn
from wnseq.nn import backend

each_kind = pytest.mark.parametrize("kind", [WNMinGRU, WNMinLSTM])


@pytest.fixture
def calls(monkeypatch):
    """Count the layers and directions that the loop runs."""
    return count_calls(monkeypatch, cpu_min_rnn.CPUMinRNN, "layer")


def data(result):
    output, h = result
    return [output if isinstance(output, torch.Tensor) else output.data, h]


@each_kind
@pytest.mark.parametrize("form", [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("resets", [False, True])
def test_it_is_the_scan_with_first_and_second_derivatives(kind, form, packed, resets, calls):
    torch.manual_seed(0)
    module, layers = kind(3, 4, **form, dtype=torch.float64), form.get("num_layers", 1) * (1 + ("num_layers" in form))
    x = torch.randn(7, 5, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(layers, 5, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(7, 5) < 0.3
    leaves, found, lengths = [x, h, *module.parameters()], [], [7, 7, 4, 2, 1]
    for name in ("cpu_loop", "parallel_scan"):  # the second is the scan, or the steps of a packed input
        given, reset = (pack_padded_sequence(each, lengths) if packed else each for each in (x, mask))
        with backend(name):
            results = data(module(given, h, reset) if resets else module(given, h))
        loss = sum((k + 1) * part.sin().sum() for k, part in enumerate(results))
        alone = torch.autograd.grad(loss, leaves, retain_graph=True)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), leaves)
        found.append([*results, *alone, *first, *second])
    assert len(calls) == layers
    torch.testing.assert_close(*found, rtol=0, atol=1e-11)


@each_kind
@pytest.mark.parametrize("start", [-200.0, 200.0])
def test_gates_that_vanish_in_float32_have_their_ratio(kind, start):
    module, x = kind(3, 4), torch.randn(5, 2, 3)
    with torch.no_grad():
        module.bias_ih_l0[:-4] = start
    results = []
    for name in ("cpu_loop", "parallel_scan"):
        with backend(name):
            results.append([*module(x), *torch.autograd.grad(module(x)[0].sum(), [*module.parameters()])])
    assert all(part.isfinite().all() for part in results[0])
    torch.testing.assert_close(*results)
    double = module.double()(x.double())
    torch.testing.assert_close([part.double() for part in results[0][:2]], list(double), rtol=1e-4, atol=1e-4)


@each_kind
def test_under_autocast_products_are_rounded_and_states_are_not(kind):
    module, x = kind(16, 16), torch.randn(40, 2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loop = module(x)
        with backend("parallel_scan"):
            scan = module(x)
    assert all(part.dtype == torch.float32 for part in (*loop, *scan))
    torch.testing.assert_close(loop, scan, rtol=0.01, atol=0.01)
    torch.testing.assert_close(loop, module(x), rtol=0.1, atol=0.1)
    gradients = [torch.autograd.grad(part[0].sum(), [*module.parameters()]) for part in (loop, scan)]
    torch.testing.assert_close(*gradients, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_the_rule(kind, calls):
    def taken(steps, batch, size, packed=False):
        before, x = len(calls), torch.randn(steps, batch, 3)
        kind(3, size)(pack_padded_sequence(x, [steps] * batch) if packed else x)
        return len(calls) > before

    steps, numbers = cpu_min_rnn.MIN_STEPS_SCAN, cpu_min_rnn.MAX_NUMBERS_SCAN
    assert not taken(steps, 2, numbers // 2) and taken(steps - 1, 2, numbers // 2)
    assert taken(steps, 2, numbers // 2 + 1) and taken(steps, 2, 8, packed=True)
    with backend("cpu_loop"):
        assert taken(steps, 1, 8)
    with backend("parallel_scan"):
        assert not taken(3, 8, 64)
