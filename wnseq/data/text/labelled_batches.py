"""Batches of labelled texts by torchtext: texts of similar lengths together, padded, with their lengths."""

import random
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from torch import Tensor

from wnseq.data.text.tokenizer import Tokenizer

PADDING = 0  # an id like any other: lengths say where a text ends


class LabelledBatch(NamedTuple):
    """One batch.

    Args:
        tokens: Token ids, each text from its first token down, then padding.
        lengths: Tokens of each text.
        labels: Numbers of the classes; −1 where there is no label.
        places: Numbers of the texts in their part.

    Shape:
        - tokens: ``(T, N)``
        - lengths, labels, places: ``(N,)``
    """

    tokens: Tensor
    lengths: Tensor
    labels: Tensor
    places: Tensor


class OrderedBatches:
    """The batches of an evaluation, the same each time: Lightning takes a list of them for as many loaders."""

    def __init__(self, batches: Sequence[LabelledBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[LabelledBatch]:
        return iter(self.batches)


class LabelledBatches:
    """The batches of one part, in buckets of similar lengths.

    Args:
        ids: Token ids of each text.
        labels: Number of each text's class; −1 for none.
    """

    def __init__(self, ids: Sequence[Sequence[int]], labels: Sequence[int]) -> None:
        from torchtext.data import Dataset, Example, Field, LabelField

        examples = []
        for place, (tokens, label) in enumerate(zip(ids, labels, strict=True)):
            example = Example()
            example.tokens, example.label, example.place = array("i", tokens), label, place
            examples.append(example)
        number = LabelField(use_vocab=False)
        tokens = Field(use_vocab=False, pad_token=PADDING, include_lengths=True)
        self._set = Dataset(examples, {"tokens": tokens, "label": number, "place": number})

    def __len__(self) -> int:
        return len(self._set)

    def shuffled(
        self, batch_size: int, seed: str, first: int = 0, rank_and_world_size: tuple[int, int] = (0, 1)
    ) -> Iterator[LabelledBatch]:
        """Yield the batches of an epoch in random order.

        Args:
            batch_size: Texts of a batch over all processes.
            seed: Decides the order.
            first: Batches to skip.
            rank_and_world_size: Of each batch yield this process's share, at least one text.
        """
        rank, ranks = rank_and_world_size
        for examples in islice(self._buckets(batch_size, seed), first, None):
            yield self._batch(examples[rank::ranks] or examples[:1])

    def in_order(
        self, batch_size: int, by_length: bool, rank_and_world_size: tuple[int, int] = (0, 1)
    ) -> list[LabelledBatch]:
        """Return the batches of an evaluation, this process's share of each: by length, or in the order of the part.

        Raises:
            ValueError: There are fewer texts than processes.
        """
        rank, ranks = rank_and_world_size
        examples = sorted(self._set, key=_length) if by_length else list(self._set)
        if len(examples) < ranks:
            raise ValueError(f"{len(examples)} texts are fewer than the {ranks} processes: use fewer")
        batch_size = max(batch_size, ranks)
        batches = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
        return [self._batch(batch[rank::ranks]) for batch in batches if batch[rank::ranks]]

    def _buckets(self, batch_size: int, seed: str) -> Iterator[list[Any]]:
        from torchtext.data import BucketIterator
        from torchtext.data.utils import RandomShuffler

        iterator = BucketIterator(self._set, batch_size, sort_key=_length, train=True, sort_within_batch=True)
        iterator.random_shuffler = RandomShuffler(random.Random(seed).getstate())
        iterator.create_batches()
        batches: Iterator[list[Any]] = iterator.batches
        return batches

    def _batch(self, examples: list[Any]) -> LabelledBatch:
        from torchtext.data import Batch

        batch = Batch(examples, self._set)
        tokens, lengths = batch.tokens
        return LabelledBatch(tokens, lengths, batch.label, batch.place)


def pad_texts(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Return the tokens of texts, padded, ``(T, N)``, and how many each has, ``(N,)``.

    Raises:
        ValueError: There is no text.
    """
    if not texts:
        raise ValueError("there must be a text at least, got none")
    ids = [encode_whole(text, tokenizer) for text in texts]
    batch = next(iter(LabelledBatches(ids, [-1] * len(ids)).in_order(len(ids), by_length=False)))
    return batch.tokens, batch.lengths


def encode_whole(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a text after the entry that stands before one, so that an empty text has a token too."""
    return [tokenizer.start, *tokenizer.encode(text)]


def _length(example: Any) -> int:
    return len(example.tokens)
