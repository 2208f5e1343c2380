"""Packed sequences whose parts do not fit are refused by every recurrent module, whatever runs it."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import wnseq
from wnseq._recurrence.packed import check_packed, check_step_sizes
from wnseq.errors import ShapeError
from wnseq.nn import backend

MODULES = [wnseq.WNRNN, wnseq.WNGRU, wnseq.WNLSTM, wnseq.GRU, wnseq.LSTM]
ROWS, SIZES = torch.ones(6, 5), [3, 2, 1]
SUM = r"batch_sizes of a PackedSequence must not increase and must add up to the \d rows of its data, got "
INVERSE = "must be permutations, each the inverse of the other"

WRONG = {  # data, batch_sizes, sorted_indices, unsorted_indices, and what the error says
    "a row short": (ROWS[1:], SIZES, None, None, SUM + r"\[3, 2, 1\] with the sum 6; make it by torch.nn.utils.rnn"),
    "two rows more": (torch.ones(8, 5), SIZES, None, None, SUM),
    "increasing": (ROWS, [1, 2, 3], None, None, SUM),
    "increasing once": (ROWS, [2, 1, 3], None, None, SUM),
    "nothing first": (ROWS, [0, 6], None, None, SUM),
    "negative": (ROWS, [4, 3, -1], None, None, SUM),
    "of one sequence, which broadcasts": (ROWS, [1, 5], None, None, SUM),
    "no steps": (ROWS[:0], [], None, None, r"must be int64 of shape \(T,\), got torch.int64 of shape \(0,\)"),
    "a number": (ROWS, 6, None, None, r"int64 of shape \(T,\), got torch.int64 of shape \(\)"),
    "floats": (ROWS, [3.0, 2.0, 1.0], None, None, r"int64 of shape \(T,\), got torch.float32 of shape \(3,\)"),
    "three axes": (ROWS[None], [1], None, None, "input must have 2 dimensions, got 3 in a PackedSequence"),
    "short order": (ROWS, SIZES, [0, 1], [0, 1], r"sorted_indices .* one index for each of its 3 sequences, got .*2,"),
    "long order": (ROWS, SIZES, [0, 1, 2, 0], [0, 1, 2], r"sorted_indices .* its 3 sequences, got torch.int64 .*4,"),
    "order out of range": (ROWS, SIZES, [0, 1, 7], [0, 1, 2], INVERSE),
    "negative order": (ROWS, SIZES, [0, 1, -1], [0, 1, 2], INVERSE),
    "one sequence thrice": (ROWS, SIZES, [0, 0, 0], [0, 1, 2], INVERSE),
    "not its inverse": (ROWS, SIZES, [1, 2, 0], [1, 2, 0], INVERSE),
    "order of floats": (ROWS, SIZES, [0.0, 1.0, 2.0], [0, 1, 2], "sorted_indices .* got torch.float32"),
    "short inverse": (ROWS, SIZES, [0, 1, 2], [0, 1], "unsorted_indices .* got torch.int64"),
    "inverse out of range": (ROWS, SIZES, [0, 1, 2], [0, 1, 9], INVERSE),
    "the inverse alone": (ROWS, SIZES, None, [0, 1, 2], "sorted_indices .* got None"),
}


def tensor(part):
    return None if part is None else torch.tensor(part, dtype=torch.int64 if part == [] else None)


@pytest.mark.parametrize(("data", "sizes", "order", "inverse", "text"), WRONG.values(), ids=WRONG)
def test_parts_that_do_not_fit_are_refused(data, sizes, order, inverse, text):
    packed = PackedSequence(data, *map(tensor, (sizes, order, inverse)))
    for module in MODULES:
        for forced in ("auto", "cpu_loop", "torch"):
            with backend(forced), pytest.raises(ShapeError, match=text):
                module(5, 6)(packed)


@pytest.mark.parametrize("module", MODULES[:3])
def test_a_graph_refuses_them_when_it_runs(module):
    torch.compiler.reset()
    model = module(5, 6)
    run = torch.compile(
        lambda *parts: model(PackedSequence(*parts))[0].data, backend="eager", fullgraph=True, dynamic=True
    )
    torch.testing.assert_close(run(ROWS, torch.tensor(SIZES)), model(PackedSequence(ROWS, torch.tensor(SIZES)))[0].data)
    for name in ("a row short", "two rows more", "increasing", "of one sequence, which broadcasts"):
        data, sizes, *_ = WRONG[name]
        with pytest.raises(ShapeError, match=SUM):
            run(data, torch.tensor(sizes))


def test_a_part_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="data of a PackedSequence must be a tensor, got list"):
        wnseq.WNGRU(5, 6)(PackedSequence([1.0], torch.tensor([1])))


def test_what_torch_packs_is_taken():
    rows = [torch.randn(length, 5) for length in (2, 4, 4, 1)]
    for whole in (
        pack_sequence(rows, enforce_sorted=False),
        pack_padded_sequence(nn.utils.rnn.pad_sequence(rows), [4, 3, 2, 1]),
        pack_sequence(rows[2:]),
    ):
        check_packed("WNGRU", whole)
        reference = nn.LSTM(5, 6)
        rnn = wnseq.LSTM(5, 6)
        rnn.load_state_dict(reference.state_dict())
        torch.testing.assert_close(rnn(whole)[0].data, reference(whole)[0].data)


def test_a_long_list_of_sizes_is_cut_in_the_error():
    with pytest.raises(ShapeError, match=r"wnseq: .* got \[9, 9, 9, 9, 9, 9, 9, 9, …\] with the sum 81"):
        check_step_sizes([9] * 9, 80)
