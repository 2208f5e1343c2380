"""A language model's softmax and loss in one: logits, cross-entropy and gradients, a part at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wnseq._recurrence.matmul import linear, onednn_supports
from wnseq.errors import ShapeError

CPU_CHUNK = 2**20  # numbers that a CPU works on at once: 4 MB of float32, which its caches hold
GPU_CHUNK = 16 * CPU_CHUNK
MIN_CHUNK_CLASSES = 256  # classes in a chunk, fewer of which would make slow products


def fused_linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunked: bool = False,
) -> Tensor:
    """Compute the cross-entropy of a linear layer's logits, ``F.cross_entropy(F.linear(input, weight, bias), target)``.

    The gradients are computed with the loss, while the logits are at hand, and the logits become their own gradient in
    place: there is one buffer of them, in the dtype of autocast where it is on, and softmax and loss are taken in
    float32 block by block.

    Args:
        input: Features.
        weight: Weight of the linear layer.
        target: Class of each row, a whole number from 0 to V − 1, or ignore_index.
        bias: Bias of the linear layer.
        ignore_index: Target of the rows that count neither in the loss nor in the mean.
        reduction: ``mean`` over the rows that count, or ``sum``.
        chunked: Whether to go through the classes a chunk at a time, as many as fit a cache, once for the loss and once
            more for the gradients: the logits of all classes never exist at once, nor does the weight in another dtype.
            They are computed twice, a fourth product beside the three.

    Shape:
        - input: ``(…, H)``
        - weight: ``(V, H)``
        - target: ``(…)``
        - bias: ``(V,)``

    Returns:
        The loss, a scalar in float32, or in the dtype of float64 inputs.

    Raises:
        ShapeError: The shapes do not fit together.
        ValueError: reduction is neither ``mean`` nor ``sum``.

    Note:
        It has no second derivative and no forward-mode one, and goes backward once: the gradients are handed over, not
        copied. Float16 under a GradScaler is as safe as the plain pair, since what is small is scaled in float32.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> features, weight = torch.randn(5, 3, 8), torch.randn(11, 8, requires_grad=True)
        >>> loss = linear_cross_entropy(features, weight, torch.randint(11, (5, 3)), chunked=True)
        >>> loss.backward()
        >>> weight.grad.shape
        torch.Size([11, 8])
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"linear_cross_entropy: reduction must be 'mean' or 'sum', got {reduction!r}")
    if weight.ndim != 2 or input.shape[-1:] != weight.shape[1:]:
        raise ShapeError(
            "linear_cross_entropy: input and weight must have shapes (…, H) and (V, H), got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    if target.shape != input.shape[:-1]:
        raise ShapeError(
            f"linear_cross_entropy: target must have shape {tuple(input.shape[:-1])}, one class for each row of the "
            f"input, got {tuple(target.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"linear_cross_entropy: bias must have shape {tuple(weight.shape[:1])}, one entry for each row of the "
            f"weight, got {tuple(bias.shape)}"
        )
    x, y = input.reshape(-1, input.shape[-1]), target.reshape(-1)
    options = ignore_index, reduction == "mean", chunked, torch.is_grad_enabled()
    loss: Tensor = _FusedLinearCrossEntropy.apply(x, weight, bias, y, *options)  # type: ignore[no-untyped-call]
    return loss


class _FusedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        ignore_index: int,
        mean: bool,
        chunked: bool,
        recording: bool,
    ) -> Tensor:
        device = input.device.type
        with_autocast = torch.is_autocast_enabled(device) and weight.dtype != torch.float64
        dtype = torch.get_autocast_dtype(device) if with_autocast else weight.dtype
        full = torch.promote_types(dtype, torch.float32)
        needs_input, needs_weight, needs_bias = (recording and needed for needed in ctx.needs_input_grad[:3])
        with torch.autocast(device, enabled=False):
            counted = target != ignore_index
            target = target.masked_fill(~counted, 0).unsqueeze(1)
            share = counted.to(full)  # of each row in the loss
            late = None  # float16 has no room for gradients over the number of rows: backward divides them, in float32
            if mean and dtype == torch.float16:
                late = 1 / share.sum()
            elif mean:
                share /= share.sum()
            x = input.to(dtype)
            work = _Work(
                x,
                weight,
                bias,
                target,
                share,
                (input * share.unsqueeze(1)).to(dtype) if needs_weight else x,
                torch.zeros_like(x, dtype=full) if needs_input else None,
                torch.empty_like(weight, dtype=full) if needs_weight else None,
                torch.zeros_like(weight[:, 0], dtype=full) if needs_bias else None,
            )
            loss = _chunked(work) if chunked else _whole(work)
            if work.grad_input is not None:
                work.grad_input.mul_(share.unsqueeze(1))
        ctx.gradients = [work.grad_input, work.grad_weight, work.grad_bias]
        ctx.late = late
        ctx.dtypes = [None if t is None else t.dtype for t in (input, weight, bias)]
        return loss if late is None else loss * late

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "linear_cross_entropy: its gradients were handed over when backward was first called, and are gone; "
                "compute the loss anew for each backward"
            )
        gradients, ctx.gradients = ctx.gradients, None
        factor = grad if ctx.late is None else grad * ctx.late
        if grad.device.type != "cpu" or factor != 1:  # asking a GPU would wait for it
            for gradient in gradients:
                if gradient is not None:
                    gradient *= factor
        in_own = [None if g is None else g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True)]
        return *in_own, *[None] * 5


