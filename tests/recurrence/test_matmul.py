"""Products by oneDNN equal torch's in every layout, and are torch's where oneDNN's may not be taken."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import functional_call, vmap

from wnseq import WNGRUCell, WNLSTMCell
from wnseq._recurrence import matmul
from wnseq._recurrence.matmul import (
    by_tiles,
    linear,
    linear_of_many,
    memory_bound_linear,
    onednn_supports,
    prepacked_add,
    prepacked_linear,
    weight_grad,
)
from wnseq._torch_internals import HAS_MKL_PREPACKED, HAS_ONEDNN, HAS_ONEDNN_BF16
from wnseq.losses import fused_linear_cross_entropy

DTYPES = [torch.float32, torch.float64, *([torch.bfloat16] if HAS_ONEDNN_BF16 else [])]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
WIDE = torch.randn(2048, 512, generator=torch.Generator().manual_seed(0))
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")


def draw(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_close(found, expected):
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0.02 if found.dtype == torch.bfloat16 else 1e-5)


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_linear_and_prepacked_linear(dtype, layout, bias):
    x, w, b = draw(7, 50, dtype=dtype), draw(30, 50, dtype=dtype), draw(30, dtype=dtype) if bias else None
    if layout == "transposed":
        w = w.mT.contiguous().mT
    if layout == "sliced":
        x, w = draw(7, 60, dtype=dtype)[:, 5:55], draw(40, 60, dtype=dtype)[5:35, 5:55]
    expected = F.linear(x, w, b)
    if layout == "sliced" and bias:
        b = torch.stack([b, -b], 1)[:, 0]
    assert_close(linear(x, w, b), expected)
    multiply = prepacked_linear(w, b, 7)
    assert_close(multiply(x), expected)
    assert_close(multiply(x[:3]), expected[:3])


@pytest.mark.skipif(not HAS_ONEDNN_BF16, reason="this processor has no bfloat16 products of oneDNN's")
def test_a_bias_of_float32_to_bfloat16_products():
    x, w, b = draw(7, 50, dtype=torch.bfloat16), draw(30, 50, dtype=torch.bfloat16), draw(30)
    exact = F.linear(x.float(), w.float(), b).bfloat16()
    assert_close(linear(x, w, b), exact)
    assert_close(prepacked_linear(w, b, 7)(x), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bias_of_float32_where_onednn_has_no_such_products(dtype, monkeypatch):
    monkeypatch.setattr(matmul, "HAS_ONEDNN_BF16", False)
    x, w, b = draw(7, 50, dtype=dtype), draw(30, 50, dtype=dtype), draw(30)
    exact = F.linear(x.float(), w.float(), b).to(dtype)
    for found in (linear(x, w, b), prepacked_linear(w, b, 7)(x)):
        assert found.dtype == dtype
        torch.testing.assert_close(found, exact, rtol=0.02, atol=0.02)


@pytest.mark.skipif(not (HAS_MKL_PREPACKED and HAS_ONEDNN), reason="this torch has no MKL or no oneDNN")
@pytest.mark.parametrize(("layout", "fixed"), [("contiguous", True), ("contiguous", False), ("transposed", True)])
@pytest.mark.parametrize("size", ["small", "middle", "large"])
def test_a_step_takes_the_fastest_library_where_mkl_is_fast(size, layout, fixed, monkeypatch):
    monkeypatch.setattr(matmul, "IS_MKL_FAST", True)
    taken = []
    for name in ("mkl_prepack", "onednn_prepack"):
        library = getattr(matmul, name)
        monkeypatch.setattr(matmul, name, lambda *args, by=library: taken.append(by.__name__) or by(*args))
    shape = {"small": (30, 50), "middle": (300, 256), "large": (2100, 1000)}[size]
    x, w, b = draw(20, shape[1]), draw(*shape), draw(shape[0])
    w = w.mT.contiguous().mT if layout == "transposed" else w
    for bias in (b, None):
        multiply = prepacked_linear(w, bias, 20, fixed)
        for rows in (20, 7):  # of another number torch's own product is taken
            torch.testing.assert_close(multiply(x[:rows]), F.linear(x[:rows], w, bias), rtol=1e-5, atol=1e-3)
    y = draw(20, shape[0])
    expected = torch.addmm(y, x, w.mT)
    prepacked_add(w, 20, fixed)(y, x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-3)
    by_mkl = layout == "contiguous" and fixed and size != "small"
    assert set(taken) == ({"mkl_prepack"} if by_mkl else {"onednn_prepack"} if size == "large" else set())


@each_dtype
@pytest.mark.parametrize("widths", [(30, 20), (300, 256)], ids=str)
def test_weight_grad(dtype, widths):
    d, x = (draw(40, width, dtype=dtype) for width in widths)
    assert_close(weight_grad(d, x), d.mT @ x)
    sliced = draw(40, widths[1] + 9, dtype=dtype)[:, 9:]
    assert_close(weight_grad(d, sliced), d.mT @ sliced)


@needs_onednn
def test_large_products_by_transposed_copies(monkeypatch):
    x, w, d = (draw(*shape, dtype=torch.bfloat16) for shape in ((70, 300), (260, 300), (70, 260)))
    target = torch.arange(70) * 3
    losses = []
    for has_amx in (False, True):
        monkeypatch.setattr(matmul, "HAS_AMX", has_amx)
        monkeypatch.setattr(matmul, "MIN_FLOPS_AMX", x.numel() * len(w))
        assert by_tiles(x, len(w)) == has_amx and not by_tiles(x[1:], len(w)) and not by_tiles(x.float(), len(w))
        assert_close(linear_of_many(x, w), F.linear(x, w))
        assert_close(weight_grad(d, x), d.mT @ x)
        leaf = w.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = fused_linear_cross_entropy(x, leaf, target)
        losses.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(*losses, atol=1e-4, rtol=0.02)


def test_what_onednn_supports(monkeypatch):
    assert onednn_supports(draw(2, 2), None)
    assert not onednn_supports(draw(2, 2, dtype=torch.float64))
    assert not onednn_supports(draw(2, 2), torch.empty(0, 2))
    assert not onednn_supports(torch.empty(2, 2, device="meta"))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not onednn_supports(draw(2, 2))


def test_no_rows_at_all():
    assert linear(torch.empty(0, 5), draw(3, 5)).shape == (0, 3)
    assert prepacked_linear(draw(3, 5), None, 0)(torch.empty(0, 5)).shape == (0, 3)


# ---- memory_bound_linear


@pytest.fixture
def products(monkeypatch):
    """List which library each product is from."""
    seen = []
    onednn_linear, torch_linear = matmul.onednn_linear, F.linear
    monkeypatch.setattr(matmul, "onednn_linear", lambda *args: seen.append("oneDNN") or onednn_linear(*args))
    monkeypatch.setattr(matmul.F, "linear", lambda *args: seen.append("torch") or torch_linear(*args))
    monkeypatch.setattr(matmul, "IS_MKL_FAST", False)
    return seen


@needs_onednn
@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "sliced", "transposed"])
def test_a_memory_bound_product_is_that_of_torch(rows, bias, layout, products):
    x, w = torch.randn(rows, 512), WIDE
    if layout == "sliced":
        x, w = torch.randn(rows, 600)[:, 50:562], torch.randn(2048, 700)[:, 100:612]
    if layout == "transposed":
        x, w = torch.randn(512, rows).t(), torch.randn(512, 2048).t()
    b = torch.randn(2048) if bias else None
    with torch.no_grad():
        found = memory_bound_linear(x, w, b)
    assert products == ["oneDNN"]
    torch.testing.assert_close(found, F.linear(x, w, b), rtol=1e-5, atol=1e-4)


@needs_onednn
def test_one_row_is_enough_of_a_large_weight_and_a_small_one_needs_more(products):
    with torch.no_grad():
        memory_bound_linear(torch.randn(1, 512), WIDE)
        memory_bound_linear(torch.randn(1, 512), WIDE[:-1])
        memory_bound_linear(torch.randn(2, 512), WIDE[:1024])
        memory_bound_linear(torch.randn(512), WIDE)
    assert products == ["oneDNN", "torch", "oneDNN", "torch"]


@needs_onednn
def test_mkl_multiplies_few_rows_or_a_small_weight_where_it_is_fast(products, monkeypatch):
    monkeypatch.setattr(matmul, "IS_MKL_FAST", True)
    with torch.no_grad():
        for rows, weight in ((3, WIDE), (4, WIDE), (20, WIDE[:-1]), (20, WIDE)):
            found = memory_bound_linear(x := torch.randn(rows, 512), weight)
            torch.testing.assert_close(found, x @ weight.T, rtol=1e-5, atol=1e-4)
    assert products == ["torch", "oneDNN", "torch", "oneDNN"]


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
@pytest.mark.parametrize("how", [by_compile, by_trace, by_vmap, by_autocast, without_onednn])
def test_what_records_or_casts_gets_the_product_of_torch(how, products):
    x = torch.randn(2, 512)
    with torch.no_grad():
        found = how(x)
    assert "oneDNN" not in products
    torch.testing.assert_close(found.float(), x @ WIDE.T, rtol=0.02, atol=0.5 if how is by_autocast else 1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inside torch
def test_a_forward_mode_derivative_is_kept():
    x, tangent = torch.randn(2, 2, 512)
    with torch.no_grad(), forward_ad.dual_level():
        product = memory_bound_linear(forward_ad.make_dual(x, tangent), WIDE)
        found = forward_ad.unpack_dual(product).tangent
    torch.testing.assert_close(found, tangent @ WIDE.T, rtol=1e-5, atol=1e-4)


def test_doubles_and_gradients_are_those_of_torch(products):
    x = torch.randn(2, 512)
    with torch.no_grad():
        assert memory_bound_linear(x.double(), WIDE.double()).dtype == torch.float64
    w = WIDE.clone().requires_grad_()
    memory_bound_linear(x, w).sum().backward()
    torch.testing.assert_close(w.grad, x.sum(0).expand_as(w))
    assert products == ["torch", "torch"]


@needs_onednn
def test_a_frozen_weight_needs_no_gradient_and_gets_the_faster_product(products):
    memory_bound_linear(torch.randn(2, 512), WIDE)
    assert products == ["oneDNN"]


@needs_onednn
@pytest.mark.parametrize("cls", [WNLSTMCell, WNGRUCell])
def test_a_cell_in_inference_computes_what_it_does_in_training(cls, products):
    cell = cls(700, 512)
    x, h = torch.randn(2, 700), torch.randn(2, 512)
    state = (h, torch.randn(2, 512)) if cls is WNLSTMCell else h
    trained = cell(x, state)
    assert "oneDNN" not in products
    products.clear()
    with torch.no_grad():
        streamed = cell.bind()(x, state)
        again = functional_call(cell, dict(cell.named_parameters()), (x, state))
    assert set(products) == {"oneDNN"}
    torch.testing.assert_close(streamed, trained)
    torch.testing.assert_close(again, trained)
