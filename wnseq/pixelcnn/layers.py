"""Convolutions by which a pixel sees only those before it, row by row, each row from the left: shifts, not masks."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def concat_elu(x: Tensor, dim: int = 1) -> Tensor:
    """Compute elu([x, −x]), twice as many channels.

    Args:
        x: Any tensor.
        dim: The axis of the channels.

    Example:
        >>> concat_elu(torch.tensor([[1.0]]))
        tensor([[ 1.0000, -0.6321]])

    Source:
        Shang et al. 2016, arXiv 1603.05201, with the ELU in the place of the ReLU.
    """
    return F.elu(torch.cat((x, -x), dim))


def down_shift(x: Tensor) -> Tensor:
    """Move images down by one row: zeros above, the last row gone. What saw its own row now sees those above.

    Args:
        x: Images.

    Shape:
        - x and output: ``(*, H, W)``
    """
    return F.pad(x[..., :-1, :], (0, 0, 1, 0))


def right_shift(x: Tensor) -> Tensor:
    """Move images right by one column: zeros at the left, the last column gone.

    Args:
        x: Images.

    Shape:
        - x and output: ``(*, H, W)``
    """
    return F.pad(x[..., :-1], (1, 0))


class _ShiftedConv2d(nn.Module):
    """What both kinds share: check of the convolution, padding, cropping."""

    before: int  # columns that the kernel reaches to the left of its own
    after: int  # and to the right

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        name, self.conv = type(self).__name__, cast(Any, conv)
        if len(getattr(conv, "kernel_size", ())) != 2:
            raise TypeError(f"{name}: conv must be a convolution over two axes, plain or transposed, got {conv!r}")
        usual = {"padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1), "groups": 1}
        for argument, value in usual.items():
            if getattr(conv, argument) != value:
                raise ValueError(
                    f"{name}: conv must have {argument} {value}, since what it sees is set here, "
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
        """Convolve; see the class for shapes."""
        above = self.conv.kernel_size[0] - 1
        if not self.conv.transposed:
            made: Tensor = self.conv(F.pad(x, (self.before, self.after, above, 0)))
            return made
        down, right = self.conv.stride
        rows, columns = down * x.shape[-2], right * x.shape[-1]
        return self.conv(x)[..., :rows, self.after : self.after + columns]  # type: ignore[no-any-return]


class DownShiftedConv2d(_ShiftedConv2d):
    """A convolution by which a pixel sees rows up to its own, as far to the left as to the right.

    Plain: zeros above and on both sides, none below. Transposed: the rows beyond the end and both sides are cut off.

    Args:
        conv: An ``nn.Conv2d`` or ``nn.ConvTranspose2d``, weight-normalised or not, without padding, dilation and
            groups, its kernel of odd width. With stride s, output row i sees input rows up to s·i; of a transposed one
            output row i sees input rows up to i/s.

    Shape:
        - input: ``(N, C, H, W)``
        - output: ``(N, C', H/s, W/s)``, rounded up; of a transposed one ``(N, C', s·H, s·W)``

    Raises:
        TypeError: ``conv`` is no convolution over two axes.
        ValueError: It has padding, dilation or groups, an even width, or a kernel that its stride leaps over.

    Example:
        >>> DownShifted(nn.Conv2d(4, 6, (2, 3), stride=2))(torch.randn(1, 4, 8, 8)).shape
        torch.Size([1, 6, 4, 4])

    Source:
        Salimans et al. 2017, arXiv 1701.05517, section 2.3 and its code.
    """

    def _reach(self, width: int) -> tuple[int, int]:
        if width % 2 == 0:
            raise ValueError(f"DownShifted: conv must have a kernel of odd width, got {width}")
        return (width // 2, width // 2)


class DownRightShiftedConv2d(_ShiftedConv2d):
    """A convolution by which a pixel sees rows up to its own, and columns up to its own.

    Plain: zeros above and at the left, none below and at the right. Transposed: what is beyond the end is cut off.

    Args:
        conv: As :class:`DownShifted` takes it, its kernel of any width.

    Shape:
        - input: ``(N, C, H, W)``
        - output: ``(N, C', H/s, W/s)``, rounded up; of a transposed one ``(N, C', s·H, s·W)``

    Raises:
        TypeError: ``conv`` is no convolution over two axes.
        ValueError: It has padding, dilation or groups, or a kernel that its stride leaps over.

    Source:
        Salimans et al. 2017, arXiv 1701.05517, section 2.3 and its code.
    """

    def _reach(self, width: int) -> tuple[int, int]:
        return (width - 1, 0)


class GatedBlock(nn.Module):
    """A gated residual block: it sees what its two convolutions see.

    x + a·σ(b), (a, b) = second(dropout(ψ(first(ψ(x)) + side(ψ(shortcuts))))) + e[class], ψ = :func:`concat_elu`

    Args:
        first: A causal convolution from 2F to F channels.
        second: One from 2F to 2F.
        side: A convolution of one by one from 2F channels a shortcut to F.
        classes: How many, if images are conditioned on one of several; 0 for none.
        dropout: Share of the elements.

    Shape:
        - x, each of the shortcuts, and output: ``(N, F, H, W)``
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
        """Add the branch; see the class for shapes."""
        c = self.first(concat_elu(x))  # (N, F, H, W)
        if self.side is not None:
            c = c + self.side(concat_elu(torch.cat(shortcuts, 1)))
        gates = self.second(self.dropout(concat_elu(c)))  # (N, 2F, H, W)
        if self.of_class is not None:
            gates = gates + self.of_class(label)[:, :, None, None]
        return x + F.glu(gates, 1)


class PixelCNNStage(nn.Module):
    """The blocks of one resolution on the way down, what lies below it, and its blocks on the way up, in two streams.

    Of the stream u a pixel sees what is above it, of ul also what is at its left; ul follows u, never the other way.
    Each block on the way up takes a skip: the input of this, and the output of each block on the way down, the last
    first. Where nothing lies below, the last output has no skip: it is what the way up begins with.

    Args:
        down: Blocks of u without a shortcut and of ul with one, in pairs.
        up: Blocks of u with one and of ul with two, in pairs: as many as those down, one more if anything lies below.
        shrink: The layers of both streams that lead to what lies below.
        deeper: What that is: the two streams at a lower resolution.
        grow: The layers that lead back.
        checkpointing: Whether training keeps only what goes into each block, and computes what is inside once more on
            the way back: the same gradients by less memory and more time.

    Shape:
        - u, ul and both outputs: ``(N, F, H, W)``
        - label: ``(N,)``, int64

    Raises:
        ValueError: There are fewer or more blocks on the way up than skips.

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
        """Pass both streams; see the class for shapes."""
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
        lean = self.checkpointing and self.training
        made: Tensor = checkpoint(block, *args, use_reentrant=False) if lean else block(*args)
        return made
