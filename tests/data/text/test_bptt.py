from itertools import chain, product

import numpy as np
import pytest
import torch

from wnseq.data.text.bptt import (
    IGNORE,
    ResetLoader,
    StreamLoader,
    Streams,
    TextBatch,
    Windows,
    count_documents,
    fixed_cuts,
    random_cuts,
)

START = 999


def stream(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.uint16)


def predicted(batches: list[TextBatch]) -> list[int]:
    """All targets, stream by stream, each batch under the one before."""
    targets = torch.cat([batch.targets for batch in batches])
    return [token for token in targets.T.flatten().tolist() if token != IGNORE]


@pytest.mark.parametrize(
    ("length", "num_streams"), [(1, 1), (7, 1), (7, 3), (7, 7), (20, 3), (21, 3), (21, 7), (99, 7)]
)
@pytest.mark.parametrize("bptt", [1, 4, 100])
def test_evaluation_predicts_every_token_once_from_the_one_before(length: int, num_streams: int, bptt: int) -> None:
    loader = StreamLoader(Streams(stream(length), num_streams, START), bptt)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert predicted(batches) == list(range(length))
    for batch in batches:
        told = batch.targets != IGNORE
        before = torch.where(batch.targets == 0, START, batch.targets - 1)
        assert torch.equal(batch.inputs[told], before[told])
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.inputs.shape == batch.targets.shape
    assert [batch.reset_state for batch in batches] == [True] + [False] * (len(batches) - 1)
    padded = torch.cat([batch.targets for batch in batches]) == IGNORE
    assert not padded[:-1].any()  # at most the last row
    assert torch.cat([batch.inputs for batch in batches]).ge(0).all()


def test_a_stream_reads_on_where_the_batch_before_ended() -> None:
    first, second = list(StreamLoader(Streams(stream(8), 2, START), 2))
    assert first.inputs.tolist() == [[START, 3], [0, 4]]
    assert first.targets.tolist() == [[0, 4], [1, 5]]
    assert second.inputs.tolist() == [[1, 5], [2, 6]]
    assert second.targets.tolist() == [[2, 6], [3, 7]]


