"""Losses of language models: softmax and cross-entropy in one, a part at a time, and penalties of activations."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wnseq._recurrence.matmul import by_tiles, linear, linear_of_many, onednn_supports, weight_grad
from wnseq._torch_internals import is_autocast
from wnseq.errors import ShapeError

CPU_CHUNK = 2**20  # entries of a block on a CPU: 4 MB of float32, which its caches hold
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

    The gradients are computed with the loss, and the logits become their own gradient in place: there is one buffer of
    them, in autocast's dtype where it is on. Softmax and loss are computed in float32, block by block.

    Args:
        input: Features.
        weight: Weight of the linear layer.
        target: Class of each row, a whole number from 0 to V − 1, or ignore_index.
        bias: Bias of the linear layer.
        ignore_index: Target of the rows that count neither in the loss nor in the mean.
        reduction: ``mean`` over the rows that count, or ``sum``.
        chunked: Whether to compute the logits of a few classes at a time, once for the loss and once more for the
            gradients: neither all logits nor the weight in another dtype exist at once, for a fourth product beside
            the three.

    Shape:
        - input: ``(…, H)``
        - weight: ``(V, H)``
        - target: ``(…)``
        - bias: ``(V,)``

    Returns:
        The loss, a scalar in float32, or in the dtype of float64 inputs.

    Raises:
        ShapeError: The shapes do not fit together.
        TypeError: Targets or ignore_index are no whole numbers; without autocast, input and weight differ in dtype.
        ValueError: reduction is neither ``mean`` nor ``sum``.
        IndexError: A target is no class; on a GPU, where this would have to wait, torch's assertion.
        RuntimeError: In backward, a second derivative or another backward is asked for.

    Note:
        It has no second derivative and no forward-mode one, and one backward: the gradients are handed over, not
        copied. Where no row counts, the mean is nan, and the gradients are 0. Float16 under a GradScaler is as safe as
        the plain pair, since small gradients are scaled in float32.
        torch's ``F.linear_cross_entropy`` saves memory too, but on a CPU it is never faster than the plain pair.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> features, weight = torch.randn(5, 3, 8), torch.randn(11, 8, requires_grad=True)
        >>> loss = fused_linear_cross_entropy(features, weight, torch.randint(11, (5, 3)), chunked=True)
        >>> loss.backward()
        >>> weight.grad.shape
        torch.Size([11, 8])
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"fused_linear_cross_entropy: reduction must be 'mean' or 'sum', got {reduction!r}")
    if weight.ndim != 2 or input.shape[-1:] != weight.shape[1:]:
        raise ShapeError(
            "fused_linear_cross_entropy: input and weight must have shapes (…, H) and (V, H), got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    if target.shape != input.shape[:-1]:
        raise ShapeError(
            f"fused_linear_cross_entropy: target must have shape {tuple(input.shape[:-1])}, one class for each row "
            f"of the input, got {tuple(target.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"fused_linear_cross_entropy: bias must have shape {tuple(weight.shape[:1])}, one entry for each row "
            f"of the weight, got {tuple(bias.shape)}"
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"fused_linear_cross_entropy: target must have whole numbers, got {target.dtype}")
    if not isinstance(ignore_index, int):
        raise TypeError(f"fused_linear_cross_entropy: ignore_index must be a whole number, got {ignore_index!r}")
    if input.dtype != (dtype := weight.dtype) and not is_autocast(input.device.type):
        raise TypeError(f"fused_linear_cross_entropy: input must have the weight's dtype {dtype}, got {input.dtype}")
    x, y = input.reshape(-1, input.shape[-1]), target.reshape(-1).long()
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
        with_grad: bool,
    ) -> Tensor:
        device = input.device.type
        with_autocast = is_autocast(device) and weight.dtype != torch.float64
        dtype = torch.get_autocast_dtype(device) if with_autocast else weight.dtype
        full = torch.promote_types(dtype, torch.float32)
        needs_input, needs_weight, needs_bias = (with_grad and needed for needed in ctx.needs_input_grad[:3])
        with torch.autocast(device, enabled=False):
            counted = target != ignore_index
            target = target.masked_fill(~counted, 0).unsqueeze(1)
            _check_targets(target, len(weight))
            row_weight = counted.to(full)
            late_scale, number = None, row_weight.sum()
            if mean and dtype == torch.float16:  # too narrow for gradients over the number of rows: backward divides
                late_scale = 1 / number.clamp(min=1)
            elif mean:
                row_weight /= number.clamp(min=1)
            x = input.to(dtype)
            work = _Work(
                x,
                weight,
                bias,
                target,
                row_weight,
                (input * row_weight.unsqueeze(1)).to(dtype) if needs_weight else x,
                torch.zeros_like(x, dtype=full) if needs_input else None,
                torch.empty_like(weight, dtype=full) if needs_weight else None,
                torch.zeros_like(weight[:, 0], dtype=full) if needs_bias else None,
            )
            loss = _chunked(work) if chunked else _whole(work)
            if work.grad_input is not None:
                work.grad_input.mul_(row_weight.unsqueeze(1))
        ctx.gradients = [work.grad_input, work.grad_weight, work.grad_bias]
        ctx.late_scale = late_scale
        ctx.dtypes = [None if t is None else t.dtype for t in (input, weight, bias)]
        if late_scale is not None:
            loss *= late_scale
        return loss / number.clamp(max=1) if mean else loss  # the mean of nothing is nan, with gradients of 0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "fused_linear_cross_entropy has no second derivative: leave out create_graph=True, or compute "
                "F.cross_entropy(F.linear(input, weight, bias), target)"
            )
        if ctx.gradients is None:
            raise RuntimeError(
                "fused_linear_cross_entropy: its gradients were handed over when backward was first called, and are "
                "gone; compute the loss again for each backward"
            )
        gradients, ctx.gradients = ctx.gradients, None
        factor = grad if ctx.late_scale is None else grad * ctx.late_scale
        if grad.device.type != "cpu" or factor != 1:  # on a GPU the comparison would wait
            for gradient in gradients:
                if gradient is not None:
                    gradient *= factor
        in_own = [None if g is None else g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True)]
        return *in_own, *[None] * 5


def _check_targets(target: Tensor, num_classes: int) -> None:
    """Raise torch's IndexError for a class that there is not; on a GPU its assertion, which does not wait."""
    if not target.is_cpu:
        target.new_empty(1).expand(len(target), num_classes).gather(1, target)
    elif target.numel():
        for bound in target.aminmax():
            if not 0 <= bound < num_classes:
                raise IndexError(
                    f"Target {int(bound)} is out of bounds: classes are from 0 to {num_classes - 1}, or ignore_index"
                )


