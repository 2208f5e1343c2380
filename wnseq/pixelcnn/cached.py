"""The causal convolutions a row or a pixel at a time, for sampling: each keeps what the next step sees of the last.

Rows are ``(N, W, C)`` and pixels ``(N, C)``, the channels last, so that what a kernel sees lies in one piece and a step
is one matrix product.
"""

from collections import deque
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.pixelcnn.layers import DownRightShiftedConv2d, DownShiftedConv2d, GatedBlock, PixelCNNStage, concat_elu


class RowConv:
    """A down-shifted convolution, one row of images at a time.

    Args:
        layer: The layer; its weights are read once.
        batch: N.
        width: W, columns of the input.

    Shape:
        - row: ``(N, W, C)``
        - output: ``(N, W/s, C')``, rounded up

    Example:
        >>> layer = DownShifted(torch.nn.Conv2d(4, 6, (2, 3)))
        >>> x, step = torch.randn(1, 4, 2, 8), RowConv(layer, 1, 8)
        >>> rows = []
        >>> for row in x.permute(2, 0, 3, 1):
        ...     step.push(row)
        ...     rows.append(step.output())
        >>> torch.testing.assert_close(torch.stack(rows).permute(1, 3, 0, 2), layer(x))
    """

    def __init__(self, layer: DownShiftedConv2d, batch: int, width: int) -> None:
        weight, self.bias = weight_and_bias(layer.conv)
        (self.height, self.width), (_, self.stride) = layer.conv.kernel_size, layer.conv.stride
        self.margins = (0, 0, layer.before, layer.after)
        self.columns = width
        self.weight = weight.permute(2, 3, 1, 0).flatten(0, 2)  # (C', C, K, K) → (K·K·C, C')
        nothing = weight.new_zeros(batch, width + self.width - 1, weight.shape[1])
        self.seen = deque([nothing] * self.height, maxlen=self.height)

    def push(self, row: Tensor) -> None:
        """Take the next row of the input."""
        self.seen.append(F.pad(row, self.margins))

    def output(self) -> Tensor:
        """Compute the row of the output that sees the rows up to the last one pushed."""
        ends = range(self.columns, self.columns + self.width)
        taps = [row[:, end - self.columns : end : self.stride] for row in self.seen for end in ends]
        return torch.cat(taps, 2) @ self.weight + self.bias


