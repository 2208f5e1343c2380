"""Causal convolutions over images, by shifts instead of masks: a pixel sees those before it in raster order."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def concat_elu(x: Tensor, dim: int = 1) -> Tensor:
    """Compute elu([x, −x]), twice as many channels, along the axis ``dim`` (Shang et al. 2016, arXiv 1603.05201)."""
    return F.elu(torch.cat((x, -x), dim))


def down_shift(x: Tensor) -> Tensor:
    """Shift images ``(*, H, W)`` down by one row, with zeros above; the last row is cut off."""
    return F.pad(x[..., :-1, :], (0, 0, 1, 0))


def right_shift(x: Tensor) -> Tensor:
    """Shift images ``(*, H, W)`` right by one column, with zeros at the left; the last column is cut off."""
    return F.pad(x[..., :-1], (1, 0))


class _ShiftedConv2d(nn.Module):
    """A causal convolution: it pads or crops so that ``before`` and ``after`` are the columns seen at both sides."""

    before: int  # columns to the left of its own that the kernel reaches
    after: int  # and to the right

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        name, self.conv = type(self).__name__, cast(Any, conv)
        if len(getattr(conv, "kernel_size", ())) != 2:
            raise TypeError(f"{name}: conv must be a convolution over two axes, plain or transposed, got {conv!r}")
        required = {"padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1), "groups": 1}
        for argument, value in required.items():
            if getattr(conv, argument) != value:
                raise ValueError(
                    f"{name}: conv must have {argument} {value}, since {name} sets which pixels it sees, "
                    f"got {getattr(conv, argument)}"
                )
        (height, width), (down, right) = self.conv.kernel_size, self.conv.stride
        self.before, self.after = self._reach(width)
        if self.conv.transposed and (height < down or width < right + self.after):
            raise ValueError(
                f"{name}: a transposed convolution of stride {(down, right)} needs a kernel of at least "
                f"{(down, right + self.after)}, so that every output is reached, got {(height, width)}"
            )

    def _reach(self, width: int) -> tuple[int, int]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        above = self.conv.kernel_size[0] - 1
        if not self.conv.transposed:
            y: Tensor = self.conv(F.pad(x, (self.before, self.after, above, 0)))
            return y
        down, right = self.conv.stride
        rows, columns = down * x.shape[-2], right * x.shape[-1]
        return self.conv(x)[..., :rows, self.after : self.after + columns]  # type: ignore[no-any-return]


class DownShiftedConv2d(_ShiftedConv2d):
    """A convolution in which a pixel sees rows up to its own, as far to the left as to the right.

    Args:
        conv: A plain or transposed convolution over two axes, weight-normalised or not, without padding, dilation and
            groups; its kernel is of odd width and, if transposed, no smaller than its stride s. Row i of the output
            sees rows of the input up to s·i, of a transposed one up to i/s.

    Shape:
        - input: ``(N, C, H, W)``
        - output: ``(N, C', H/s, W/s)``, rounded up; of a transposed one ``(N, C', s·H, s·W)``

    Source:
        Salimans et al. 2017, arXiv 1701.05517, section 2.3 and its code.
    """

    def _reach(self, width: int) -> tuple[int, int]:
        if width % 2 == 0:
            raise ValueError(f"DownShiftedConv2d: conv must have a kernel of odd width, got {width}")
        return (width // 2, width // 2)


class DownRightShiftedConv2d(_ShiftedConv2d):
    """A convolution in which a pixel sees rows and columns up to its own; as DownShiftedConv2d, but of any width."""

    def _reach(self, width: int) -> tuple[int, int]:
        return (width - 1, 0)


class GatedBlock(nn.Module):
    """A gated residual block: a pixel sees what its two convolutions see.

    x + a·σ(b), (a, b) = second(dropout(ψ(first(ψ(x)) + side(ψ(shortcuts))))) + e[class], ψ = :func:`concat_elu`

    Args:
        first: A causal convolution from 2F to F channels.
        second: A causal convolution from 2F to 2F channels.
        side: A convolution of one by one from 2F channels for each shortcut to F.
        classes: Number of classes on which images are conditioned; 0 for none.
        dropout: Probability of a zero.

    Shape:
        - x, each shortcut, and output: ``(N, F, H, W)``
        - label: ``(N,)``, int64

    State:
        of_class.weight ``(classes, 2F)``, e, from N(0, 0.05²).

    Source:
        Salimans et al. 2017, arXiv 1701.05517; van den Oord et al. 2016, arXiv 1606.05328.
    """

    def __init__(
        self, first: nn.Module, second: nn.Module, side: nn.Module | None = None, classes: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.first = first
        self.side = side
        self.dropout = nn.Dropout(dropout)
        self.second = second
        self.of_class = nn.Embedding(classes, second.conv.out_channels) if classes else None  # type: ignore[union-attr, arg-type]
        if self.of_class is not None:
            nn.init.normal_(self.of_class.weight, 0, 0.05)

    def forward(self, x: Tensor, label: Tensor | None, *shortcuts: Tensor) -> Tensor:
        """Add the gated branch to x."""
        c = self.first(concat_elu(x))  # (N, F, H, W)
        if self.side is not None:
            c = c + self.side(concat_elu(torch.cat(shortcuts, 1)))
        gates = self.second(self.dropout(concat_elu(c)))  # (N, 2F, H, W)
        if self.of_class is not None:
            gates = gates + self.of_class(label)[:, :, None, None]
        return x + F.glu(gates, 1)


class PixelCNNStage(nn.Module):
    """The blocks of one resolution in both streams: downward, a deeper stage if there is one, and upward.

    In the stream u a pixel sees what is above it, in ul also what is at its left; ul depends on u, never the reverse.
    Each upward block takes a skip: the input of the stage and the output of each downward block, last first. Without a
    deeper stage the last downward output is no skip but the input of the upward blocks.

    Args:
        down: Pairs of blocks, of u without a shortcut and of ul with one.
        up: Pairs of blocks, of u with one shortcut and of ul with two: one pair for each skip.
        shrink: The layers of both streams before the deeper stage.
        deeper: The stage of half the resolution.
        grow: The layers of both streams after it.
        checkpointing: Whether training recomputes each block in the backward, for less memory.

    Shape:
        - u, ul and both outputs: ``(N, F, H, W)``
        - label: ``(N,)``, int64

    Source:
        Salimans et al. 2017, arXiv 1701.05517, figure 2.
    """

    def __init__(
        self,
        down: Sequence[tuple[GatedBlock, GatedBlock]],
        up: Sequence[tuple[GatedBlock, GatedBlock]],
        shrink: Sequence[nn.Module] = (),
        deeper: "PixelCNNStage | None" = None,
        grow: Sequence[nn.Module] = (),
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        skips = len(down) + (deeper is not None)
        if len(up) != skips:
            raise ValueError(f"PixelCNNStage: up must have a pair for each of {skips} skips, got {len(up)}")
        self.checkpointing = checkpointing
        self.down: Any = nn.ModuleList(nn.ModuleList(pair) for pair in down)
        self.shrink = nn.ModuleList(shrink)
        self.deeper = deeper
        self.grow = nn.ModuleList(grow)
        self.up: Any = nn.ModuleList(nn.ModuleList(pair) for pair in up)

    def forward(self, u: Tensor, ul: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run both streams."""
        skips = [(u, ul)]
        for above, left in self.down:
            u = self._run(above, u, label)
            ul = self._run(left, ul, label, u)
            skips.append((u, ul))
        if self.deeper is None:
            skips.pop()
        else:
            inner = (shrink(x) for shrink, x in zip(self.shrink, (u, ul), strict=True))
            u, ul = (grow(x) for grow, x in zip(self.grow, self.deeper(*inner, label), strict=True))
        for above, left in self.up:
            skip_u, skip_ul = skips.pop()
            u = self._run(above, u, label, skip_u)
            ul = self._run(left, ul, label, u, skip_ul)
        return u, ul

    def _run(self, block: nn.Module, *args: Tensor | None) -> Tensor:
        recompute = self.checkpointing and self.training
        y: Tensor = checkpoint(block, *args, use_reentrant=False) if recompute else block(*args)
        return y