class _Work(NamedTuple):
    """Inputs of the loss, and the gradients computed beside it, None where not needed."""

    x: Tensor  # (N, H), in the dtype of the products
    weight: Tensor  # (V, H), in its own dtype
    bias: Tensor | None  # (V,)
    target: Tensor  # (N, 1)
    row_weight: Tensor  # in the loss, (N,), float32 or more; a row of weight 0 may cost infinity or NaN
    weighted: Tensor  # x times the weights of its rows
    grad_input: Tensor | None  # zeros; without the weights of the rows
    grad_weight: Tensor | None  # not filled
    grad_bias: Tensor | None  # zeros

    @property
    def needs_grad(self) -> bool:
        return any(grad is not None for grad in self[-3:])


def _whole(work: _Work) -> Tensor:
    """Return the loss from all logits at once, with a softmax of a few rows at a time."""
    x, row_weight = work.x, work.row_weight
    loss = row_weight.new_zeros(())
    w = work.weight.to(x.dtype)
    logits = linear_of_many(x, w) if _use_onednn(x, w) else x @ w.t()  # (N, V)
    height = block_rows(logits, len(w))
    buffer = row_weight.new_empty(min(height, len(x)), len(w)) if logits.dtype != row_weight.dtype else None
    for top in range(0, len(x), height):
        loss += _softmax(work, logits, slice(top, top + height), buffer)
    if work.grad_input is not None:
        _multiply(logits, w, out=work.grad_input, add=False)
    if work.grad_weight is not None and by_tiles(x, len(w)):
        del w  # whose memory the product takes
        work.grad_weight.copy_(weight_grad(logits, work.weighted))
    elif work.grad_weight is not None:
        _multiply(logits.t(), work.weighted, out=work.grad_weight, add=False)
    return loss


def _chunked(work: _Work) -> Tensor:
    """Return the loss from the logits of a few classes at a time."""
    x, weight, bias, target, row_weight, weighted, grad_input, grad_weight, grad_bias = work
    width = min(len(weight), max(MIN_CHUNK_CLASSES, block_rows(x, len(x))))
    buffer = row_weight.new_empty(len(x) * width)

    def chunks() -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
        for first in range(0, len(weight), width):
            part = slice(first, first + width)
            w = weight[part].to(x.dtype)
            logits = buffer[: len(x) * len(w)].view(len(x), len(w))
            if w.dtype == logits.dtype and not _use_onednn(x, w):
                torch.mm(x, w.t(), out=logits)
            else:
                logits.copy_(linear(x, w))
            if bias is not None:
                logits += bias[part]
            inside = (target >= first) & (target < first + len(w))
            yield part, w, logits, inside, (target - first).clamp(0, len(w) - 1)

    log_sum, of_target = torch.full_like(row_weight, -torch.inf), torch.zeros_like(row_weight)
    for _, _, logits, inside, column in chunks():
        log_sum = torch.logaddexp(log_sum, logits.logsumexp(1))
        of_target += logits.gather(1, column).where(inside, 0).squeeze(1)
    if work.needs_grad:
        for part, w, logits, inside, column in chunks():
            p = logits.sub_(log_sum.unsqueeze(1)).exp_()
            p.scatter_add_(1, column, -inside.to(p.dtype))
            if grad_bias is not None:
                torch.mv(p.t(), row_weight, out=grad_bias[part])
            p = p.to(x.dtype)
            if grad_input is not None:
                _multiply(p, w, out=grad_input, add=True)
            if grad_weight is not None:
                _multiply(p.t(), weighted, out=grad_weight[part], add=False)
    return row_weight @ (log_sum - of_target).masked_fill(row_weight == 0, 0)