class PixelConv:
    """A down-right-shifted convolution, one pixel of each image at a time.

    Args:
        layer: The layer; its weights are read once.
        batch: N.
        width: W, columns of the input.

    Attributes:
        slots: Where the pixel of each column is to be written before an output that sees it is asked for, each
            ``(N, C)``.

    Example:
        >>> layer = DownRightShifted(torch.nn.Conv2d(4, 6, 2))
        >>> x, step, y = torch.randn(1, 4, 2, 8), PixelConv(layer, 1, 8), torch.empty(1, 6, 2, 8)
        >>> with torch.no_grad():
        ...     for row in range(2):
        ...         step.next_row()
        ...         for column in range(8):
        ...             _ = step.slots[column].copy_(x[:, :, row, column])
        ...             y[:, :, row, column] = step.output(column)
        >>> torch.testing.assert_close(y, layer(x))
    """

    def __init__(self, layer: DownRightShiftedConv2d, batch: int, width: int) -> None:
        weight, self.bias = weight_and_bias(layer.conv)
        (height, columns), (_, stride) = layer.conv.kernel_size, layer.conv.stride
        self.weight = weight.permute(3, 2, 1, 0).flatten(0, 2)  # (C', C, K, K) → (K·K·C, C')
        # of each column what the kernel sees, rows from above: a kernel's columns then lie side by side
        self.held = weight.new_zeros(batch, width + layer.before, height, weight.shape[1])
        cell, flat = height * weight.shape[1], self.held.flatten(1)
        self.slots = [self.held[:, column + layer.before, -1] for column in range(width)]
        firsts = range(0, width, stride)
        self.windows = [flat[:, first * cell : (first + columns) * cell] for first in firsts]

    def next_row(self) -> None:
        """Go to the beginning of the next row of the input."""
        if self.held.shape[2] > 1:
            self.held[:, :, :-1] = self.held[:, :, 1:].clone()

    def output(self, column: int, base: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Compute one pixel of the output.

        Args:
            column: Of the output: that of the input, divided by the stride.
            base: What to add in the place of the bias, ``(C',)`` or ``(N, C')``.
            out: Where to write it.

        Returns:
            The pixel, ``(N, C')``.
        """
        return torch.addmm(self.bias if base is None else base, self.windows[column], self.weight, out=out)


class RowTransposed:
    """A down-shifted transposed convolution, one row at a time; each gives the next s rows of the output.

    Args:
        layer: The layer, its kernel as high as its stride.

    Shape:
        - row: ``(N, W, C)``
        - output: s rows, each ``(N, s·W, C')``

    Raises:
        ValueError: The kernel is higher than the stride, so that rows of the output have several rows of the input.
    """

    def __init__(self, layer: DownShiftedConv2d) -> None:
        height, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        if height != stride:
            raise ValueError(f"RowTransposed: the kernel must be as high as the stride {stride}, got {height}")
        self.weight, self.bias = weight_and_bias(layer.conv)
        self.stride, self.after = layer.conv.stride, layer.after

    def __call__(self, row: Tensor) -> tuple[Tensor, ...]:
        """Compute the rows of the output that one row of the input gives."""
        made = F.conv_transpose2d(row.mT.unsqueeze(2), self.weight, self.bias, self.stride)  # (N, C', s, …)
        return made[..., self.after :][..., : self.stride[1] * row.shape[1]].permute(2, 0, 3, 1).unbind()


class PixelTransposed:
    """A down-right-shifted transposed convolution, one pixel at a time; each gives s·s pixels of the output.

    Args:
        layer: The layer, its kernel of the size of its stride; the weights are read once.

    Shape:
        - pixel: ``(N, C)``
        - output: s rows of s pixels, each ``(N, C')``

    Raises:
        ValueError: The kernel is larger than the stride, so that pixels of the output have several of the input.
    """

    def __init__(self, layer: DownRightShiftedConv2d) -> None:
        kernel, stride = layer.conv.kernel_size, layer.conv.stride
        if kernel != stride:
            raise ValueError(f"PixelTransposed: the kernel must be of the size of the stride {stride}, got {kernel}")
        weight, bias = weight_and_bias(layer.conv)
        self.weight = weight.permute(0, 2, 3, 1).flatten(1)  # (C, C', s, s) → (C, s·s·C')
        self.bias = bias.repeat(kernel[0] * kernel[1])
        self.size = (*kernel, -1)

    def __call__(self, pixel: Tensor) -> list[tuple[Tensor, ...]]:
        """Compute the pixels of the output that one pixel of the input gives, row by row."""
        made = torch.addmm(self.bias, pixel, self.weight).view(len(pixel), *self.size)  # (N, s, s, C')
        return [row.unbind(1) for row in made.unbind(1)]


class ConcatELUBuffer:
    """Room for x and −x side by side.

    Args:
        like: A tensor of the device and dtype.
        batch: N.
        maps: F.

    Attributes:
        x: Where x is to be written, ``(N, F)``.
    """

    def __init__(self, like: Tensor, batch: int, maps: int) -> None:
        self.both = like.new_zeros(batch, 2 * maps)
        self.x, self.minus = self.both.chunk(2, 1)

    def elu(self, out: Tensor) -> None:
        """Write elu([x, −x]), ``(N, 2F)``."""
        torch.neg(self.x, out=self.minus)
        torch.ops.aten.elu.out(self.both, out=out)


class RowGated:
    """A gated block of down-shifted convolutions, one row at a time; without dropout.

    Args:
        block: The block.
        batch: N.
        width: W.
        label: Classes, ``(N,)``, if images are conditioned on them.

    Shape:
        - x, each of the shortcuts, and output: ``(N, W, F)``
    """

    def __init__(self, block: GatedBlock, batch: int, width: int, label: Tensor | None = None) -> None:
        self.first, self.second = (RowConv(cast(Any, layer), batch, width) for layer in (block.first, block.second))
        self.side = None if block.side is None else weight_and_bias(block.side)
        self.of_class = None if block.of_class is None else block.of_class(label).unsqueeze(1)

    def __call__(self, x: Tensor, *shortcuts: Tensor) -> Tensor:
        """Add the branch to the next row."""
        self.first.push(concat_elu(x, 2))
        c = self.first.output()
        if self.side is not None:
            weight, bias = self.side
            c = c + F.linear(concat_elu(torch.cat(shortcuts, 2), 2), weight.flatten(1), bias)
        self.second.push(concat_elu(c, 2))
        gates = self.second.output()
        return x + F.glu(gates if self.of_class is None else gates + self.of_class, 2)


class PixelGated:
    """A gated block of down-right-shifted convolutions, one pixel at a time; without dropout.

    Its first shortcut is of a stream that is known a row at a time, a second one, if there is one, of its own.

    Args:
        block: The block.
        batch: N.
        width: W.
        label: Classes, ``(N,)``, if images are conditioned on them.
    """

    def __init__(self, block: GatedBlock, batch: int, width: int, label: Tensor | None = None) -> None:
        self.first, self.second = (PixelConv(cast(Any, layer), batch, width) for layer in (block.first, block.second))
        weight, bias = weight_and_bias(block.side)
        weight, maps = weight.flatten(1).T, len(bias)  # (2F or 4F, F)
        parts = weight.chunk(len(weight) // maps)  # of each shortcut, then of the negative of each
        self.of_row, self.of_skip = (torch.cat(parts[place :: len(parts) // 2]) for place in (0, 1))
        self.bias = self.first.bias + bias
        self.row = weight.new_zeros(batch, width, maps)
        self.bases = self.row.unbind(1)
        self.gates_base = self.second.bias if block.of_class is None else self.second.bias + block.of_class(label)
        self.c, self.gates = ConcatELUBuffer(weight, batch, maps), weight.new_zeros(batch, 2 * maps)

    def begin(self, shortcut: Tensor) -> None:
        """Go to the beginning of the next row, ``(N, W, F)`` of the other stream."""
        self.first.next_row()
        self.second.next_row()
        torch.add(concat_elu(shortcut, 2) @ self.of_row, self.bias, out=self.row)

    def __call__(self, column: int, x: ConcatELUBuffer, skip: Tensor | None = None) -> None:
        """Add the branch to the next pixel.

        Args:
            column: Where it is.
            x: The pixel, written in place. Its elu([x, −x]) from before then stands in ``first.slots[column]``.
            skip: The second shortcut, elu([s, −s]), ``(N, 2F)``.
        """
        x.elu(self.first.slots[column])
        base = self.bases[column]
        if skip is not None:
            base = torch.addmm(base, skip, self.of_skip)
        self.first.output(column, base, self.c.x)
        self.c.elu(self.second.slots[column])
        self.second.output(column, self.gates_base, self.gates)
        x.x.add_(F.glu(self.gates, 1))


class CachedStreams:
    """Two streams, u a row at a time and ul a pixel of each image at a time; without dropout.

    Strided layers, and what lies below, run at every second row and pixel, and what they give is handed out as it is
    asked for.

    Args:
        streams: The layers; their weights are read once.
        batch: N.
        width: W.
        label: Classes, ``(N,)``, if images are conditioned on them.

    Attributes:
        x: The pixel of ul, ``(N, F)``: write it there, call :meth:`pixel`, and read it there.

    Source:
        Ramachandran et al. 2017, arXiv 1704.06001.
    """

    def __init__(self, streams: PixelCNNStage, batch: int, width: int, label: Tensor | None = None) -> None:
        def pairs(blocks: Any) -> list[tuple[RowGated, PixelGated]]:
            return [(RowGated(u, batch, width, label), PixelGated(ul, batch, width, label)) for u, ul in blocks]

        self.down, self.up = pairs(streams.down), pairs(streams.up)
        like = self.down[0][1].row
        self.signed = ConcatELUBuffer(like, batch, like.shape[2])
        self.x = self.signed.x
        self.deeper: CachedStreams | None = None
        if streams.deeper is not None:
            shrink, grow = cast(Any, streams.shrink), cast(Any, streams.grow)
            self.deeper = CachedStreams(streams.deeper, batch, width // 2, label)
            self.shrink = RowConv(shrink[0], batch, width), PixelConv(shrink[1], batch, width)
            self.grow = RowTransposed(grow[0]), PixelTransposed(grow[1])
            self.last = torch.empty_like(self.signed.both)  # elu([x, −x]) of the last block on the way down
            self.grown_rows: tuple[Tensor, ...] = ()
            self.grown: list[list[Tensor]] = [[self.x] * width for _ in range(2)]  # by row and column

    def row(self, row: int, u: Tensor) -> Tensor:
        """Pass the next row of u, which all pixels of its row in ul follow.

        Args:
            row: Its number.
            u: The row, ``(N, W, F)``.

        Returns:
            What has become of it, ``(N, W, F)``.
        """
        skips = [u]
        for above, left in self.down:
            u = above(u)
            left.begin(u)
            skips.append(u)
        if self.deeper is None:
            skips.pop()
        else:
            self.shrink[0].push(u)
            self.shrink[1].next_row()
            if row % 2 == 0:
                self.grown_rows = self.grow[0](self.deeper.row(row // 2, self.shrink[0].output()))
            u = self.grown_rows[row % 2]
        for above, left in self.up:
            u = above(u, skips.pop())
            left.begin(u)
        return u

    def pixel(self, row: int, column: int) -> None:
        """Pass the next pixel of ul, in place.

        Args:
            row: Where it is.
            column: Likewise.
        """
        for _, block in self.down:
            block(column, self.signed)
        skips = [block.first.slots[column] for _, block in self.down]
        if self.deeper is not None:
            self.signed.elu(self.last)
            skips.append(self.last)
            self.shrink[1].slots[column].copy_(self.x)
            if row % 2 == column % 2 == 0:
                self.shrink[1].output(column // 2, out=self.deeper.x)
                self.deeper.pixel(row // 2, column // 2)
                for held, grown in zip(self.grown, self.grow[1](self.deeper.x), strict=True):
                    held[column : column + 2] = grown
            self.x.copy_(self.grown[row % 2][column])
        for _, block in self.up:
            block(column, self.signed, skips.pop())


def weight_and_bias(conv: Any) -> tuple[Tensor, Tensor]:
    """Read the weight of a convolution, composed if it is weight-normalised, and its bias, zero if it has none.

    Args:
        conv: The convolution.
    """
    weight: Tensor = conv.weight.detach().as_subclass(Tensor)
    return weight, weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
