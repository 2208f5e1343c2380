"""The product of few rows: equal to torch's wherever it is taken, and oneDNN's only where that may be."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, vmap

from wnseq import WNGRUCell, WNLSTMCell
from wnseq._recurrence import matmul
from wnseq._recurrence.matmul import memory_bound_linear

WIDE = torch.randn(2048, 512, generator=torch.Generator().manual_seed(0))
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def taken(monkeypatch):
    """Note how each product is taken."""
    seen = []
    theirs, ours = F.linear, torch.ops.mkldnn._linear_pointwise

    class Operators:
        @staticmethod
        def _linear_pointwise(*args):
            seen.append("oneDNN")
            return ours(*args)

    def by_torch(*args):
        seen.append("torch")
        return theirs(*args)

    monkeypatch.setattr(torch.ops, "mkldnn", Operators)
    monkeypatch.setattr(matmul.F, "linear", by_torch)
    return seen


@needs_onednn
@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "sliced", "transposed"])
def test_it_is_torchs_product(rows, bias, layout, taken):
    x, w = torch.randn(rows, 512), WIDE
    if layout == "sliced":
        x, w = torch.randn(rows, 600)[:, 50:562], torch.randn(2048, 700)[:, 100:612]
    if layout == "transposed":
        x, w = torch.randn(512, rows).t(), torch.randn(512, 2048).t()
    b = torch.randn(2048) if bias else None
    with torch.no_grad():
        found = memory_bound_linear(x, w, b)
    assert taken == ["oneDNN"]
    torch.testing.assert_close(found, F.linear(x, w, b), rtol=1e-5, atol=1e-4)


@needs_onednn
def test_a_row_is_enough_of_a_large_weight_and_a_small_one_needs_more(taken):
    with torch.no_grad():
        memory_bound_linear(torch.randn(1, 512), WIDE)
        memory_bound_linear(torch.randn(1, 512), WIDE[:-1])
        memory_bound_linear(torch.randn(2, 512), WIDE[:1024])
        memory_bound_linear(torch.randn(512), WIDE)
    assert taken == ["oneDNN", "torch", "oneDNN", "torch"]


def by_compile(x):
    return torch.compile(memory_bound_linear, backend="aot_eager", fullgraph=True)(x, WIDE)


def by_trace(x):
    return torch.jit.trace(lambda x: memory_bound_linear(x, WIDE), x, check_trace=False)(x)


def by_vmap(x):
    return vmap(lambda row: memory_bound_linear(row[None], WIDE)[0])(x)


def by_autocast(x):
    with torch.autocast("cpu", torch.bfloat16):
        return memory_bound_linear(x, WIDE)


def without_onednn(x):
    with torch.backends.mkldnn.flags(enabled=False):
        return memory_bound_linear(x, WIDE)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace`:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
@pytest.mark.parametrize("way", [by_compile, by_trace, by_vmap, by_autocast, without_onednn])
def test_who_looks_into_the_product_sees_torchs(way, taken):
    x = torch.randn(2, 512)
    with torch.no_grad():
        found = way(x)
    assert "oneDNN" not in taken
    torch.testing.assert_close(found.float(), x @ WIDE.T, rtol=0.02, atol=0.5 if way is by_autocast else 1e-4)


def test_doubles_and_gradients_are_torchs(taken):
    x = torch.randn(2, 512)
    with torch.no_grad():
        assert memory_bound_linear(x.double(), WIDE.double()).dtype == torch.float64
    w = WIDE.clone().requires_grad_()
    memory_bound_linear(x, w).sum().backward()
    torch.testing.assert_close(w.grad, x.sum(0).expand_as(w))
    assert taken == ["torch", "torch"]


@needs_onednn
def test_a_frozen_weight_needs_no_gradient_and_gets_the_faster_product(taken):
    memory_bound_linear(torch.randn(2, 512), WIDE)
    assert taken == ["oneDNN"]


@needs_onednn
@pytest.mark.parametrize("cls", [WNLSTMCell, WNGRUCell])
def test_a_cell_that_streams_is_the_cell_that_trains(cls, taken):
    cell = cls(700, 512)
    x, h = torch.randn(2, 700), torch.randn(2, 512)
    state = (h, torch.randn(2, 512)) if cls is WNLSTMCell else h
    trained = cell(x, state)
    assert set(taken) == {"torch"}
    taken.clear()
    with torch.no_grad():
        streamed = cell.bind()(x, state)
        again = functional_call(cell, dict(cell.named_parameters()), (x, state))
    assert set(taken) == {"oneDNN"}
    torch.testing.assert_close(streamed, trained)
    torch.testing.assert_close(again, trained)
