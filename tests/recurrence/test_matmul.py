"""Products by oneDNN equal torch's, in every layout, and where it takes none they are torch's."""

import pytest
import torch
import torch.nn.functional as F

from wnseq._recurrence import matmul
from wnseq._recurrence.matmul import linear, onednn_supports, prepacked_linear, weight_grad

DTYPES = [torch.float32, torch.float64]
if torch.ops.mkldnn._is_mkldnn_bf16_supported():
    DTYPES.append(torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_close(found, expected):
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0.02 if found.dtype == torch.bfloat16 else 1e-5)


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_linear_and_repeated(dtype, layout, bias):
    x, w, b = draw(7, 50, dtype=dtype), draw(30, 50, dtype=dtype), draw(30, dtype=dtype) if bias else None
    if layout == "transposed":
        w = w.mT.contiguous().mT
    if layout == "sliced":
        x, w = draw(7, 60, dtype=dtype)[:, 5:55], draw(40, 60, dtype=dtype)[5:35, 5:55]
    expected = F.linear(x, w, b)
    assert_close(linear(x, w, b), expected)
    times = prepacked_linear(w, b, 7)
    assert_close(times(x), expected)
    assert_close(times(x[:3]), expected[:3])


@pytest.mark.skipif(torch.bfloat16 not in DTYPES, reason="this processor has no bfloat16 products of oneDNN's")
def test_a_bias_of_float32_to_bfloat16_products():
    x, w, b = draw(7, 50, dtype=torch.bfloat16), draw(30, 50, dtype=torch.bfloat16), draw(30)
    exact = F.linear(x.float(), w.float(), b).bfloat16()
    assert_close(linear(x, w, b), exact)
    assert_close(prepacked_linear(w, b, 7)(x), exact)


@each_dtype
@pytest.mark.parametrize("widths", [(30, 20), (300, 256)], ids=str)
def test_outer(dtype, widths):
    d, x = (draw(40, width, dtype=dtype) for width in widths)
    assert_close(weight_grad(d, x), d.mT @ x)
    assert_close(
        weight_grad(d, draw(40, widths[1] + 9, dtype=dtype)[:, 9:]), d.mT @ draw(40, widths[1] + 9, dtype=dtype)[:, 9:]
    )


@pytest.mark.skipif(not matmul.HAS_ONEDNN, reason="this torch has no oneDNN")
def test_what_onednn_takes(monkeypatch):
    assert onednn_supports(draw(2, 2), None)
    assert not onednn_supports(draw(2, 2, dtype=torch.float64))
    assert not onednn_supports(draw(2, 2), torch.empty(0, 2))
    assert not onednn_supports(torch.empty(2, 2, device="meta"))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not onednn_supports(draw(2, 2))


def test_no_rows_at_all():
    assert linear(torch.empty(0, 5), draw(3, 5)).shape == (0, 3)
    assert prepacked_linear(draw(3, 5), None, 0)(torch.empty(0, 5)).shape == (0, 3)
