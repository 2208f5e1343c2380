"""A stream of tokens cut into batches for truncated back-propagation through time."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wnseq.data.text.encoding import Counts, Ids, encode_text
from wnseq.data.text.tokenizer import Tokenizer

IGNORE = -100  # a target where nothing is predicted; cross_entropy's default
BLANK_LINES_UNSEEN = ("\r\n\r\n", "\r\r")  # between documents, by all tokenizers but those of words
Cuts = Sequence[int] | npt.NDArray[np.int64]


class TextBatch(NamedTuple):
    """One step's batch.

    Args:
        inputs: Token ids.
        targets: Token ids, each the one that follows its input; ``IGNORE`` where nothing is predicted.
        reset_state: True: start from the zero state; False: from the final state of the batch before.
        reset: True at the input that ends a blank line, so that the state is zero before it; None to reset nowhere.

    Shape:
        - inputs, targets: ``(T, N)``, int64; reset: ``(T, N)``, bool
    """

    inputs: Tensor
    targets: Tensor
    reset_state: bool
    reset: Tensor | None = None


def shard(number: int, rank_and_world_size: tuple[int, int]) -> slice:
    """Return which of ``number`` streams a process reads.

    Example:
        >>> shard(10, (0, 4)), shard(10, (1, 4))
        (slice(0, 2, None), slice(2, 5, None))
    """
    rank, world_size = rank_and_world_size
    return slice(rank * number // world_size, (rank + 1) * number // world_size)


def _ids(tokens: Ids, places: npt.NDArray[np.int64], start: int) -> npt.NDArray[np.int64]:
    """Return the ids at places of a text; before it are ``start``, after it its last one."""
    ids = tokens[np.clip(places, 0, len(tokens) - 1)].astype(np.int64)
    ids[places < 0] = start
    return ids


def ends_blank_line(before: Any, ids: Any, end: int) -> Any:
    """Return True where an id ends a blank line: the input before a document, as ``start`` is that before a text.

    What follows does not count, since the model would read its target off the state.

    Args:
        before: The ids one place before, an array or a tensor as ``ids``.
        ids: Ids of tokens.
        end: The id of the end of a line.
    """
    return (before == end) & (ids == end)


def _make_batch(
    tokens: Ids,
    places: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64] | int,
    start: int,
    documents: bool,
    reset_state: bool,
) -> TextBatch:
    """Return the batch of the tokens at places, ``(T+1, N)``, of which those from ``ends`` on are no targets."""
    ids = _ids(tokens, places, start)
    targets = np.where(places[1:] < ends, ids[1:], IGNORE)
    reset = None
    if documents:
        reset = torch.from_numpy(ends_blank_line(_ids(tokens, places[:-1] - 1, start), ids[:-1], start))
    return TextBatch(torch.from_numpy(ids[:-1]), torch.from_numpy(targets), reset_state, reset)


def count_documents(tokens: Ids, start: int) -> int:
    """Return how many documents a text has that are more than line ends, if it has any: one, and one a blank line."""
    ids = np.asarray(tokens)
    return 1 + int((ends_blank_line(ids[:-2], ids[1:-1], start) & (ids[2:] != start)).sum())


class Streams:
    """A text's tokens laid out as N contiguous streams, read side by side.

    Every token is a target exactly once; its input is the token before it in the text, ``start`` for the first. The
    streams have R = ⌈tokens / N⌉ rows: the first are R tokens long, the others R − 1, and at most the last row is
    padded.

    Args:
        tokens: The ids of the text.
        num_streams: N.
        start: The id before the first token.
        trim: Whether to drop the last tokens instead of padding: R = ⌊tokens / N⌋ (training).
        documents: Whether the state is reset where a document begins, after a blank line.
        rank_and_world_size: Keep this process's ``shard`` of the streams; R stays that of all.
    """

    def __init__(
        self,
        tokens: Ids,
        num_streams: int,
        start: int,
        *,
        trim: bool = False,
        documents: bool = False,
        rank_and_world_size: tuple[int, int] = (0, 1),
    ) -> None:
        self.tokens = tokens
        self.start = start
        self.documents = documents
        short, longer = divmod(len(tokens), num_streams)
        lengths = np.full(num_streams, short)
        if not trim:
            lengths[:longer] += 1
        self.num_streams, self.own = num_streams, shard(num_streams, rank_and_world_size)
        self.lengths = lengths[self.own]
        self.offsets = (np.cumsum(lengths) - lengths)[self.own]
        self.rows = int(lengths.max())

    def batch(self, top: int, bottom: int, *, reset_state: bool, turns: Ids | None = None) -> TextBatch:
        """Return the rows from ``top`` to ``bottom``, of streams that begin ``turns`` tokens late and go round."""
        row = np.arange(top - 1, bottom)[:, None]  # (T+1, 1): the inputs begin one row above the targets
        row = row if turns is None else (row + turns) % self.rows
        ends = self.offsets + self.lengths
        return _make_batch(self.tokens, self.offsets + row, ends, self.start, self.documents, reset_state)

    def batches(self, cuts: Cuts, first: int = 0, turns: Ids | None = None) -> Iterator[TextBatch]:
        """Yield the batches between consecutive cuts, from the ``first`` one on; only batch 0 resets the state."""
        for index in range(first, len(cuts) - 1):
            yield self.batch(int(cuts[index]), int(cuts[index + 1]), reset_state=index == 0, turns=turns)

    def draw_turns(self, seed: int, epoch: int) -> Ids:
        """Draw by how much each stream is turned in an epoch, the same on any number of processes.

        Source:
            Press 2019, Partially shuffling the training data to improve language models, arXiv 1903.04167.
        """
        every: Ids = np.random.default_rng((seed, epoch, 1)).integers(self.rows, size=self.num_streams)
        return every[self.own]


class _IndependentSequences:
    """A text's tokens in sequences of equal length, each from the zero state.

    Args:
        tokens: The ids of the text.
        bptt: T, tokens of a sequence.
        batch_size: Sequences at once, of all processes.
        start: The id before the first token.
        documents: As of :class:`Streams`.
        rank_and_world_size: Of each batch keep this process's ``shard``.
    """

    def __init__(
        self,
        tokens: Ids,
        bptt: int,
        batch_size: int,
        start: int,
        *,
        documents: bool = False,
        rank_and_world_size: tuple[int, int] = (0, 1),
    ) -> None:
        self.tokens = tokens
        self.bptt = bptt
        self.batch_size = batch_size
        self.start = start
        self.documents = documents
        self.own = shard(batch_size, rank_and_world_size)

    def _batch(self, offsets: npt.NDArray[np.int64], *, circular: bool) -> TextBatch:
        """Return this process's sequences at offsets; a circular text goes on from its end at its beginning."""
        places = offsets[self.own] + np.arange(-1, self.bptt)[:, None]  # (T+1, N)
        length = len(self.tokens)
        places = places % length if circular else places
        return _make_batch(self.tokens, places, length, self.start, self.documents, reset_state=True)


