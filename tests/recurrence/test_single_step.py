"""Single steps by the cell: which ones, and that they compute what torch's kernel does."""

import pytest
import torch
from cases import tensors

from wnseq import WNGRU, WNLSTM
from wnseq._recurrence import single_step
from wnseq._recurrence.call import make_call
from wnseq._recurrence.matmul import MIN_FLOPS_ONEDNN
from wnseq._recurrence.single_step import LSTM_LIMITS, MAX_ROWS_GRU, SINGLE_STEP
from wnseq._recurrence.torch_kernel import TORCH_KERNEL


def call_of(module, batch, steps=1):
    flat = [parameter for name, parameter in module.named_parameters() if not name.endswith("_g")]
    x = torch.randn(steps, batch, 8).to(flat[0])
    return make_call(module, flat, x.transpose(0, 1) if module.batch_first else x, None)


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_padded_step_is_supported(batch_first):
    module = WNLSTM(8, 4, batch_first=batch_first)
    assert SINGLE_STEP.why_not(call_of(module, 3)) is None
    assert SINGLE_STEP.why_not(call_of(module, 1, steps=3)) is not None
    assert SINGLE_STEP.why_not(call_of(module.to("meta"), 3)) is not None


@pytest.mark.parametrize("training", [False, True])
def test_the_rows_of_an_lstm_are_limited(training):
    rows, entries = LSTM_LIMITS[torch.float32, training]
    module = WNLSTM(8, 4)
    with torch.set_grad_enabled(training):
        assert entries == 0
        assert SINGLE_STEP.is_faster(call_of(module, rows)) and not SINGLE_STEP.is_faster(call_of(module, rows + 1))
        assert not SINGLE_STEP.is_faster(call_of(module, 0))
        assert not SINGLE_STEP.is_faster(call_of(module.double(), 1))


def test_a_projection_is_left_to_torch_under_autocast():
    plain, projected = WNLSTM(8, 128), WNLSTM(8, 128, proj_size=127)
    assert SINGLE_STEP.is_faster(call_of(projected, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert SINGLE_STEP.is_faster(call_of(plain, 1)) and not SINGLE_STEP.is_faster(call_of(projected, 1))


def test_a_gru_is_faster_in_inference_by_a_large_weight(monkeypatch):
    monkeypatch.setattr(single_step, "IS_MKL_FAST", False)
    module = WNGRU(8, 256)
    rows = -(-MIN_FLOPS_ONEDNN // module.weight_hh_l0_v.numel())
    assert not SINGLE_STEP.is_faster(call_of(module, rows))
    with torch.no_grad():
        assert SINGLE_STEP.is_faster(call_of(module, rows)) and not SINGLE_STEP.is_faster(call_of(module, rows - 1))
        assert SINGLE_STEP.is_faster(call_of(module, MAX_ROWS_GRU))
        assert not SINGLE_STEP.is_faster(call_of(module, MAX_ROWS_GRU + 1))
        monkeypatch.setattr(single_step, "IS_MKL_FAST", True)
        assert not SINGLE_STEP.is_faster(call_of(module, rows))


@pytest.mark.parametrize(("cls", "lowered"), [(WNLSTM, False), (WNLSTM, True), (WNGRU, False)])
def test_a_step_is_that_of_torchs_kernel(cls, lowered):
    call = call_of(cls(8, 16, num_layers=2, bidirectional=True), 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        found, expected = (tensors(candidate.run(call)) for candidate in (SINGLE_STEP, TORCH_KERNEL))
    assert [part.dtype for part in found] == [part.dtype for part in expected]
    tolerance = {"rtol": 0.02, "atol": 0.01} if lowered else {}
    torch.testing.assert_close(found, expected, **tolerance)
