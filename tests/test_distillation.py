"""The loss of distillation against its equation in float64."""

import pytest
import torch
from torch import Tensor

from wnseq import ShapeError, losses
from wnseq.distillation import distillation_loss


def draw(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(5, 3, 11, dtype=dtype, requires_grad=True)
    return logits, 3 * torch.randn(5, 3, 11, dtype=dtype), torch.randint(11, (5, 3))


def equation(logits: Tensor, teacher_logits: Tensor, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The mean of (1 − share)·(−log p[target]) + share·(−Σ q log p), row by row."""
    losses, nats = [], []
    rows = zip(logits.flatten(0, 1), teacher_logits.flatten(0, 1), target.flatten(), strict=True)
    for own, other, y in rows:
        if y >= 0:
            log_p, q = own.double().log_softmax(0), other.double().softmax(0)
            nats.append(-log_p[y])
            losses.append((1 - share) * nats[-1] - share * (q * log_p).sum())
    return torch.stack(losses).mean(), torch.stack(nats).mean()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("cached", [2**20, 25, 0])
@pytest.mark.parametrize("ignored", [0, 4])
def test_loss_and_gradient_are_those_of_the_equation(
    share: float, cached: int, ignored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CPU_CHUNK", cached)  # all rows at once, two, one
    logits, teacher_logits, target = draw()
    target.view(-1)[:ignored] = -100
    expected = equation(logits, teacher_logits, target, share)
    (gradient,) = torch.autograd.grad(3 * expected[0], logits)
    loss, nats = distillation_loss(logits, teacher_logits, target, share)
    torch.testing.assert_close((loss, nats), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, logits)[0], gradient, rtol=1e-13, atol=1e-15)
    assert not nats.requires_grad


def test_one_row_is_a_batch_of_one() -> None:
    logits, teacher_logits, target = (each[0, 0] for each in draw())
    found = distillation_loss(logits, teacher_logits, target)
    rows = distillation_loss(logits.unsqueeze(0), teacher_logits.unsqueeze(0), target.unsqueeze(0))
    torch.testing.assert_close(found, rows, rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-7), (torch.bfloat16, 2e-3), (torch.float16, 1e-4)])
def test_half_types_are_summed_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    logits, teacher_logits, target = draw(dtype)
    expected, _ = equation(logits, teacher_logits, target, 0.9)
    loss, nats = distillation_loss(logits, teacher_logits, target)
    assert loss.dtype == nats.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (found,), (gradient,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), gradient.double(), rtol=0, atol=tolerance)


def test_the_gradient_of_many_rows_is_not_lost_in_float16() -> None:
    """Over 4,096 rows the mean's gradients of a likely class are below float16's least number, scaled they are not."""
    logits = torch.full((4096, 64), 0.0, dtype=torch.float16, requires_grad=True)
    loss, _ = distillation_loss(logits, torch.zeros(4096, 64), torch.zeros(4096, dtype=torch.long))
    (2**16 * loss).backward()
    assert logits.grad is not None
    expected = 2**16 / 4096 * (1 / 64 - 0.9 / 64)
    torch.testing.assert_close(logits.grad[:, 1].double(), torch.full((4096,), expected).double(), rtol=1e-2, atol=0)


def test_the_teacher_learns_nothing_and_where_nothing_counts_nor_does_the_model() -> None:
    logits, teacher_logits, target = draw()
    loss, nats = distillation_loss(logits, teacher_logits.requires_grad_(), torch.full_like(target, -100))
    loss.backward()
    assert loss.isnan() and nats.isnan()
    assert logits.grad is not None and not logits.grad.any() and teacher_logits.grad is None


def test_what_does_not_fit_is_refused() -> None:
    logits, teacher_logits, target = draw()
    for wrong in ((logits, teacher_logits[1:], target), (logits, teacher_logits, target[:, 1:])):
        with pytest.raises(ShapeError, match="must have shapes"):
            distillation_loss(*wrong)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share must be from 0 to 1"):
            distillation_loss(logits, teacher_logits, target, share)
    loss, _ = distillation_loss(logits, teacher_logits, target)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, logits, create_graph=True)
