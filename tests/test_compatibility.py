"""The page of what works is what the script writes, and nothing that works with torch's RNNs fails with wnseq's.

The rows that compile, export or start processes take a minute: they run by name, with ``-m slow``.
"""

import pytest
import torch
from compatibility import (
    NOTHING_TO_TRY,
    PAGE,
    ROWS,
    YES,
    Row,
    composed_once,
    compositions,
    made_with,
    outcome,
    page,
    summed_up,
    table_row,
    try_all,
)
from contenders import CONTENDERS, TORCH, TORCH_WN, WNSEQ, NothingToTry, Subject

QUICK = [row for row in ROWS if row.section not in ("Graphs", "Two processes")]


def works(text):
    """Return True if an outcome is an answer, which may be a count, and no error."""
    return text != NOTHING_TO_TRY and not text.startswith("`")


def worse_than_torch(found):
    return [
        (title, kind)
        for title, outcomes in found.items()
        for kind, text in outcomes[WNSEQ].items()
        if works(outcomes[TORCH][kind]) and not works(text)
    ]


def unanswered(found, backends):
    """List what fails with torch's weight norm and with wnseq too, and no backend is named for it with a link."""
    return [
        (title, kind)
        for title, outcomes in found.items()
        for kind, text in outcomes[WNSEQ].items()
        if not works(outcomes[TORCH_WN][kind]) and not works(text) and "](https://" not in backends.get(title, "")
    ]


@pytest.fixture(
    scope="module", params=[QUICK, pytest.param(ROWS, marks=pytest.mark.slow)], ids=["quick rows", "every row"]
)
def found(request):
    return try_all(request.param)


def test_the_page_is_what_the_script_writes(found):
    written = PAGE.read_text("utf-8")
    if f" {made_with()}:" not in written:
        pytest.skip(f"the page was not written {made_with()}")
    rows = [table_row(row, found[row.title]) for row in ROWS if row.title in found]
    assert set(rows) - set(written.splitlines()) == set(), "run python tests/compatibility.py and read what has changed"
    if len(found) == len(ROWS):
        assert page(found) == written


def test_nothing_that_works_with_torch_fails_with_wnseq(found):
    assert worse_than_torch(found) == []


def test_what_fails_with_torch_s_weight_norm_works_or_names_the_backend(found):
    assert unanswered(found, {row.title: row.backend for row in ROWS}) == []


@pytest.mark.parametrize("once", [compositions, composed_once])
def test_each_weight_is_composed_once(found, once):
    (row,) = (row for row in ROWS if row.attempt is once)
    for kind, text in found[row.title][WNSEQ].items():
        number = len(Subject(WNSEQ, kind).weights)
        assert text == f"{number} for {number} weights", kind


def test_a_row_that_is_worse_is_found():
    made_up = {"a row": {TORCH: {"LSTM": YES}, TORCH_WN: {"LSTM": "`E: no`"}, WNSEQ: {"LSTM": "`E: no`"}}}
    assert worse_than_torch(made_up) == unanswered(made_up, {}) == [("a row", "LSTM")]
    assert unanswered(made_up, {"a row": "[aten](https://github.com/pytorch/pytorch)"}) == []


def test_rows_have_titles_of_their_own():
    assert len({row.title for row in ROWS}) == len(ROWS)
    assert all(row.title for row in ROWS)


def fail(subject):
    raise ValueError(f"{subject.kind} at 0x7f00 | is `bad`. More of it")


def have_nothing(subject):
    raise NothingToTry


@pytest.mark.parametrize(
    ("attempt", "text"),
    [
        (lambda subject: None, YES),
        (lambda subject: "4 for 4", "4 for 4"),
        (have_nothing, NOTHING_TO_TRY),
        (fail, "`ValueError: the module at 0x… / is 'bad'`"),
    ],
)
def test_an_outcome_is_a_short_text(attempt, text):
    assert outcome(Row("", attempt, ("LSTM",), ""), Subject(TORCH, "LSTM")) == text


def test_outcomes_are_summed_up():
    assert summed_up({"LSTM": YES, "GRU": YES}) == YES
    assert summed_up({"LSTM": "`E`", "GRU": YES, "RNN": YES}) == "LSTM: `E`; GRU, RNN: yes"
    cells = {"LSTMCell": "2", "GRUCell": "2", "RNNCell": "2"}
    assert summed_up({"LSTM": "4", "GRU": "4", "RNN": "4", **cells}) == "layers: 4; cells: 2"


@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_the_contenders_are_one_function(kind):
    x = Subject(TORCH, kind).input()
    first, *others = (next(iter(Subject(who, kind).make()(x))) for who in CONTENDERS)
    for other in others:
        torch.testing.assert_close(other, first)
