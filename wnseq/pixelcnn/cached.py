"""The causal layers for sampling, one row or pixel at a time: each caches what the next step needs of the last.

Rows are ``(N, W, C)`` and pixels ``(N, C)``, channels last, so that a kernel's input is contiguous and a step is one
matrix product. Weights are read once, when a layer is made.
"""

from collections import deque
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.pixelcnn.layers import DownRightShiftedConv2d, DownShiftedConv2d, GatedBlock, PixelCNNStage, concat_elu


class RowConv:
    """A down-shifted convolution by rows ``(N, W, C)``; its output rows are ``(N, W/s, C')``, rounded up."""

    def __init__(self, layer: DownShiftedConv2d, batch: int, width: int) -> None:
        weight, self.bias = weight_and_bias(layer.conv)
        (self.height, self.width), (_, self.stride) = layer.conv.kernel_size, layer.conv.stride
        self.margins = (0, 0, layer.before, layer.after)
        self.columns = width
        self.weight = weight.permute(2, 3, 1, 0).flatten(0, 2)  # (C', C, K, K) → (K·K·C, C')
        zeros = weight.new_zeros(batch, width + self.width - 1, weight.shape[1])
        self.seen = deque([zeros] * self.height, maxlen=self.height)

    def push(self, row: Tensor) -> None:
        """Append the next row of the input."""
        self.seen.append(F.pad(row, self.margins))

    def output(self) -> Tensor:
        """Compute the output row that sees the input up to the last pushed row."""
        ends = range(self.columns, self.columns + self.width)
        taps = [row[:, end - self.columns : end : self.stride] for row in self.seen for end in ends]
        return torch.cat(taps, 2) @ self.weight + self.bias


