import csv
from pathlib import Path

import pytest
import torch

from wnseq.recipes import speed_streaming as streaming
from wnseq.recipes.speed_streaming import AGAIN, PLAIN, READ, main

SMALL = ["--hidden_sizes=[8]", "--vocabulary=20", "--hidden_size=6", "--tokens=3", "--pairs=2", "--least_ms=0"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_steps_and_tokens_are_timed_beside_a_plain_read(capsys):
    rows = main([*SMALL, "--threads=[1, 2]", "--out=out"])
    by_what = {}
    for row in rows:
        by_what.setdefault((row["what"], row["threads"]), {})[row["contender"]] = row
    cell, model = "LSTM, 1x1x8", "language model, 2 x 6, 20 words"
    assert list(by_what) == [(what, threads) for threads in (1, 2) for what in (cell, model)]
    assert set(by_what[cell, 1]) == {
        *(PLAIN, AGAIN, READ, "wnseq", "wnseq folded", "wnseq bound", "nn.LSTM", "WNLSTM bound")
    }
    assert set(by_what[model, 1]) == {PLAIN, AGAIN, READ, "wnseq", "wnseq, nothing drawn"}
    for of in by_what.values():
        for row in of.values():
            assert row["per_second"] == pytest.approx(1e3 / row["ms"])
            assert row["of_limit"] == pytest.approx(of[READ]["ms"] / row["ms"])
        assert of[PLAIN]["ratio"] == of[READ]["of_limit"] == 1
    assert by_what[cell, 1][PLAIN]["mb"] == 4 * 4 * 8 * 16 / 1e6
    assert by_what[model, 1][PLAIN]["mb"] == pytest.approx(4 * (2 * 4 * 6 * 12 + 20 * 6) / 1e6)
    with Path("out/streaming.csv").open() as file:
        assert [row["contender"] for row in csv.DictReader(file)] == [row["contender"] for row in rows]
    text = Path("out/streaming.md").read_text()
    assert text in capsys.readouterr().out
    assert f"| {model} | wnseq |" in text


def test_the_twin_decides_whether_ratios_count(monkeypatch, capsys):
    monkeypatch.setattr(streaming.timing, "SAME", 1e9)
    main(SMALL)
    assert "no ratio counts" not in capsys.readouterr().out
    monkeypatch.setattr(streaming.timing, "SAME", -1)
    main(SMALL)
    assert "no ratio counts: LSTM, 1x1x8, language model, 2 x 6, 20 words" in capsys.readouterr().out


def test_a_step_that_computes_something_else_is_named(monkeypatch, capsys):
    bind = streaming.wnseq.WNLSTMCell.bind

    def wrong(cell):
        step = bind(cell)
        return lambda x, state: tuple(2 * each for each in step(x, state))

    monkeypatch.setattr(streaming.wnseq.WNLSTMCell, "bind", wrong)
    with pytest.raises(SystemExit) as stop:
        main(SMALL)
    assert stop.value.code == 1
    assert "wnseq bound computes something else than torch.nn: its state is off by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--hidden_sizes=[0]", "hidden_sizes must be at least 1, got 0"),
        ("--hidden_size=0", "hidden_size must be at least 1, got 0"),
        ("--num_layers=0", "num_layers must be at least 1, got 0"),
        ("--tokens=0", "tokens must be at least 1, got 0"),
        ("--vocabulary=1", "vocabulary must be at least 2"),
        ("--pairs=1", "pairs must be at least 2, got 1"),
        ("--threads=[]", "threads must be numbers of at least 1, got []"),
    ],
)
def test_a_mistake_is_told(option, text, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, option])
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert text in told and "Traceback" not in told


def test_weights_are_read_once_a_token():
    calls, read = streaming.steps_of_a_cell(4)
    assert read == 4 * (16 * 4 + 16 * 4)
    assert torch.equal(calls[PLAIN]()[0], calls[AGAIN]()[0])
