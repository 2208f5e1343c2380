import numpy as np
import pytest
import torch

from wnseq.data.text.bptt import IGNORE, ColdLoader, StreamLoader, Streams, TextBatch, fixed_cuts, random_cuts

START = 999


def stream(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.uint16)


def predicted(windows: list[TextBatch]) -> list[int]:
    """All targets, column by column, each window under the one before."""
    targets = torch.cat([window.targets for window in windows])
    return [token for token in targets.T.flatten().tolist() if token != IGNORE]


@pytest.mark.parametrize(("length", "columns"), [(1, 1), (7, 1), (7, 3), (7, 7), (20, 3), (21, 3), (21, 7), (99, 7)])
@pytest.mark.parametrize("window", [1, 4, 100])
def test_evaluation_predicts_every_token_once_from_the_one_before(length: int, columns: int, window: int) -> None:
    loader = StreamLoader(Streams(stream(length), columns, START), window)
    windows = list(loader)
    assert len(windows) == len(loader)
    assert predicted(windows) == list(range(length))
    for batch in windows:
        told = batch.targets != IGNORE
        before = torch.where(batch.targets == 0, START, batch.targets - 1)
        assert torch.equal(batch.inputs[told], before[told])
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.inputs.shape == batch.targets.shape
    assert [batch.fresh for batch in windows] == [True] + [False] * (len(windows) - 1)
    padded = torch.cat([batch.targets for batch in windows]) == IGNORE
    assert not padded[:-1].any()  # at most the last row
    assert torch.cat([batch.inputs for batch in windows]).ge(0).all()


def test_a_column_reads_on_where_the_window_before_ended() -> None:
    first, second = list(StreamLoader(Streams(stream(8), 2, START), 2))
    assert first.inputs.tolist() == [[START, 3], [0, 4]]
    assert first.targets.tolist() == [[0, 4], [1, 5]]
    assert second.inputs.tolist() == [[1, 5], [2, 6]]
    assert second.targets.tolist() == [[2, 6], [3, 7]]


@pytest.mark.parametrize("length", [20, 21, 27])
def test_training_drops_what_does_not_fill_a_row(length: int) -> None:
    columns = Streams(stream(length), 4, START, trim=True)
    windows = list(columns.windows(fixed_cuts(columns.rows, 3)))
    assert predicted(windows) == list(range(length // 4 * 4))
    assert not any((window.targets == IGNORE).any() for window in windows)


def test_windows_can_be_taken_up_anywhere() -> None:
    columns = Streams(stream(100), 4, START, trim=True)
    cuts = fixed_cuts(columns.rows, 3)
    whole = list(columns.windows(cuts))
    for first in range(len(whole)):
        rest = list(columns.windows(cuts, first))
        assert len(rest) == len(whole) - first
        for one, other in zip(rest, whole[first:], strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.targets, other.targets)
            assert one.fresh is other.fresh


@pytest.mark.parametrize(("rows", "window", "cuts"), [(6, 3, [0, 3, 6]), (7, 3, [0, 3, 6, 7]), (2, 3, [0, 2])])
def test_fixed_cuts(rows: int, window: int, cuts: list[int]) -> None:
    assert fixed_cuts(rows, window) == cuts


@pytest.mark.parametrize("rows", [1, 10, 69, 70, 71, 500, 46_479])
@pytest.mark.parametrize("window", [10, 70])
def test_random_cuts_cover_the_rows_in_a_number_of_windows_that_stays(rows: int, window: int) -> None:
    epochs = [random_cuts(rows, window, 0, epoch) for epoch in range(20)]
    assert len({len(cuts) for cuts in epochs}) == 1
    for cuts in epochs:
        assert cuts[0] == 0
        assert cuts[-1] == rows
        assert (np.diff(cuts) > 0).all()
        assert np.diff(cuts).max() <= window + 30


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
def test_cold_windows_predict_every_token_once_from_the_one_before(length: int, batch_size: int) -> None:
    loader = ColdLoader(stream(length), 4, batch_size, START)
    windows = list(loader)
    assert len(windows) == len(loader)
    assert [token for window in windows for token in predicted([window])] == list(range(length))
    for batch in windows:
        assert batch.fresh
        told = batch.targets != IGNORE
        before = torch.where(batch.targets == 0, START, batch.targets - 1)
        assert torch.equal(batch.inputs[told], before[told])


def test_cold_windows_are_those_of_nanogpt() -> None:
    data = torch.arange(64 * 5 + 1)
    windows = list(ColdLoader(data.numpy().astype(np.uint16)[1:], 64, 2, start=0))
    inputs = torch.cat([window.inputs for window in windows], dim=1)
    targets = torch.cat([window.targets for window in windows], dim=1)
    for index in range(5):
        i = 64 * index
        assert torch.equal(inputs[:, index], data[i : i + 64])
        assert torch.equal(targets[:, index], data[i + 1 : i + 65])


def test_a_loader_can_be_read_again() -> None:
    for loader in (StreamLoader(Streams(stream(20), 2, START), 3), ColdLoader(stream(20), 3, 2, START)):
        assert [window.targets.tolist() for window in loader] == [window.targets.tolist() for window in loader]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("trim", [True, False])
def test_processes_divide_the_columns_without_overlap(processes: int, trim: bool) -> None:
    whole = Streams(stream(100), 7, START, trim=trim)
    parts = [Streams(stream(100), 7, START, trim=trim, part=(rank, processes)) for rank in range(processes)]
    assert {part.rows for part in parts} == {whole.rows}  # so that all have the same windows
    for window, *shares in zip(
        *(columns.windows(fixed_cuts(whole.rows, 4)) for columns in (whole, *parts)), strict=True
    ):
        assert torch.equal(torch.cat([share.inputs for share in shares], 1), window.inputs)
        assert torch.equal(torch.cat([share.targets for share in shares], 1), window.targets)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_processes_divide_the_cold_windows(processes: int) -> None:
    whole = ColdLoader(stream(99), 4, 6, START)
    parts = [ColdLoader(stream(99), 4, 6, START, part=(rank, processes)) for rank in range(processes)]
    for window, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([share.inputs for share in shares], 1), window.inputs)
        assert torch.equal(torch.cat([share.targets for share in shares], 1), window.targets)
