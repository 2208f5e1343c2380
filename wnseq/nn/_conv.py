"""Convolutions, plain and transposed, with one scale for each output channel."""

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.errors import ShapeError
from wnseq.nn._linear import _WNLayer

Size = int | tuple[int, ...]  # one number for every axis, or one for each
Mode = Literal["zeros", "reflect", "replicate", "circular"]
_MODES = get_args(Mode)
_PADDINGS = ("same", "valid")


class _WNConvNd(_WNLayer):
    """A convolution over ``spatial`` axes."""

    transposed = False
    spatial: int
    padding: str | tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: str | Size,
        output_padding: Size,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: Mode,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if self.transposed and padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode must be 'zeros', the only one of a transposed convolution, "
                             f"got {padding_mode!r}")  # fmt: skip
        if groups <= 0:
            raise ValueError(f"{name}: groups must be a positive integer, got {groups}")
        for label, size in (("in_channels", in_channels), ("out_channels", out_channels)):
            if size % groups:
                raise ValueError(f"{name}: {label} must be divisible by groups={groups}, got {size}")
        if isinstance(padding, str):
            if self.transposed:
                raise TypeError(f"{name}: padding must be given in numbers, got {padding!r}")
            if padding not in _PADDINGS:
                raise ValueError(f"{name}: padding must be numbers, 'same' or 'valid', got {padding!r}")
        if padding_mode not in _MODES:
            raise ValueError(f"{name}: padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self._each_axis(kernel_size)
        self.stride = self._each_axis(stride)
        self.padding = padding if isinstance(padding, str) else self._each_axis(padding)
        self.dilation = self._each_axis(dilation)
        self.output_padding = self._each_axis(output_padding)
        self.groups = groups
        self.padding_mode = padding_mode
        if padding == "same" and any(step != 1 for step in self.stride):
            raise ValueError(f"{name}: padding='same' goes with stride 1, got {self.stride}; give padding in numbers")
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        self._register(shape, out_channels, bias, device=device, dtype=dtype)

    def _each_axis(self, value: int | Iterable[int]) -> tuple[int, ...]:
        return tuple(value) if isinstance(value, Iterable) else (value,) * self.spatial

    def _check_image(self, x: Tensor) -> None:
        if isinstance(x, Tensor) and x.ndim not in (self.spatial + 1, self.spatial + 2):
            raise ShapeError(
                f"{type(self).__name__}: input must have {self.spatial + 2} axes, or {self.spatial + 1} without a "
                f"batch, got shape {tuple(x.shape)}"
            )
        self._check_input(x, -self.spatial - 1, self.in_channels, "channels")

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, value in (("padding", 0), ("dilation", 1), ("output_padding", 0)):
            own = getattr(self, name)
            if own != (value,) * len(own):
                text += f", {name}={own}"
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += ", bias=False" if self.bias is None else ""
        return text + (f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "")


class _WNConv(_WNConvNd):
    convolve: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Mode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias,
                         padding_mode, device, dtype)  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        return self._with_weights(self._weights(), input)

    def _with_weights(self, weights: Tensor, input: Tensor) -> Tensor:
        self._check_image(input)
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._margins(), mode=self.padding_mode), 0  # type: ignore[assignment]
        return type(self).convolve(input, weights, self.bias, self.stride, padding, self.dilation, self.groups)

    def _margins(self) -> list[int]:
        """Return the widths that ``F.pad`` adds, the last axis first."""
        margins: list[int] = []
        for axis in reversed(range(self.spatial)):
            if isinstance(self.padding, str):
                whole = self.dilation[axis] * (self.kernel_size[axis] - 1) if self.padding == "same" else 0
                margins += [whole // 2, whole - whole // 2]
            else:
                margins += [self.padding[axis]] * 2
        return margins


class _WNConvTranspose(_WNConvNd):
    transposed = True
    convolve: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: Mode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation, groups,
                         bias, padding_mode, device, dtype)  # fmt: skip

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve, to an output of a given size if a stride allows several."""
        return self._with_weights(self._weights(), input, output_size)

    def _with_weights(self, weights: Tensor, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        self._check_image(input)
        extra = self.output_padding if output_size is None else self._output_padding(input, output_size)
        own = (self.stride, self.padding, extra, self.groups, self.dilation)
        return type(self).convolve(input, weights, self.bias, *own)

    def _output_padding(self, x: Tensor, output_size: list[int]) -> tuple[int, ...]:
        """Return the output padding that gives a size."""
        name, sizes = type(self).__name__, tuple(output_size)
        if len(sizes) not in (self.spatial, x.ndim):
            raise ValueError(f"{name}: output_size must have {self.spatial} or {x.ndim} entries, got {len(sizes)}")
        sizes = sizes[-self.spatial :]
        least = tuple(
            (n - 1) * self.stride[axis]
            - 2 * int(self.padding[axis])
            + self.dilation[axis] * (self.kernel_size[axis] - 1)
            + 1
            for axis, n in enumerate(x.shape[-self.spatial :])
        )
        if any(not low <= size < low + step for size, low, step in zip(sizes, least, self.stride, strict=True)):
            most = tuple(low + step - 1 for low, step in zip(least, self.stride, strict=True))
            raise ValueError(
                f"{name}: output_size must be from {least} to {most} for an input of shape {tuple(x.shape)}, "
                f"got {sizes}"
            )
        return tuple(size - low for size, low in zip(sizes, least, strict=True))


class WNConv1d(_WNConv):
    """A convolution over one axis with weight normalisation, a drop-in for ``torch.nn.Conv1d``.

    y[n, j] = b[j] + Σ_c w[j, c] ⋆ x[n, c], w[j] = g[j]·v[j]/‖v[j]‖ over input channels and kernel

    Shape:
        - input: ``(N, C, T)`` or ``(C, T)``
        - output: ``(N, C', T')`` or ``(C', T')``

    State:
        weight_v ``(C', C/groups, K)`` and bias ``(C',)`` from U(−1/√k, 1/√k), k = C/groups·K; weight_g ``(C',)``, ‖v‖.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    spatial = 1
    convolve = F.conv1d


class WNConv2d(_WNConv):
    """A convolution over two axes, ``(N, C, Y, X)`` or ``(C, Y, X)``; a drop-in for ``nn.Conv2d``, see WNConv1d."""

    spatial = 2
    convolve = F.conv2d


class WNConvTranspose1d(_WNConvTranspose):
    """A transposed convolution over one axis, a drop-in for ``torch.nn.ConvTranspose1d``; see :class:`WNConv1d`.

    w[:, j] = g[j]·v[:, j]/‖v[:, j]‖ over the kernel and the input channels of j's group

    Shape:
        - input: ``(N, C, T)`` or ``(C, T)``
        - output_size: ``(T',)`` or the whole shape, to choose among the sizes that the stride allows
        - output: ``(N, C', T')`` or ``(C', T')``

    State:
        weight_v ``(C, C'/groups, K)`` and bias ``(C',)`` from U(−1/√k, 1/√k), k = C'/groups·K; weight_g ``(C',)``, ‖v‖
        of each output channel, group after group.

    Note:
        torch's weight norm has one scale for each input channel unless called with ``dim=1``. Such a checkpoint
        loads, and g then keeps its shape ``(C, 1, 1)`` and its axis.
    """

    spatial = 1
    convolve = F.conv_transpose1d


class WNConvTranspose2d(_WNConvTranspose):
    """A transposed convolution over two axes, a drop-in for ``torch.nn.ConvTranspose2d``; see WNConvTranspose1d."""

    spatial = 2
    convolve = F.conv_transpose2d
