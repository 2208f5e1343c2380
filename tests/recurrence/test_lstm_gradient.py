"""Gradients in bfloat16 where torch's LSTM has wrong ones."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

import wnseq
from wnseq._recurrence import custom_ops, lstm_gradient
from wnseq._torch_internals import HAS_ONEDNN_BF16, HAS_ONEDNN_LSTM
from wnseq.nn import backend, explain_backend

pytestmark = pytest.mark.skipif(not (HAS_ONEDNN_LSTM and HAS_ONEDNN_BF16), reason="oneDNN has no LSTM in bfloat16")
FEATURES, UNITS = 6, 8


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every size one of a wrong gradient, as some are on a processor with AMX."""
    monkeypatch.setattr(lstm_gradient, "has_right_gradient", lambda size: False)
    monkeypatch.setattr(custom_ops, "has_right_gradient", lambda size: False)


def gradients(rnn: torch.nn.Module, low: bool, steps: int = 3, reset: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, 2, FEATURES, generator=generator).requires_grad_()
    d = torch.randn(steps, 2, rnn.hidden_size, generator=generator)
    more = {"reset": torch.tensor([[False, True]]).expand(steps, 2)} if reset else {}
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        output, _ = rnn(x, **more)
    return list(torch.autograd.grad((output.float() * d).sum(), [x, *rnn.parameters()]))


@pytest.mark.parametrize("size", [16, 1008, 1024])
@pytest.mark.parametrize("steps", [2, 33])
def test_every_gradient_is_right(size: int, steps: int) -> None:
    """On a processor with AMX, torch's own is off by its norm at 1024."""
    torch.manual_seed(0)
    rnn = wnseq.LSTM(FEATURES, size)
    for reset in (False, True):
        for found, expected in zip(
            gradients(rnn, True, steps, reset), gradients(rnn, False, steps, reset), strict=True
        ):
            assert float((found - expected).norm()) <= 0.02 * float(expected.norm())


def test_another_back_end_runs_such_a_size_in_training(wrong: None) -> None:
    rnn, x = wnseq.WNLSTM(FEATURES, UNITS), torch.randn(3, 2, FEATURES)
    with torch.autocast("cpu", torch.bfloat16):
        with explain_backend() as choices:
            rnn(x)
            rnn(pack_padded_sequence(x, [3, 2]))
            wnseq.WNLSTM(FEATURES, UNITS, proj_size=4)(x)
            with torch.no_grad():
                rnn(x)
        assert [choice.name for choice in choices] == ["cpu_loop", "torch", "torch", "torch"]
        with (
            backend("torch"),
            pytest.raises(RuntimeError, match="its gradients in bfloat16 are wrong for so many units"),
        ):
            rnn(x)
    with explain_backend() as choices:
        rnn(x)
    assert [choice.name for choice in choices] == ["torch"]


def test_a_captured_graph_takes_the_loop_s_gradient(wrong: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("oneDNN's backward ran")

    monkeypatch.setattr(custom_ops, "onednn_lstm_backward", refuse)
    torch.manual_seed(0)
    rnn = wnseq.WNLSTM(FEATURES, UNITS)
    expected = gradients(rnn, False)
    torch.compiler.reset()
    compiled = torch.compile(rnn, backend="aot_eager")
    for found, right in zip(gradients(compiled, True), expected, strict=True):
        assert float((found - right).norm()) <= 0.02 * float(right.norm())


def test_a_size_is_tried_in_transforms_too() -> None:
    rnn = wnseq.WNLSTM(FEATURES, UNITS)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return (rnn(x)[0].float() * y).sum()

    x, y = torch.randn(2, 3, 2, FEATURES), torch.randn(2, 3, 2, UNITS)
    for run, inputs in ((vmap(grad(loss)), x), (vmap(grad(loss), (None, 0)), x[0])):
        lstm_gradient.has_right_gradient.cache_clear()
        assert run(inputs, y).shape == x.shape


def test_a_size_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm_gradient.has_right_gradient.cache_clear()
    assert lstm_gradient.has_right_gradient(UNITS)
    monkeypatch.setattr(lstm_gradient, "_gradient", lambda size, dtype: torch.tensor(float(dtype == torch.float32)))
    assert lstm_gradient.has_right_gradient(UNITS) and not lstm_gradient.has_right_gradient(UNITS + 1)
    monkeypatch.setattr(lstm_gradient, "HAS_ONEDNN_BF16", False)
    assert lstm_gradient.has_right_gradient(UNITS + 2)
    lstm_gradient.has_right_gradient.cache_clear()


def test_a_counter_does_not_see_the_trial() -> None:
    rnn, x, counts = wnseq.LSTM(FEATURES, UNITS), torch.randn(3, 2, FEATURES), []
    lstm_gradient.has_right_gradient.cache_clear()
    for _ in range(2):
        with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
            rnn(x)
        counts.append(counter.get_total_flops())
    assert lstm_gradient.has_right_gradient.cache_info().misses == 1
    assert counts[0] == counts[1] > 0
