"""Batches of labelled texts: buckets, padding, shares of processes."""

import pytest
import torch

from wnseq.data.text import ByteTokenizer, pad_texts
from wnseq.data.text.labelled_batches import LabelledBatches

IDS = [[7] * (1 + number * 5 % 13) for number in range(23)]
BATCHES = LabelledBatches(IDS, [number % 3 for number in range(23)])


def test_every_text_is_in_an_epoch_once_and_neighbours_are_of_one_length() -> None:
    batches = list(BATCHES.shuffled(4, "0 0"))
    assert sorted(torch.cat([batch.places for batch in batches]).tolist()) == [*range(23)]
    for tokens, lengths, labels, places in batches:
        assert tokens.shape == (int(lengths.max()), len(places)) and tokens.dtype == torch.int64
        assert lengths.tolist() == [len(IDS[place]) for place in places]
        assert labels.tolist() == [place % 3 for place in places.tolist()]
        assert (tokens.T == 7).sum(1).tolist() == lengths.tolist()
    assert sum(int(batch.lengths.max() - batch.lengths.min()) for batch in batches) <= 24


def test_an_epoch_is_drawn_by_its_seed_and_resumes_inside() -> None:
    first, again, other = (
        [batch.places.tolist() for batch in BATCHES.shuffled(4, seed)] for seed in ("0 1", "0 1", "0 2")
    )
    assert first == again != other
    assert [batch.places.tolist() for batch in BATCHES.shuffled(4, "0 1", first=2)] == first[2:]


def test_processes_share_each_batch() -> None:
    whole = [batch.places.tolist() for batch in BATCHES.shuffled(8, "0")]
    shares = [[batch.places.tolist() for batch in BATCHES.shuffled(8, "0", 0, (rank, 8))] for rank in range(8)]
    assert [len(share) for share in shares] == [
        3
    ] * 8  # of the last batch, of 7 texts, the eighth takes one that is there
    assert [[place for share in shares for place in share[index]] for index in (0, 1)] == whole[:2]
    for size in (8, 1):  # a batch has a text for each
        evaluated = [BATCHES.in_order(size, True, (rank, 8)) for rank in range(8)]
        assert all(evaluated)
        assert sorted(place for share in evaluated for batch in share for place in batch.places.tolist()) == [
            *range(23)
        ]
    with pytest.raises(ValueError, match="23 texts are fewer than the 24 processes: use fewer"):
        BATCHES.in_order(8, True, (0, 24))


def test_an_evaluation_is_in_order_or_by_length() -> None:
    in_order, by_length = (BATCHES.in_order(10, each) for each in (False, True))
    assert torch.cat([batch.places for batch in in_order]).tolist() == [*range(23)]
    lengths = torch.cat([batch.lengths for batch in by_length])
    assert lengths.tolist() == sorted(map(len, IDS))


def test_texts_are_padded_behind_the_line_end_that_stands_before_them() -> None:
    tokens, lengths = pad_texts(["ab", ""], ByteTokenizer())
    assert tokens.T.tolist() == [[10, 97, 98], [10, 0, 0]] and lengths.tolist() == [3, 1]


def test_no_text_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="there must be a text at least, got none"):
        pad_texts([], ByteTokenizer())
