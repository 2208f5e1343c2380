"""Convolutions, plain and transposed, with one scale for each output channel."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.errors import raise_as_torch
from wnseq.nn._arguments import check_int, check_size, check_sizes
from wnseq.nn._linear import _WNLayer

Size = int | tuple[int, ...]  # one number for every axis, or one for each
Axis = int | Literal["out"] | None  # of g: an axis of the weight, none, that of the outputs
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
        dim: Axis,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if self.transposed and padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {name}, got {padding_mode!r}')
        self.groups = groups = check_int(name, "groups", groups)
        if groups <= 0:
            raise ValueError(f"groups must be a positive integer, got {groups} in {name}")
        self.in_channels = in_channels = check_size(name, "in_channels", in_channels)
        self.out_channels = out_channels = check_size(name, "out_channels", out_channels)
        for label, size in (("in_channels", in_channels), ("out_channels", out_channels)):
            if size % groups:
                raise ValueError(f"{label} must be divisible by groups, got {size} and {groups} in {name}")
        self.kernel_size = check_sizes(name, "kernel_size", kernel_size, self.spatial, 1)
        self.stride = check_sizes(name, "stride", stride, self.spatial, 1)
        self.dilation = check_sizes(name, "dilation", dilation, self.spatial, 1)
        self.output_padding = check_sizes(name, "output_padding", output_padding, self.spatial, 0)
        if isinstance(padding, str) and not self.transposed:
            if padding not in _PADDINGS:
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {set(_PADDINGS)} in {name}")
            if padding == "same" and any(step != 1 for step in self.stride):
                raise ValueError(
                    f"padding='same' is not supported for strided convolutions, got {self.stride} in {name}; give "
                    "padding in numbers"
                )
            self.padding = padding
        else:
            self.padding = check_sizes(name, "padding", padding, self.spatial, 0)
        if padding_mode not in _MODES:
            raise ValueError(
                f"padding_mode must be one of {set(_MODES)}, but got padding_mode={padding_mode!r} in {name}"
            )
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        self._register(shape, out_channels, bias, dim, device=device, dtype=dtype)

    def _check_image(self, x: Tensor, run: Callable[[], Any]) -> None:
        if isinstance(x, Tensor) and x.ndim not in (self.spatial + 1, self.spatial + 2):
            raise_as_torch(
                run,
                f"{type(self).__name__}: input must have {self.spatial + 2} axes, or {self.spatial + 1} without a "
                f"batch, got shape {tuple(x.shape)}",
            )
        self._check_input(x, -self.spatial - 1, self.in_channels, "channels", run)

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, value in (("padding", 0), ("dilation", 1), ("output_padding", 0)):
            own = getattr(self, name)
            if own != (value,) * len(own):
                text += f", {name}={own}"
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += ", bias=False" if self.bias is None else ""
        text += f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else ""
        return text + self._describe_g("weight")


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
        *,
        dim: int | None = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias,
                         padding_mode, device, dtype, dim)  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        output: Tensor = self._run(input)
        return output

    def _with_weights(self, weights: Tensor, input: Tensor) -> Tensor:
        def run() -> Tensor:
            x, padding = input, self.padding
            if self.padding_mode != "zeros":
                x, padding = F.pad(input, self._margins(), mode=self.padding_mode), (0,) * self.spatial
            return type(self).convolve(x, weights, self.bias, self.stride, padding, self.dilation, self.groups)

        self._check_image(input, run)
        return run()

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
        *,
        dim: Axis = "out",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation, groups,
                         bias, padding_mode, device, dtype, dim)  # fmt: skip

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve, to an output of a given size if a stride allows several."""
        output: Tensor = self._run(input, output_size)
        return output

    def _with_weights(self, weights: Tensor, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        def run(extra: tuple[int, ...] = self.output_padding) -> Tensor:
            own = (self.stride, self.padding, extra, self.groups, self.dilation)
            return type(self).convolve(input, weights, self.bias, *own)

        self._check_image(input, run)
        return run() if output_size is None else run(self._output_padding(input, output_size))

    def _output_padding(self, x: Tensor, output_size: list[int]) -> tuple[int, ...]:
        """Return the output padding that gives a size."""
        name, sizes = type(self).__name__, tuple(output_size)
        if len(sizes) not in (self.spatial, x.ndim):
            raise ValueError(
                f"ConvTranspose{self.spatial}D: for {x.ndim}D input, output_size must have {self.spatial} or {x.ndim} "
                f"elements (got {len(sizes)}) in {name}"
            )
        sizes = sizes[-self.spatial :]
        least = [
            (n - 1) * self.stride[axis]
            - 2 * int(self.padding[axis])
            + self.dilation[axis] * (self.kernel_size[axis] - 1)
            + 1
            for axis, n in enumerate(x.shape[-self.spatial :])
        ]
        if any(not low <= size < low + step for size, low, step in zip(sizes, least, self.stride, strict=True)):
            most = [low + step - 1 for low, step in zip(least, self.stride, strict=True)]
            raise ValueError(
                f"requested an output size of {type(output_size)(sizes)}, but valid sizes range from {least} to {most} "
                f"(for an input of {x.shape[2:]}) in {name}"
            )
        return tuple(size - low for size, low in zip(sizes, least, strict=True))


class WNConv1d(_WNConv):
    """A convolution over one axis with weight normalisation, a drop-in for ``torch.nn.Conv1d``.

    y[n, j] = b[j] + Σ_c w[j, c] ⋆ x[n, c], w[j] = g[j]·v[j]/‖v[j]‖ over input channels and kernel

    Args:
        dim: Axis of the weight along which g lies, as in torch's ``weight_norm``: 0 for a scale of each output channel,
            1 of each input channel, 2 of each place of the kernel, None for one of the whole weight. g then has torch's
            shape, ``(1, C/groups, 1)``, ``(1, 1, K)`` or ``()``. The other arguments are torch's.

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


class WNConv3d(_WNConv):
    """A convolution over three axes, ``(N, C, Z, Y, X)`` or ``(C, Z, Y, X)``; for ``nn.Conv3d``, see WNConv1d."""

    spatial = 3
    convolve = F.conv3d


class WNConvTranspose1d(_WNConvTranspose):
    """A transposed convolution over one axis, a drop-in for ``torch.nn.ConvTranspose1d``; see :class:`WNConv1d`.

    w[:, j] = g[j]·v[:, j]/‖v[:, j]‖ over the kernel and the input channels of j's group

    Args:
        dim: Axis of the weight along which g lies: by default a scale of each output channel of each group; else as in
            torch's ``weight_norm``, whose own default is 0, a scale of each input channel, and which knows no groups.
            The other arguments are torch's.

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


class WNConvTranspose3d(_WNConvTranspose):
    """A transposed convolution over three axes, a drop-in for ``torch.nn.ConvTranspose3d``; see WNConvTranspose1d."""

    spatial = 3
    convolve = F.conv_transpose3d
