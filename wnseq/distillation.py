"""Knowledge distillation: the loss by which a model learns the distribution that another one predicts."""

from typing import Any

import torch
from torch import Tensor

from wnseq.errors import ShapeError
from wnseq.losses import block_rows


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, target: Tensor, share: float = 0.9, *, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy against a mixture of the targets and what a teacher predicts.

    (1 − share)·H(target, p) + share·H(softmax(teacher_logits), p) with p = softmax(logits), the mean over the rows. The
    gradient is computed with the loss, block by block in float32, into one buffer in the dtype of the logits.

    Args:
        logits: Of the model that learns.
        teacher_logits: Of the teacher; they get no gradient.
        target: Class of each row, or ignore_index.
        share: Share of the teacher in the mixture, from 0 to 1.
        ignore_index: Target of the rows that count neither in the loss nor in the mean.

    Shape:
        - logits, teacher_logits: ``(…, V)``
        - target: ``(…)``

    Returns:
        The loss, and the cross-entropy of the targets alone, which has no gradient: scalars in float32, or in the dtype
        of float64 logits.

    Raises:
        ShapeError: The shapes do not fit together.
        ValueError: share is not from 0 to 1.
        RuntimeError: In backward, a second derivative is asked for.

    Note:
        Where no row counts, the mean is nan, and the gradient is 0.

    Example:
        >>> logits, target = torch.zeros(3, 4, requires_grad=True), torch.tensor([1, 0, 2])
        >>> loss, nats = distillation_loss(logits, torch.randn(3, 4), target)
        >>> loss.backward()
        >>> nats
        tensor(1.3863)

    Source:
        Hinton, Vinyals & Dean 2015, arXiv 1503.02531, at a temperature of 1.
    """
    if teacher_logits.shape != logits.shape or target.shape != logits.shape[:-1]:
        raise ShapeError(
            "distillation_loss: logits, teacher_logits and target must have shapes (…, V), (…, V) and (…), got "
            f"{tuple(logits.shape)}, {tuple(teacher_logits.shape)} and {tuple(target.shape)}"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"distillation_loss: share must be from 0 to 1, got {share!r}")
    rows = *(each.reshape(-1, logits.shape[-1]) for each in (logits, teacher_logits.detach())), target.flatten()
    loss, nats = _Mixture.apply(*rows, share, ignore_index)  # type: ignore[no-untyped-call]
    return loss, nats


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, teacher_logits: Tensor, target: Tensor, share: float, ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        full = torch.promote_types(logits.dtype, torch.float32)
        counted = target != ignore_index
        index, row_weight = target.masked_fill(~counted, 0).unsqueeze(1), counted.to(full)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None  # times the number of rows
        of_target = of_teacher = row_weight.new_zeros(())
        height = block_rows(logits, logits.shape[1])
        for top in range(0, len(logits), height):
            rows = slice(top, top + height)
            log_p = logits[rows].to(full).log_softmax(1)
            q = teacher_logits[rows].to(full).softmax(1)
            of_target = of_target - row_weight[rows] @ log_p.gather(1, index[rows]).squeeze(1)
            of_teacher = of_teacher - row_weight[rows] @ (q * log_p).sum(1)
            if gradient is not None:
                p = log_p.exp_().sub_(q, alpha=share)
                p.scatter_add_(1, index[rows], p.new_full((1, 1), share - 1).expand(len(p), 1))
                gradient[rows] = p.mul_(row_weight[rows].unsqueeze(1))
        number = row_weight.sum()
        ctx.gradient, ctx.number = gradient, number.clamp(min=1)
        nats = of_target / number
        ctx.mark_non_differentiable(nats)
        return (1 - share) * nats + share * of_teacher / number, nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("distillation_loss has no second derivative: leave out create_graph=True")
        return ctx.gradient * (grad / ctx.number), None, None, None, None
