"""Linear maps and convolutions with weight normalisation: one scale for each output."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.errors import ShapeError
from wnseq.nn._linear import _WNLayer

Mode = Literal["zeros", "reflect", "replicate", "circular"]
_MODES = ("zeros", "reflect", "replicate", "circular")
_PADDINGS = ("same", "valid")


class _WNConvNd(_WNLayer):
    """What the convolutions share: arguments, parameters, representation."""

    transposed = False
    spatial: int
    padding: str | tuple[int, ...]

    def _build(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...],
        padding: str | int | tuple[int, ...],
        output_padding: int | tuple[int, ...],
        dilation: int | tuple[int, ...],
        groups: int,
        bias: bool,
        padding_mode: Mode,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
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
        """Show the arguments as torch does."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {"padding": 0, "dilation": 1, "output_padding": 0}
        for name, value in usual.items():
            own = getattr(self, name)
            if own != (value,) * len(own):
                text += f", {name}={own}"
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += ", bias=False" if self.bias is None else ""
        return text + (f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "")


class _WNConv(_WNConvNd):
    """A convolution, with torch's modes of padding."""

    convolve: Callable[..., Tensor]

    def forward(self, input: Tensor) -> Tensor:
        """Convolve; see the class for shapes."""
        return self._with_weights(self._weights(), input)

    def _with_weights(self, weights: Tensor, input: Tensor) -> Tensor:
        self._check_image(input)
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._margins(), mode=self.padding_mode), 0  # type: ignore[assignment]
        return type(self).convolve(input, weights, self.bias, self.stride, padding, self.dilation, self.groups)

    def _margins(self) -> list[int]:
        """Say how much to add before and after each axis, the last axis first."""
        margins: list[int] = []
        for axis in reversed(range(self.spatial)):
            if isinstance(self.padding, str):
                whole = self.dilation[axis] * (self.kernel_size[axis] - 1) if self.padding == "same" else 0
                margins += [whole // 2, whole - whole // 2]
            else:
                margins += [self.padding[axis]] * 2
        return margins


class _WNConvTranspose(_WNConvNd):
    """A transposed convolution."""

    transposed = True
    convolve: Callable[..., Tensor]

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve; see the class for shapes and ``output_size``."""
        return self._with_weights(self._weights(), input, output_size)

    def _with_weights(self, weights: Tensor, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        self._check_image(input)
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        own = (self.stride, self.padding, extra, self.groups, self.dilation)
        return type(self).convolve(input, weights, self.bias, *own)

    def _extra(self, x: Tensor, output_size: list[int]) -> tuple[int, ...]:
        """Find the output padding that gives the size asked for."""
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

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: K.
        stride: Steps of the kernel.
        padding: Width added at both ends, ``same`` or ``valid``.
        dilation: Distance of the kernel's entries.
        groups: Into how many independent parts the channels fall.
        bias: Whether to add b.
        padding_mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.
        device: Where to put the parameters.
        dtype: What to keep them in.

    Shape:
        - input: ``(N, C_in, T)`` or ``(C_in, T)``
        - output: ``(N, C_out, T')`` or ``(C_out, T')``

    Raises:
        ShapeError: The input has another number of channels or of axes.
        TypeError: The input is no tensor.
        ValueError: The channels are not divisible by groups, or padding or its mode is unknown.

    State:
        weight_v ``(C_out, C_in/groups, K)`` and bias ``(C_out,)`` from U(−1/√k, 1/√k), k = C_in/groups·K, as in torch;
        weight_g ``(C_out,)``, the norms of v.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    spatial = 1
    convolve = F.conv1d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Mode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._build(in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode,
                    device, dtype)  # fmt: skip


class WNConv2d(_WNConv):
    """A convolution over two axes with weight normalisation, a drop-in for ``torch.nn.Conv2d``.

    y[n, j] = b[j] + Σ_c w[j, c] ⋆ x[n, c], w[j] = g[j]·v[j]/‖v[j]‖ over input channels and kernel

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: K, one number for both axes or a pair.
        stride: Steps of the kernel, likewise.
        padding: Width added at both ends, likewise; or ``same`` or ``valid``.
        dilation: Distance of the kernel's entries, likewise.
        groups: Into how many independent parts the channels fall.
        bias: Whether to add b.
        padding_mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.
        device: Where to put the parameters.
        dtype: What to keep them in.

    Shape:
        - input: ``(N, C_in, Y, X)`` or ``(C_in, Y, X)``
        - output: ``(N, C_out, Y', X')`` or ``(C_out, Y', X')``

    Raises:
        ShapeError: The input has another number of channels or of axes.
        TypeError: The input is no tensor.
        ValueError: The channels are not divisible by groups, or padding or its mode is unknown.

    State:
        weight_v ``(C_out, C_in/groups, K, K)`` and bias ``(C_out,)`` from U(−1/√k, 1/√k), k = C_in/groups·K·K, as in
        torch; weight_g ``(C_out,)``, the norms of v.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    spatial = 2
    convolve = F.conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Mode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._build(in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode,
                    device, dtype)  # fmt: skip


class WNConvTranspose1d(_WNConvTranspose):
    """A transposed convolution over one axis with weight normalisation, a drop-in for ``torch.nn.ConvTranspose1d``.

    The transpose of a convolution; w[:, j] = g[j]·v[:, j]/‖v[:, j]‖ over the input channels of j's group and the kernel

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: K.
        stride: Distance at which the entries of the input are laid.
        padding: Width taken off at both ends.
        output_padding: Width added at the far end.
        groups: Into how many independent parts the channels fall.
        bias: Whether to add b.
        dilation: Distance of the kernel's entries.
        padding_mode: ``zeros`` alone.
        device: Where to put the parameters.
        dtype: What to keep them in.

    Shape:
        - input: ``(N, C_in, T)`` or ``(C_in, T)``
        - output_size: ``(T',)`` or the whole shape, to choose among the sizes that a stride allows
        - output: ``(N, C_out, T')`` or ``(C_out, T')``

    Raises:
        ShapeError: The input has another number of channels or of axes.
        TypeError: The input is no tensor, or the padding is a word.
        ValueError: The channels are not divisible by groups, the padding has a mode, or no output has the size asked
            for.

    State:
        weight_v ``(C_in, C_out/groups, K)`` and bias ``(C_out,)`` from U(−1/√k, 1/√k), k = C_out/groups·K, as in torch;
        weight_g ``(C_out,)``, the norms of v for each output channel, group after group.

    Note:
        Torch's weight norm has one scale for each input channel here, unless it is told ``dim=1``. Such a checkpoint
        loads, and g then keeps its shape ``(C_in, 1, 1)`` and its axis.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    spatial = 1
    convolve = F.conv_transpose1d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] = 0,
        output_padding: int | tuple[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int] = 1,
        padding_mode: Mode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._build(in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias,
                    padding_mode, device, dtype)  # fmt: skip


class WNConvTranspose2d(_WNConvTranspose):
    """A transposed convolution over two axes with weight normalisation, a drop-in for ``torch.nn.ConvTranspose2d``.

    The transpose of a convolution; w[:, j] = g[j]·v[:, j]/‖v[:, j]‖ over the input channels of j's group and the kernel

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: K, one number for both axes or a pair.
        stride: Distance at which the entries of the input are laid, likewise.
        padding: Width taken off at both ends, likewise.
        output_padding: Width added at the far end, likewise.
        groups: Into how many independent parts the channels fall.
        bias: Whether to add b.
        dilation: Distance of the kernel's entries, likewise.
        padding_mode: ``zeros`` alone.
        device: Where to put the parameters.
        dtype: What to keep them in.

    Shape:
        - input: ``(N, C_in, Y, X)`` or ``(C_in, Y, X)``
        - output_size: ``(Y', X')`` or the whole shape, to choose among the sizes that a stride allows
        - output: ``(N, C_out, Y', X')`` or ``(C_out, Y', X')``

    Raises:
        ShapeError: The input has another number of channels or of axes.
        TypeError: The input is no tensor, or the padding is a word.
        ValueError: The channels are not divisible by groups, the padding has a mode, or no output has the size asked
            for.

    State:
        weight_v ``(C_in, C_out/groups, K, K)`` and bias ``(C_out,)`` from U(−1/√k, 1/√k), k = C_out/groups·K·K, as in
        torch; weight_g ``(C_out,)``, the norms of v for each output channel, group after group.

    Note:
        Torch's weight norm has one scale for each input channel here, unless it is told ``dim=1``. Such a checkpoint
        loads, and g then keeps its shape ``(C_in, 1, 1, 1)`` and its axis.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    spatial = 2
    convolve = F.conv_transpose2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: Mode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._build(in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias,
                    padding_mode, device, dtype)  # fmt: skip