def _softmax(work: _Work, logits: Tensor, rows: slice, buffer: Tensor | None) -> Tensor:
    """Return the loss of a block of rows; with a gradient, their logits become softmax minus one-hot target."""
    logits, target, row_weight = logits[rows], work.target[rows], work.row_weight[rows]
    p = logits if buffer is None else buffer[: len(logits)].copy_(logits)
    if work.bias is not None:
        p += work.bias
    of_target = p.gather(1, target).squeeze(1)
    if not work.needs_grad:
        return row_weight @ (p.logsumexp(1) - of_target).masked_fill(row_weight == 0, 0)
    largest = p.amax(1)
    torch.softmax(p, 1, out=p)
    log_sum = largest - p.amax(1).log()  # the largest probability is exp(largest - log_sum), and never small
    p.scatter_add_(1, target, p.new_full((1, 1), -1.0).expand(len(p), 1))
    if work.grad_bias is not None:
        work.grad_bias.add_(row_weight @ p)
    if buffer is not None:
        logits.copy_(p)
    return row_weight @ (log_sum - of_target).masked_fill(row_weight == 0, 0)


def block_rows(x: Tensor, size: int) -> int:
    """Return how many rows of a size make a block on a tensor's device."""
    return max(1, (CPU_CHUNK if x.is_cpu else GPU_CHUNK) // max(1, size))


def _use_onednn(x: Tensor, w: Tensor) -> bool:
    """Return True if oneDNN should compute a product; at less than the highest precision torch takes it itself."""
    return torch.get_float32_matmul_precision() == "highest" and onednn_supports(x, w)


def _multiply(left: Tensor, right: Tensor, *, out: Tensor, add: bool) -> None:
    """Write a product into ``out``, or add it; by blocks where the product needs a buffer."""
    if out.dtype == left.dtype and not _use_onednn(left, right):
        out.addmm_(left, right, beta=int(add))
        return
    height = block_rows(out, right.shape[1])
    for top in range(0, len(out), height):
        part, rows = out[top : top + height], left[top : top + height]
        product = linear(rows, right.mT) if out.dtype == left.dtype else rows @ right
        if add:
            part += product
        else:
            part.copy_(product)


def tied_embedding(tokens: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Embed tokens by a weight that the softmax shares, and return the weight for the softmax.

    The embedding adds its gradient, a row for each token, into that of the returned weight, where autograd would make
    a second gradient of the weight's size.

    Args:
        tokens: Rows to look up.
        weight: The shared weight.

    Shape:
        - tokens: any, whole numbers from 0 to V − 1
        - weight: ``(V, H)``

    Returns:
        The rows, ``(…, H)``, and the weight, for :func:`fused_linear_cross_entropy` alone: its gradient is written in
        place.

    Example:
        >>> tokens, weight = torch.tensor([2, 0, 2]), torch.randn(4, 8, requires_grad=True)
        >>> features, shared = tied_embedding(tokens, weight)
        >>> fused_linear_cross_entropy(features, shared, torch.tensor([0, 2, 1])).backward()
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
            of_weight = of_rows.new_zeros(ctx.entries, of_rows.shape[-1])
        index, rows = tokens.flatten(), of_rows.flatten(0, -2).to(of_weight.dtype)
        if of_weight.is_cuda:  # where index_add_ adds in no fixed order
            return None, of_weight.index_put_((index,), rows, accumulate=True)
        return None, of_weight.index_add_(0, index, rows)


def activation_penalty(output: Tensor, dropped: Tensor, activation: float = 2.0, temporal: float = 1.0) -> Tensor:
    """Compute activation regularisation (AR) and temporal activation regularisation (TAR) of a recurrent net's output.

    α·mean(dropped²) + β·mean((output[t+1] − output[t])²)

    Args:
        output: Output of the last layer.
        dropped: The same after its dropout.
        activation: α.
        temporal: β; a sequence of one step has no differences.

    Shape:
        - output, dropped: ``(T, N, H)``

    Returns:
        The penalty, a scalar in float32 or wider, which is added to the mean loss of a token in training.

    Raises:
        ShapeError: The shapes are not the same.

    Example:
        >>> activation_penalty(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 6.0]), activation=0.5, temporal=0.25)
        tensor(10.)

    Source:
        Merity, McCann & Socher 2017, arXiv 1708.01009; α = 2 and β = 1 from Merity et al. 2018, arXiv 1708.02182.
    """
    if output.shape != dropped.shape:
        raise ShapeError(
            "activation_penalty: output and dropped must have the same shape, got "
            f"{tuple(output.shape)} and {tuple(dropped.shape)}"
        )
    wide = torch.promote_types(output.dtype, torch.float32)
    penalty = output.new_zeros((), dtype=wide)
    if activation:
        penalty = penalty + activation * dropped.to(wide).square().mean()
    if temporal and len(output) > 1:
        penalty = penalty + temporal * output.to(wide).diff(dim=0).square().mean()
    return penalty
