"""The context that forces a back end, and what a loop on a CPU supports."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import count_calls
from torch.autograd import forward_ad
from torch.func import functional_call, grad

from wnseq import WNGRU
from wnseq._recurrence import cpu_gru
from wnseq._recurrence.backend import backend, forced_backends, unpack
from wnseq._recurrence.call import Call, RNNConfig
from wnseq._recurrence.matmul import onednn_supports

needs_onednn = pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")
CONFIG = RNNConfig(False, 1, 0.0, True, False, False)


def gru_call(dtype, weight_dtype):
    x, w = torch.zeros(1, 2, 2, dtype=dtype), torch.zeros(6, 2, dtype=weight_dtype)
    return Call("gru", x, None, (x,), [w, w], CONFIG, "tanh")


@pytest.fixture
def calls(monkeypatch):
    """Count the layers that the loop runs."""
    return count_calls(monkeypatch, cpu_gru.CPUGRU, "layer")


def test_a_back_end_is_forced_inside_and_the_one_before_comes_back():
    assert forced_backends()[0] == "auto"
    with backend("cpu_loop"):
        assert forced_backends()[0] == "cpu_loop"
        with backend("torch"):
            assert forced_backends()[0] == "torch"
        assert forced_backends()[0] == "cpu_loop"
    assert forced_backends()[0] == "auto"


def test_other_threads_see_a_forced_back_end():
    with ThreadPoolExecutor(1) as started_before:
        assert started_before.submit(forced_backends).result() == ("auto",)
        with backend("torch"), ThreadPoolExecutor(1) as started_inside:
            for threads in (started_before, started_inside):
                assert threads.submit(forced_backends).result() == ("torch",)
        with pytest.raises(KeyError), backend("cpu_loop"):
            raise KeyError
        assert started_before.submit(forced_backends).result() == ("auto",)


def test_an_unknown_back_end_is_refused():
    with (
        pytest.raises(ValueError, match=r"backend: name must be one of 'auto', 'cpu_loop', 'torch', .*, got 'fast'"),
        backend("torch", "fast"),
    ):
        pass


def test_weights_are_unpacked_by_their_number():
    parts = list("abcde")
    assert unpack(parts[:2]) == ("a", "b", None, None, None)
    assert unpack(parts[:3]) == ("a", "b", None, None, "c")
    assert unpack(parts[:4]) == ("a", "b", "c", "d", None)
    assert unpack(parts) == ("a", "b", "c", "d", "e")


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
def test_the_dtypes_that_a_loop_supports(dtypes, runs):
    assert (cpu_gru.CPU_GRU.why_not(gru_call(*dtypes)) is None) == runs


@needs_onednn
def test_a_loop_does_not_run_where_something_records(calls):
    module, x = WNGRU(3, 4), torch.randn(5, 2, 3)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    with backend("cpu_loop", "auto"):
        grad(lambda named: functional_call(module, named, (x,))[0].sum())(parameters)
        with forward_ad.dual_level():
            module(x)
        torch.compile(module, backend="eager", fullgraph=True)(x)
        module(torch.empty(5, 0, 3))
        assert not calls
        module(x)
    assert len(calls) == 1


@needs_onednn
def test_a_loop_does_not_run_without_onednn(calls, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with backend("cpu_loop", "auto"):
        WNGRU(3, 4)(torch.randn(5, 2, 3))
    assert not calls
