"""Batch normalisation that subtracts the mean and leaves the scale to weight normalisation."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wnseq.errors import ShapeError
from wnseq.nn._arguments import check_bool, check_number, check_size
from wnseq.nn._fx import record_call, tracer_of


class _MeanOnlyBatchNorm(nn.Module):
    """Mean-only batch norm of inputs with any of the given numbers of axes."""

    axes: tuple[int, ...]
    bias: Tensor | None
    running_mean: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        sync: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if momentum is not None:
            momentum = check_number(name, "momentum", momentum, 0, 1, "momentum must be between 0 and 1, or None")
        self.num_features = num_features = check_size(name, "num_features", num_features)
        self.momentum = momentum
        self.affine = affine = check_bool(name, "affine", affine, lenient=True)
        self.track_running_stats = check_bool(name, "track_running_stats", track_running_stats, lenient=True)
        self.sync = check_bool(name, "sync", sync)
        bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
        mean = torch.empty(num_features, device=device, dtype=dtype) if track_running_stats else None
        count = torch.empty((), device=device, dtype=torch.long) if track_running_stats else None
        self.register_parameter("bias", bias)
        self.register_buffer("running_mean", mean)
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Reset the running mean to zero."""
        for buffer in (self.running_mean, self.num_batches_tracked):
            if buffer is not None:
                buffer.zero_()

    def reset_parameters(self) -> None:
        """Reset b and the running mean to zero."""
        self.reset_running_stats()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Centre each channel."""
        tracer = tracer_of((input,))
        if tracer is not None:
            recorded: Tensor = record_call(self, tracer, (input,))
            return recorded
        self._check(input)
        if self.training or self.running_mean is None:
            mean, count = self._mean(input)
            if self.training:
                self._track(mean.detach(), count)
        else:
            mean = self.running_mean
        shift = -mean if self.bias is None else self.bias - mean
        return input + shift.to(input.dtype).view(-1, *[1] * (input.ndim - 2))  # (C, 1, …)

    def _mean(self, x: Tensor) -> tuple[Tensor, int | Tensor]:
        """Return the mean of each channel, over this process or over all, and the number of values."""
        others = [axis for axis in range(x.ndim) if axis != 1]
        sum_dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        total, count = x.sum(others, dtype=sum_dtype), x.numel() // max(x.shape[1], 1)
        if not (self.sync and self.training and dist.is_available() and dist.is_initialized()):
            if count == 1 and self.training:
                raise ShapeError(
                    f"Expected more than 1 value per channel when training, got input size {x.size()} in "
                    f"{type(self).__name__}: a single value less its mean is 0; enlarge the batch or call eval()"
                )
            return total / max(count, 1), count
        both = torch.cat([total, total.new_full((1,), count)])
        reduced: Tensor = _SumOverProcesses.apply(both)  # type: ignore[no-untyped-call]
        return reduced[:-1] / reduced[-1].clamp(min=1), reduced[-1].detach()

    @torch.no_grad()
    def _track(self, mean: Tensor, count: int | Tensor) -> None:
        if self.running_mean is None or self.num_batches_tracked is None:
            return
        seen = count > 0  # an empty batch changes nothing
        self.num_batches_tracked.add_(seen)
        number = self.num_batches_tracked.clamp(min=1).to(torch.promote_types(mean.dtype, torch.float32))
        share: Any = 1 / number if self.momentum is None else self.momentum
        self.running_mean.add_(seen * share * (mean.to(self.running_mean.dtype) - self.running_mean))

    def _check(self, x: Tensor) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: input must be a tensor, got {type(x).__name__}")
        if x.ndim not in self.axes:
            axes = " or ".join(f"{n}D" for n in self.axes)
            raise ShapeError(f"expected {axes} input (got {x.ndim}D input) in {name}, of shape {tuple(x.shape)}")
        if x.shape[1] != self.num_features:
            raise ShapeError(
                f"running_mean should contain {x.shape[1]} elements not {self.num_features}: {name} has "
                f"{self.num_features} channels along axis 1, got shape {tuple(x.shape)}"
            )

    def extra_repr(self) -> str:
        """Return the arguments."""
        text = f"{self.num_features}, momentum={self.momentum}, affine={self.affine}, "
        return f"{text}track_running_stats={self.track_running_stats}" + (", sync=True" if self.sync else "")


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes, and its gradient, since each output depends on every input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _SumOverProcesses.apply(grads[0].contiguous())  # type: ignore[no-untyped-call]


class MeanOnlyBatchNorm1d(_MeanOnlyBatchNorm):
    """Mean-only batch normalisation of features, or of channels along one axis.

    y = t − μ[t] + b, μ over batch and positions; ∇_t L = ∇_y L − μ[∇_y L]

    Args:
        num_features: C.
        momentum: Share of the newest batch in the running mean; None for the mean of all batches.
        affine: Whether to add b.
        track_running_stats: Whether to keep a running mean for evaluation, which otherwise uses the mean of its batch.
        sync: Whether training takes the mean over all processes, as ``torch.nn.SyncBatchNorm`` does. Every process must
            then take part in every forward and backward pass, if need be with an empty batch.

    Shape:
        - input and output: ``(N, C)`` or ``(N, C, T)``

    Raises:
        ShapeError: The input has other axes or channels, or one value a channel in training.

    State:
        bias ``(C,)``, zeros. Buffers: running_mean ``(C,)``; num_batches_tracked.

    Note:
        ``torch.optim.swa_utils.update_bn`` passes it by, since it is no batch norm with a scale: after averaging
        weights, set momentum to None, call ``reset_running_stats()``, and run the training data through in training
        mode.

    Example:
        >>> import torch
        >>> MeanOnlyBatchNorm1d(2)(torch.tensor([[1.0, 0.0], [3.0, 8.0]]))
        tensor([[-1., -4.],
                [ 1.,  4.]], grad_fn=<AddBackward0>)

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 4, equations 7 and 8.
    """

    axes = (2, 3)


class MeanOnlyBatchNorm2d(_MeanOnlyBatchNorm):
    """Mean-only batch normalisation of the channels of images, ``(N, C, Y, X)``; see :class:`MeanOnlyBatchNorm1d`."""

    axes = (4,)