class _Work(NamedTuple):
    """What goes into the loss, and what comes out beside it.

    Args:
        x: Features, ``(N, H)``, in the dtype of the products.
        weight: Weight, ``(V, H)``, in its own dtype.
        bias: Bias, ``(V,)``.
        target: Classes, ``(N, 1)``.
        share: Of each row in the loss, ``(N,)``, float32 or more.
        shared: Each row of x times its share.
        grad_input: Gradient of x but for the shares, zero so far; None if not asked for.
        grad_weight: Gradient of the weight, to be filled; None likewise.
        grad_bias: Gradient of the bias, zero so far; None likewise.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    share: Tensor
    shared: Tensor
    grad_input: Tensor | None
    grad_weight: Tensor | None
    grad_bias: Tensor | None

    @property
    def gradient(self) -> bool:
        """Whether any is asked for."""
        return any(each is not None for each in self[-3:])


def _whole(work: _Work) -> Tensor:
    """Take the loss by all logits at once; softmax goes a few rows at a time."""
    x, weight, bias, target, share, shared, grad_input, grad_weight, grad_bias = work
    loss = share.new_zeros(())
    w = weight.to(x.dtype)
    logits = linear(x, w) if _by_onednn(x, w) else x @ w.t()  # (N, V)
    height = _at_once(logits, len(w))
    buffer = share.new_empty(min(height, len(x)), len(w)) if logits.dtype != share.dtype else None
    for top in range(0, len(x), height):
        here = slice(top, top + height)
        of_rows = logits[here], target[here], share[here]
        loss += _softmax(*of_rows, bias, buffer, grad_bias, gradient=work.gradient)
    if grad_input is not None:
        _multiply(logits, w, out=grad_input, add=False)
    if grad_weight is not None:
        _multiply(logits.t(), shared, out=grad_weight, add=False)
    return loss


def _chunked(work: _Work) -> Tensor:
    """Take the loss by the logits of a few classes at a time, and the gradients by the same logits once more."""
    x, weight, bias, target, share, shared, grad_input, grad_weight, grad_bias = work
    width = min(len(weight), max(MIN_CHUNK_CLASSES, _at_once(x, len(x))))
    buffer = share.new_empty(len(x) * width)

    def chunks() -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
        for first in range(0, len(weight), width):
            part = slice(first, first + width)
            w = weight[part].to(x.dtype)
            logits = buffer[: len(x) * len(w)].view(len(x), len(w))
            if w.dtype == logits.dtype and not _by_onednn(x, w):
                torch.mm(x, w.t(), out=logits)
            else:
                logits.copy_(linear(x, w))
            if bias is not None:
                logits += bias[part]
            inside = (target >= first) & (target < first + len(w))
            yield part, w, logits, inside, (target - first).clamp(0, len(w) - 1)

    log_sum, of_target = torch.full_like(share, -torch.inf), torch.zeros_like(share)
    for _, _, logits, inside, place in chunks():
        log_sum = torch.logaddexp(log_sum, logits.logsumexp(1))
        of_target += logits.gather(1, place).where(inside, 0).squeeze(1)
    if work.gradient:
        for part, w, logits, inside, place in chunks():
            p = logits.sub_(log_sum.unsqueeze(1)).exp_()
            p.scatter_add_(1, place, -inside.to(p.dtype))
            if grad_bias is not None:
                torch.mv(p.t(), share, out=grad_bias[part])
            p = p.to(x.dtype)
            if grad_input is not None:
                _multiply(p, w, out=grad_input, add=True)
            if grad_weight is not None:
                _multiply(p.t(), shared, out=grad_weight[part], add=False)
    return share @ (log_sum - of_target)


def _softmax(
    logits: Tensor,
    target: Tensor,
    share: Tensor,
    bias: Tensor | None,
    buffer: Tensor | None,
    grad_bias: Tensor | None,
    *,
    gradient: bool,
) -> Tensor:
    """Take the loss of a block of rows, whose logits become softmax less one-hot target where a gradient is asked."""
    p = logits if buffer is None else buffer[: len(logits)].copy_(logits)
    if bias is not None:
        p += bias
    of_target = p.gather(1, target).squeeze(1)
    if not gradient:
        return share @ (p.logsumexp(1) - of_target)
    largest = p.amax(1)
    torch.softmax(p, 1, out=p)
    log_sum = largest - p.amax(1).log()  # the largest probability is exp(largest - log_sum), and never small
    p.scatter_add_(1, target, p.new_full((1, 1), -1.0).expand(len(p), 1))
    if grad_bias is not None:
        grad_bias += share @ p
    if buffer is not None:
        logits.copy_(p)
    return share @ (log_sum - of_target)


def _at_once(x: Tensor, size: int) -> int:
    """Count the rows of a size that are worked on at once where a tensor lies."""
    return max(1, (CPU_CHUNK if x.is_cpu else GPU_CHUNK) // max(1, size))


def _by_onednn(x: Tensor, w: Tensor) -> bool:
    """Tell whether to ask oneDNN for a product; at a lower precision than the highest torch asks it itself."""
    return torch.get_float32_matmul_precision() == "highest" and onednn_supports(x, w)


def _multiply(left: Tensor, right: Tensor, *, out: Tensor, add: bool) -> None:
    """Write a product into a tensor, or add it; in parts that stay in the cache where it cannot be written there."""
    if out.dtype == left.dtype and not _by_onednn(left, right):
        out.addmm_(left, right, beta=int(add))
        return
    height = _at_once(out, right.shape[1])
    for top in range(0, len(out), height):
        part, rows = out[top : top + height], left[top : top + height]
        product = linear(rows, right.mT) if out.dtype == left.dtype else rows @ right
        if add:
            part += product
        else:
            part.copy_(product)


def tied_embedding(tokens: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Look tokens up in a weight that the softmax shares, and hand the weight on to it.

    The gradient that comes back from the handed-on weight is the buffer into which the embedding adds its own, a row
    for each token, where autograd would make a second gradient of the weight's size and add the two.

    Args:
        tokens: Rows to look up.
        weight: The shared weight.

    Shape:
        - tokens: any, whole numbers from 0 to V − 1
        - weight: ``(V, H)``

    Returns:
        The rows, ``(…, H)``, and the weight, to be given to :func:`linear_cross_entropy` and to nothing else: what it
        gives back is written in place.

    Example:
        >>> tokens, weight = torch.tensor([2, 0, 2]), torch.randn(4, 8, requires_grad=True)
        >>> features, shared = tied_embedding(tokens, weight)
        >>> linear_cross_entropy(features, shared, torch.tensor([0, 2, 1])).backward()
        >>> weight.grad.shape
        torch.Size([4, 8])
    """
    embedded, shared = _TiedEmbedding.apply(tokens, weight)  # type: ignore[no-untyped-call]
    return embedded, shared


class _TiedEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tokens)
        ctx.entries = len(weight)
        return torch.embedding(weight, tokens), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor | None, of_weight: Tensor | None) -> tuple[None, Tensor | None]:
        (tokens,) = ctx.saved_tensors
        if of_rows is None:
            return None, of_weight
        if of_weight is None:
            return None, torch.ops.aten.embedding_dense_backward(of_rows, tokens, ctx.entries, -1, False)
        index, rows = tokens.flatten(), of_rows.flatten(0, -2).to(of_weight.dtype)
        if of_weight.is_cuda:  # where index_add_ adds in no fixed order
            return None, of_weight.index_put_((index,), rows, accumulate=True)
        return None, of_weight.index_add_(0, index, rows)