class Windows(_IndependentSequences):
    """Training on independent sequences, in an order drawn for each epoch.

    An epoch begins at a token of its own among the first T, reads each sequence once and goes on from the end of the
    text at its beginning. What does not fill a batch is left out.

    Note:
        nanoGPT draws each sequence's place by itself, so that an epoch of it is no exact notion.
    """

    def __len__(self) -> int:
        return len(self.tokens) // (self.bptt * self.batch_size)

    def batches(self, seed: int, epoch: int, first: int = 0) -> Iterator[TextBatch]:
        """Yield the batches of an epoch from the ``first`` one on, the same on any number of processes."""
        generator = np.random.default_rng((seed, epoch, 2))
        begin = generator.integers(self.bptt)
        offsets = begin + self.bptt * generator.permutation(len(self.tokens) // self.bptt)
        for index in range(first, len(self)):
            yield self._batch(offsets[index * self.batch_size : (index + 1) * self.batch_size], circular=True)


def fixed_cuts(rows: int, bptt: int) -> list[int]:
    """Return where batches of ``bptt`` rows begin and end; the last may be shorter."""
    return [*range(0, rows, bptt), rows]


def random_cuts(rows: int, bptt: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return where batches of random lengths begin and end.

    The length is drawn from a normal distribution around ``bptt``, or around half of it in one case of twenty, with
    standard deviation 5 and at least 5, so that the same tokens do not meet the same edges in each epoch.

    Args:
        rows: Rows of the streams.
        bptt: Mean length.
        seed: Seed of the draw, together with the epoch, so that a restart draws the same.
        epoch: Counts from 0.

    Note:
        Merity et al. draw until the text ends, so that epochs differ in their number of batches. Lightning reads that
        number once: here it is fixed, and the lengths are scaled by the little that makes them fit.

    Source:
        Merity, Keskar, Socher 2017, arXiv 1708.02182, section 5.
    """
    count = -(-rows // max(int(0.975 * bptt), 1))
    generator = np.random.default_rng((seed, epoch))
    base = np.where(generator.random(count) < 0.95, bptt, bptt / 2)
    edges = np.cumsum(np.maximum(generator.normal(base, 5).astype(np.int64), 5))
    return np.concatenate(([0], np.rint(edges * (rows / edges[-1])).astype(np.int64)))


class StreamLoader:
    """Evaluation with the state carried: ``bptt`` rows of the streams at a time, from top to bottom."""

    def __init__(self, streams: Streams, bptt: int) -> None:
        self.streams = streams
        self.cuts = fixed_cuts(streams.rows, bptt)

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[TextBatch]:
        return self.streams.batches(self.cuts)


class ResetLoader(_IndependentSequences):
    """Evaluation on consecutive independent sequences, as nanoGPT's figures are measured.

    Every token is a target once, a sequence's first after the last of the one before.
    """

    def __len__(self) -> int:
        return -(-len(self.tokens) // (self.bptt * self.batch_size))

    def __iter__(self) -> Iterator[TextBatch]:
        offsets = np.arange(0, len(self.tokens), self.bptt)
        for first in range(0, len(offsets), self.batch_size):
            yield self._batch(offsets[first : first + self.batch_size], circular=False)


def text_batches(
    text: str, tokenizer: Tokenizer, bptt: int = 256, *, documents: bool = False
) -> tuple[StreamLoader, Counts]:
    """Return a text in memory as the batches of one stream, every token a target once, and its sizes.

    Raises:
        ValueError: The text has no token, or with ``documents`` blank lines that end in a carriage return.
    """
    if documents and tokenizer.kind != "word" and any(line in text for line in BLANK_LINES_UNSEEN):
        raise ValueError("a text of documents must have lines that end in \\n, got carriage returns: replace them")
    split = encode_text(text, tokenizer)
    return StreamLoader(Streams(split.tokens, 1, tokenizer.start, documents=documents), bptt), split.counts