@pytest.mark.parametrize("length", [20, 21, 27])
def test_training_drops_what_does_not_fill_a_row(length: int) -> None:
    streams = Streams(stream(length), 4, START, trim=True)
    batches = list(streams.batches(fixed_cuts(streams.rows, 3)))
    assert predicted(batches) == list(range(length // 4 * 4))
    assert not any((batch.targets == IGNORE).any() for batch in batches)


def test_batches_can_be_taken_up_anywhere() -> None:
    streams = Streams(stream(100), 4, START, trim=True)
    cuts = fixed_cuts(streams.rows, 3)
    whole = list(streams.batches(cuts))
    for first in range(len(whole)):
        rest = list(streams.batches(cuts, first))
        assert len(rest) == len(whole) - first
        for one, other in zip(rest, whole[first:], strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.targets, other.targets)
            assert one.reset_state is other.reset_state


@pytest.mark.parametrize(("rows", "bptt", "cuts"), [(6, 3, [0, 3, 6]), (7, 3, [0, 3, 6, 7]), (2, 3, [0, 2])])
def test_fixed_cuts(rows: int, bptt: int, cuts: list[int]) -> None:
    assert fixed_cuts(rows, bptt) == cuts


@pytest.mark.parametrize("rows", [1, 10, 69, 70, 71, 500, 46_479])
@pytest.mark.parametrize("bptt", [10, 70])
def test_random_cuts_cover_the_rows_in_a_number_of_batches_that_stays(rows: int, bptt: int) -> None:
    epochs = [random_cuts(rows, bptt, 0, epoch) for epoch in range(20)]
    assert len({len(cuts) for cuts in epochs}) == 1
    for cuts in epochs:
        assert cuts[0] == 0
        assert cuts[-1] == rows
        assert (np.diff(cuts) > 0).all()
        assert np.diff(cuts).max() <= bptt + 30


def test_random_cuts_have_the_published_distribution() -> None:
    lengths = np.diff(random_cuts(5_000_000, 70, 0, 0))
    usual = lengths[lengths > 52]
    assert len(usual) / len(lengths) == pytest.approx(0.95, abs=0.01)
    assert usual.mean() == pytest.approx(69.5, abs=0.5)  # int() takes half a token from the mean of 70
    assert usual.std() == pytest.approx(5, abs=0.2)
    assert lengths[lengths <= 52].mean() == pytest.approx(34.5, abs=0.5)


def test_random_cuts_can_be_drawn_again() -> None:
    assert np.array_equal(random_cuts(5000, 70, 1, 2), random_cuts(5000, 70, 1, 2))
    assert not np.array_equal(random_cuts(5000, 70, 1, 2), random_cuts(5000, 70, 1, 3))
    assert not np.array_equal(random_cuts(5000, 70, 1, 2), random_cuts(5000, 70, 2, 2))


@pytest.mark.parametrize("length", [1, 3, 4, 5, 12, 13, 50])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_reset_batches_predict_every_token_once_from_the_one_before(length: int, batch_size: int) -> None:
    loader = ResetLoader(stream(length), 4, batch_size, START)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert [token for batch in batches for token in predicted([batch])] == list(range(length))
    for batch in batches:
        assert batch.reset_state
        told = batch.targets != IGNORE
        before = torch.where(batch.targets == 0, START, batch.targets - 1)
        assert torch.equal(batch.inputs[told], before[told])


def test_reset_batches_are_those_of_nanogpt() -> None:
    data = torch.arange(64 * 5 + 1)
    batches = list(ResetLoader(data.numpy().astype(np.uint16)[1:], 64, 2, start=0))
    inputs = torch.cat([batch.inputs for batch in batches], dim=1)
    targets = torch.cat([batch.targets for batch in batches], dim=1)
    for index in range(5):
        i = 64 * index
        assert torch.equal(inputs[:, index], data[i : i + 64])
        assert torch.equal(targets[:, index], data[i + 1 : i + 65])


def test_a_loader_can_be_read_again() -> None:
    for loader in (StreamLoader(Streams(stream(20), 2, START), 3), ResetLoader(stream(20), 3, 2, START)):
        first, second = ([batch.targets.tolist() for batch in loader] for _ in range(2))
        assert first == second != []


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("trim", [True, False])
def test_processes_divide_the_streams_without_overlap(processes: int, trim: bool) -> None:
    whole = Streams(stream(100), 7, START, trim=trim)
    parts = [
        Streams(stream(100), 7, START, trim=trim, rank_and_world_size=(rank, processes)) for rank in range(processes)
    ]
    assert {part.rows for part in parts} == {whole.rows}  # so that all have the same batches
    for batch, *shards in zip(
        *(streams.batches(fixed_cuts(whole.rows, 4)) for streams in (whole, *parts)), strict=True
    ):
        assert torch.equal(torch.cat([shard.inputs for shard in shards], 1), batch.inputs)
        assert torch.equal(torch.cat([shard.targets for shard in shards], 1), batch.targets)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_processes_divide_the_reset_batches(processes: int) -> None:
    whole = ResetLoader(stream(99), 4, 6, START)
    parts = [ResetLoader(stream(99), 4, 6, START, rank_and_world_size=(rank, processes)) for rank in range(processes)]
    for batch, *shards in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([shard.inputs for shard in shards], 1), batch.inputs)
        assert torch.equal(torch.cat([shard.targets for shard in shards], 1), batch.targets)


TEXT_WITH_DOCUMENTS = np.array([5, 0, 0, 6, 7, 0, 0, 0, 8, 0, 9, 0, 0], np.uint16)  # 0 ends a line
BEGINNINGS = [0, 3, 7, 8]  # of the documents, where the input is the end of a blank line


@pytest.mark.parametrize("bptt", [1, 2, 5, 13])
def test_documents_begin_after_blank_lines_wherever_batches_are_cut(bptt: int) -> None:
    carried = StreamLoader(Streams(TEXT_WITH_DOCUMENTS, 1, 0, documents=True), bptt)
    apart = ResetLoader(TEXT_WITH_DOCUMENTS, bptt, 1, 0, documents=True)
    for loader in (carried, apart):
        masks, targets = zip(*((batch.reset, batch.targets) for batch in loader), strict=True)
        assert all(mask is not None and mask.dtype == torch.bool for mask in masks)
        told = torch.cat(targets)[:, 0] != IGNORE
        assert torch.cat(masks)[:, 0][told].nonzero().flatten().tolist() == BEGINNINGS  # type: ignore[arg-type]
    assert all(batch.reset is None for batch in StreamLoader(Streams(TEXT_WITH_DOCUMENTS, 1, 0), bptt))


def test_a_border_does_not_depend_on_what_follows() -> None:
    for read in product((0, 1), repeat=5):
        texts = [np.array([*read, after]) for after in (0, 1)]
        masks = [Streams(text, 1, 0, documents=True).batch(0, 6, reset_state=True).reset for text in texts]
        assert all(mask is not None and torch.equal(mask, masks[1]) for mask in masks)


def test_streams_side_by_side_have_the_borders_of_the_text() -> None:
    batch = Streams(TEXT_WITH_DOCUMENTS, 3, 0, documents=True).batch(0, 5, reset_state=True)
    assert batch.reset is not None
    found = [batch.reset[: len(column), k].tolist() for k, column in enumerate(([5, 0, 0, 6, 7], [0] * 4, [0] * 4))]
    assert [at for at, begins in enumerate(chain(*found)) if begins] == BEGINNINGS


def test_a_text_without_blank_lines_has_no_documents() -> None:
    assert count_documents(TEXT_WITH_DOCUMENTS, 0) == 3
    assert count_documents(np.array([1, 0, 2, 0, 3, 0, 0]), 0) == 1
    assert count_documents(np.array([0]), 0) == 1


@pytest.mark.parametrize("bptt", [3, 20])
def test_turned_streams_begin_elsewhere_and_go_round(bptt: int) -> None:
    tokens, rows = np.arange(1, 62), 20
    streams = Streams(tokens, 3, 0, trim=True)
    turns = streams.draw_turns(seed=5, epoch=2)
    batches = list(streams.batches(fixed_cuts(rows, bptt), turns=turns))
    inputs, targets = (torch.cat([batch[k] for batch in batches]) for k in (0, 1))
    for n, turn in enumerate(turns):
        own = torch.arange(1 + n * rows, 1 + (n + 1) * rows)
        assert targets[:, n].tolist() == own.roll(-int(turn)).tolist()
        assert inputs[:, n].tolist() == own.roll(1 - int(turn)).tolist()
    assert [batch.reset_state for batch in batches] == [True] + [False] * (len(batches) - 1)
    resumed = list(streams.batches(fixed_cuts(rows, bptt), 1, turns))
    assert all(torch.equal(a[k], b[k]) for a, b in zip(resumed, batches[1:], strict=True) for k in (0, 1))


def test_turns_are_those_of_the_epoch_on_any_number_of_processes() -> None:
    tokens = np.arange(4000)
    whole = Streams(tokens, 4, 0, trim=True)
    turns = whole.draw_turns(0, 0)
    assert whole.rows > turns.max() and len(set(turns.tolist())) == 4
    assert (turns != whole.draw_turns(0, 1)).all() and (turns != whole.draw_turns(1, 0)).all()
    parts = [Streams(tokens, 4, 0, trim=True, rank_and_world_size=(rank, 2)).draw_turns(0, 0) for rank in range(2)]
    assert np.concatenate(parts).tolist() == turns.tolist()


@pytest.mark.parametrize(("length", "bptt", "batch_size"), [(12, 4, 3), (99, 8, 5), (100, 1, 10), (103, 10, 3)])
def test_an_epoch_reads_each_window_of_the_circle_once(length: int, bptt: int, batch_size: int) -> None:
    loader = Windows(stream(length), bptt, batch_size, START)
    epochs = [[*loader.batches(7, epoch)] for epoch in range(20)]
    begins = []
    for batches in epochs:
        assert len(batches) == len(loader) == length // (bptt * batch_size)
        assert all(batch.reset_state and batch.targets.shape == (bptt, batch_size) for batch in batches)
        targets = torch.cat([batch.targets for batch in batches], 1)
        assert torch.equal(targets, (targets[0] + torch.arange(bptt).unsqueeze(1)) % length)
        assert torch.equal(torch.cat([batch.inputs for batch in batches], 1), (targets - 1) % length)
        assert len(targets.unique()) == targets.numel()
        begins.append(targets[0].tolist())
    assert len({*map(tuple, begins)}) > 10 and any(each != sorted(each) for each in begins)
    assert bptt == 1 or len({tuple(sorted(each)) for each in begins}) > 1  # the edges move from epoch to epoch
    for first in range(len(loader)):
        rest = [batch.targets.tolist() for batch in loader.batches(7, 3, first)]
        assert rest == [batch.targets.tolist() for batch in epochs[3][first:]]


def test_a_document_inside_a_window_starts_from_zero() -> None:
    text = np.array([1, 2, START, START, 3, 4, 5, 6], dtype=np.uint16)
    (batch,) = Windows(text, 8, 1, START, documents=True).batches(0, 0)
    assert batch.reset is not None
    assert batch.targets[batch.reset].tolist() == [3]
