"""Who runs a recurrence: what is chosen holds inside, and what a loop cannot take is torch's."""

import pytest
import torch
from cases import count_calls
from torch.autograd import forward_ad
from torch.func import functional_call, grad

from wnseq import WNGRU
from wnseq._recurrence import cpu_gru
from wnseq._recurrence.backend import backend, cpu_loops_supported, is_forced
from wnseq._recurrence.matmul import onednn_supports

needs_onednn = pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch):
    """Count the layers that the loop runs."""
    return count_calls(monkeypatch, cpu_gru.CPUGRU, "layer")


def test_a_choice_holds_inside_and_the_one_before_comes_back():
    with backend("cpu_loop"):
        assert is_forced()
        with backend("torch"):
            assert not is_forced() and not cpu_loops_supported(torch.zeros(1), (), [])
        assert is_forced()
    assert not is_forced()


def test_a_choice_that_is_none_is_refused():
    with (
        pytest.raises(ValueError, match="choice must be 'rule', 'loop' or 'torch', got 'fast'"),
        backend("fast"),
    ):
        pass


@needs_onednn
@pytest.mark.parametrize(
    "dtypes, runs",
    [
        ((torch.float32, torch.float32), True),
        ((torch.float64, torch.float64), False),
        ((torch.float32, torch.bfloat16), False),
    ],
    ids=["float32", "float64", "half weights"],
)
def test_the_dtypes_that_a_loop_takes(dtypes, runs):
    x, w = (torch.zeros(2, 2, dtype=dtype) for dtype in dtypes)
    assert cpu_loops_supported(x, (x,), [w]) == runs


@needs_onednn
def test_a_loop_is_not_for_what_has_no_rule_for_it(calls):
    module, x = WNGRU(3, 4), torch.randn(5, 2, 3)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    with backend("cpu_loop"):
        grad(lambda named: functional_call(module, named, (x,))[0].sum())(parameters)
        with forward_ad.dual_level():
            module(x)
        torch.compile(module, backend="eager", fullgraph=True)(x)
        module(torch.empty(5, 0, 3))
        assert not calls
        module(x)
    assert len(calls) == 1


@needs_onednn
def test_without_onednn_it_is_torchs(calls, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with backend("cpu_loop"):
        WNGRU(3, 4)(torch.randn(5, 2, 3))
    assert not calls
