"""A stream of tokens cut into windows for truncated back-propagation through time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wnseq.data.text.encoding import Ids

IGNORE = -100  # a target where nothing is to be predicted; cross_entropy's default
Cuts = Sequence[int] | npt.NDArray[np.int64]


class TextBatch(NamedTuple):
    """One step's batch.

    Args:
        inputs: token ids.
        targets: token ids, each the one that follows its input; ``IGNORE`` where nothing is to be predicted.
        fresh: True: start from the zero state; False: go on from the final state of the window before.

    Shape:
        - inputs, targets: ``(T, N)``, int64
    """

    inputs: Tensor
    targets: Tensor
    fresh: bool


def shard(count: int, part: tuple[int, int]) -> slice:
    """Return which of so many columns one of several processes reads.

    Args:
        count: of all columns.
        part: the rank of the process, and the number of processes.

    Example:
        >>> share(10, (0, 4)), share(10, (1, 4))
        (slice(0, 2, None), slice(2, 5, None))
    """
    rank, processes = part
    return slice(rank * count // processes, (rank + 1) * count // processes)


class Streams:
    """A token stream laid out as N contiguous columns, read side by side from top to bottom.

    Every token is a target exactly once; its input is the token before it in the stream, ``start`` for the first. With
    R = ⌈tokens / N⌉ rows the first columns are R long and the others R − 1, so that at most the last row is padded.

    Args:
        tokens: the stream.
        columns: N.
        start: the id put before the first token.
        trim: drop the last tokens instead of padding: R = ⌊tokens / N⌋ (training).
        part: keep the neighbouring columns of one of several processes, see ``share``; R stays that of all.
    """

    def __init__(
        self, tokens: Ids, columns: int, start: int, *, trim: bool = False, part: tuple[int, int] = (0, 1)
    ) -> None:
        self.tokens = tokens
        self.start = start
        short, longer = divmod(len(tokens), columns)
        lengths = np.full(columns, short)
        if not trim:
            lengths[:longer] += 1
        own = shard(columns, part)
        self.lengths = lengths[own]
        self.offsets = (np.cumsum(lengths) - lengths)[own]
        self.rows = int(lengths.max())

    def window(self, top: int, bottom: int, *, fresh: bool) -> TextBatch:
        """Return the rows from ``top`` to ``bottom``."""
        row = np.arange(top - 1, bottom)[:, None]  # (T+1, 1): the inputs begin one row above the targets
        places = np.minimum(self.offsets + row, len(self.tokens) - 1)  # (T+1, N)
        ids = self.tokens[places].astype(np.int64)
        ids[places < 0] = self.start
        targets = ids[1:].copy()
        targets[row[1:] >= self.lengths] = IGNORE
        return TextBatch(torch.from_numpy(ids[:-1]), torch.from_numpy(targets), fresh)

    def windows(self, cuts: Cuts, first: int = 0) -> Iterator[TextBatch]:
        """Yield the windows between consecutive cuts, from the ``first`` one on; the topmost is fresh."""
        for index in range(first, len(cuts) - 1):
            yield self.window(int(cuts[index]), int(cuts[index + 1]), fresh=index == 0)


def fixed_cuts(rows: int, window: int) -> list[int]:
    """Return where windows of one length begin and end; the last may be shorter."""
    return [*range(0, rows, window), rows]


def random_cuts(rows: int, window: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return where windows of random lengths begin and end.

    The length is drawn from a normal distribution around ``window``, or around half of it in one case of twenty, with
    deviation 5 and at least 5, so that the same tokens do not meet the same edges in each epoch.

    Args:
        rows: of the columns.
        window: mean length.
        seed: of the draw, together with the epoch: what was drawn can be drawn again after a restart.
        epoch: counts from 0.

    Note:
        Merity et al. draw until the text ends, which makes epochs of different numbers of windows. Lightning asks for
        that number once, so here it is fixed, and the lengths are scaled by the little that makes them fit.

    Source:
        Merity, Keskar, Socher 2017, arXiv 1708.02182, section 5.
    """
    count = -(-rows // max(int(0.975 * window), 1))
    generator = np.random.default_rng((seed, epoch))
    base = np.where(generator.random(count) < 0.95, window, window / 2)
    edges = np.cumsum(np.maximum(generator.normal(base, 5).astype(np.int64), 5))
    return np.concatenate(([0], np.rint(edges * (rows / edges[-1])).astype(np.int64)))


class StreamLoader:
    """Evaluation with an unbroken state: columns read from top to bottom in windows of one length.

    Args:
        columns: the stream.
        window: rows a window.
    """

    def __init__(self, columns: Streams, window: int) -> None:
        self.columns = columns
        self.cuts = fixed_cuts(columns.rows, window)

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[TextBatch]:
        return self.columns.windows(self.cuts)


class ColdLoader:
    """Evaluation on consecutive independent windows, each from the zero state, as nanoGPT's figures are measured.

    Args:
        tokens: the stream.
        window: tokens a window; every token is a target once, the first of a window after the last of the one before.
        batch_size: windows at once.
        start: the id put before the first token.
        part: of each batch keep the windows of one of several processes, see ``share``.
    """

    def __init__(
        self, tokens: Ids, window: int, batch_size: int, start: int, *, part: tuple[int, int] = (0, 1)
    ) -> None:
        self.tokens = tokens
        self.window = window
        self.batch_size = batch_size
        self.start = start
        self.own = shard(batch_size, part)

    def __len__(self) -> int:
        return -(-len(self.tokens) // (self.window * self.batch_size))

    def __iter__(self) -> Iterator[TextBatch]:
        for index in range(len(self)):
            first = index * self.window * self.batch_size
            last = min(first + self.window * self.batch_size, len(self.tokens))
            offsets = np.arange(first, last, self.window)[self.own]  # (N,)
            places = offsets + np.arange(-1, self.window)[:, None]  # (T+1, N)
            ids = self.tokens[np.minimum(places, len(self.tokens) - 1)].astype(np.int64)
            ids[places < 0] = self.start
            targets = np.where(places[1:] < len(self.tokens), ids[1:], IGNORE)
            yield TextBatch(torch.from_numpy(ids[:-1]), torch.from_numpy(targets), fresh=True)