class PixelConv:
    """A down-right-shifted convolution by pixels.

    Write the input pixel of each column, ``(N, C)``, into ``slots[column]`` before computing an output that sees it.
    """

    def __init__(self, layer: DownRightShiftedConv2d, batch: int, width: int) -> None:
        weight, self.bias = weight_and_bias(layer.conv)
        (height, columns), (_, stride) = layer.conv.kernel_size, layer.conv.stride
        self.weight = weight.permute(3, 2, 1, 0).flatten(0, 2)  # (C', C, K, K) → (K·K·C, C')
        # for each column the rows that the kernel sees, so that the columns of a kernel are contiguous
        self.held = weight.new_zeros(batch, width + layer.before, height, weight.shape[1])
        cell, flat = height * weight.shape[1], self.held.flatten(1)
        self.slots = [self.held[:, column + layer.before, -1] for column in range(width)]
        firsts = range(0, width, stride)
        self.windows = [flat[:, first * cell : (first + columns) * cell] for first in firsts]

    def next_row(self) -> None:
        """Advance to the next row of the input."""
        if self.held.shape[2] > 1:
            self.held[:, :, :-1] = self.held[:, :, 1:].clone()

    def output(self, column: int, base: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Compute one output pixel, ``(N, C')``, into ``out`` if it is given.

        ``column`` is the output's: the input's divided by the stride. ``base``, ``(C',)`` or ``(N, C')``, is added
        instead of the bias.
        """
        return torch.addmm(self.bias if base is None else base, self.windows[column], self.weight, out=out)


class RowTransposed:
    """A down-shifted transposed convolution, as high as its stride, by rows: ``(N, W, C)`` to s of ``(N, s·W, C')``."""

    def __init__(self, layer: DownShiftedConv2d) -> None:
        height, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        if height != stride:
            raise ValueError(f"RowTransposed: the kernel must be as high as the stride {stride}, got {height}")
        self.weight, self.bias = weight_and_bias(layer.conv)
        self.stride, self.after = layer.conv.stride, layer.after

    def __call__(self, row: Tensor) -> tuple[Tensor, ...]:
        """Compute the output rows of one input row."""
        made = F.conv_transpose2d(row.mT.unsqueeze(2), self.weight, self.bias, self.stride)  # (N, C', s, …)
        return made[..., self.after :][..., : self.stride[1] * row.shape[1]].permute(2, 0, 3, 1).unbind()


class PixelTransposed:
    """A down-right-shifted transposed convolution, of its stride's size, by pixels: ``(N, C)`` to s·s ``(N, C')``."""

    def __init__(self, layer: DownRightShiftedConv2d) -> None:
        kernel, stride = layer.conv.kernel_size, layer.conv.stride
        if kernel != stride:
            raise ValueError(f"PixelTransposed: the kernel must be of the size of the stride {stride}, got {kernel}")
        weight, bias = weight_and_bias(layer.conv)
        self.weight = weight.permute(0, 2, 3, 1).flatten(1)  # (C, C', s, s) → (C, s·s·C')
        self.bias = bias.repeat(kernel[0] * kernel[1])
        self.size = (*kernel, -1)

    def __call__(self, pixel: Tensor) -> list[tuple[Tensor, ...]]:
        """Compute the output pixels of one input pixel, row by row."""
        made = torch.addmm(self.bias, pixel, self.weight).view(len(pixel), *self.size)  # (N, s, s, C')
        return [row.unbind(1) for row in made.unbind(1)]


class ConcatELUBuffer:
    """A buffer for x, ``(N, F)``, and −x: write into ``x``, then call :meth:`elu`. ``like`` gives device and dtype."""

    def __init__(self, like: Tensor, batch: int, channels: int) -> None:
        self.both = like.new_zeros(batch, 2 * channels)
        self.x, self.minus = self.both.chunk(2, 1)

    def elu(self, out: Tensor) -> None:
        """Write elu([x, −x]), ``(N, 2F)``, into ``out``."""
        torch.neg(self.x, out=self.minus)
        torch.ops.aten.elu.out(self.both, out=out)


class RowGated:
    """A gated block of down-shifted convolutions by rows ``(N, W, F)``, without dropout; ``label`` as of GatedBlock."""

    def __init__(self, block: GatedBlock, batch: int, width: int, label: Tensor | None = None) -> None:
        self.first, self.second = (RowConv(cast(Any, layer), batch, width) for layer in (block.first, block.second))
        self.side = None if block.side is None else weight_and_bias(block.side)
        self.of_class = None if block.of_class is None else block.of_class(label).unsqueeze(1)

    def __call__(self, x: Tensor, *shortcuts: Tensor) -> Tensor:
        """Add the gated branch to the next row."""
        self.first.push(concat_elu(x, 2))
        c = self.first.output()
        if self.side is not None:
            weight, bias = self.side
            c = c + F.linear(concat_elu(torch.cat(shortcuts, 2), 2), weight.flatten(1), bias)
        self.second.push(concat_elu(c, 2))
        gates = self.second.output()
        return x + F.glu(gates if self.of_class is None else gates + self.of_class, 2)


class PixelGated:
    """A gated block of down-right-shifted convolutions by pixels, without dropout; ``label`` as of GatedBlock.

    Its first shortcut is of the stream u, known a row at a time; a second one is of its own stream.
    """

    def __init__(self, block: GatedBlock, batch: int, width: int, label: Tensor | None = None) -> None:
        self.first, self.second = (PixelConv(cast(Any, layer), batch, width) for layer in (block.first, block.second))
        weight, bias = weight_and_bias(block.side)
        weight, channels = weight.flatten(1).T, len(bias)  # (2F or 4F, F)
        parts = weight.chunk(len(weight) // channels)  # of each shortcut, then of the negative of each
        self.of_row, self.of_skip = (torch.cat(parts[place :: len(parts) // 2]) for place in (0, 1))
        self.bias = self.first.bias + bias
        self.row = weight.new_zeros(batch, width, channels)
        self.bases = self.row.unbind(1)
        self.gates_base = self.second.bias if block.of_class is None else self.second.bias + block.of_class(label)
        self.c, self.gates = ConcatELUBuffer(weight, batch, channels), weight.new_zeros(batch, 2 * channels)

    def begin(self, shortcut: Tensor) -> None:
        """Advance to the next row, given the row ``(N, W, F)`` of u."""
        self.first.next_row()
        self.second.next_row()
        torch.add(concat_elu(shortcut, 2) @ self.of_row, self.bias, out=self.row)

    def __call__(self, column: int, x: ConcatELUBuffer, skip: Tensor | None = None) -> None:
        """Add the gated branch to the pixel of a column, in place.

        Its elu([x, −x]) from before is then in ``first.slots[column]``. ``skip`` is the second shortcut, elu([s, −s]).
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
    """A PixelCNNStage without dropout: u a row at a time and ul a pixel at a time.

    Write the pixel of ul, ``(N, F)``, into ``x``, call :meth:`pixel`, and read it there. Strided layers and the deeper
    stage run at every second row and pixel.

    Source:
        Ramachandran et al. 2017, arXiv 1704.06001.
    """

    def __init__(self, stage: PixelCNNStage, batch: int, width: int, label: Tensor | None = None) -> None:
        def pairs(blocks: Any) -> list[tuple[RowGated, PixelGated]]:
            return [(RowGated(u, batch, width, label), PixelGated(ul, batch, width, label)) for u, ul in blocks]

        self.down, self.up = pairs(stage.down), pairs(stage.up)
        like = self.down[0][1].row
        self.signed = ConcatELUBuffer(like, batch, like.shape[2])
        self.x = self.signed.x
        self.deeper: CachedStreams | None = None
        if stage.deeper is not None:
            shrink, grow = cast(Any, stage.shrink), cast(Any, stage.grow)
            self.deeper = CachedStreams(stage.deeper, batch, width // 2, label)
            self.shrink = RowConv(shrink[0], batch, width), PixelConv(shrink[1], batch, width)
            self.grow = RowTransposed(grow[0]), PixelTransposed(grow[1])
            self.last = torch.empty_like(self.signed.both)  # elu([x, −x]) of the last block on the way down
            self.grown_rows: tuple[Tensor, ...] = ()
            self.grown: list[list[Tensor]] = [[self.x] * width for _ in range(2)]  # by row and column

    def row(self, row: int, u: Tensor) -> Tensor:
        """Run the next row of u, ``(N, W, F)``, before the pixels of that row in ul; return its output."""
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
        """Run the next pixel of ul, in place."""
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
    """Return the composed weight of a convolution and its bias, zeros if it has none, both detached."""
    weight: Tensor = conv.weight.detach().as_subclass(Tensor)
    return weight, weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
