"""A user's mistake is a paragraph; a bug is a traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest

Main = Callable[..., dict[str, float]]
Fails = Callable[..., str]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.lr", "-1"], "lr must be positive, got -1.0"),
        (["--data.corpus", "missing"], "corpus 'missing' is neither a name nor a file"),
        (["--trainer.accelerator", "gpux"], "gpux"),
        (["--ckpt_path", "none.ckpt"], "--ckpt_path: there is no file none.ckpt. Expected a checkpoint that a run"),
        (["test", "--ckpt_path", "best"], "--ckpt_path best: no run in runs/toy has left a best.ckpt. Run fit first."),
    ],
)
def test_a_users_mistake_is_a_paragraph_and_leaves_no_trace(
    here: Path, fails: Fails, words: list[str], said: str
) -> None:
    error = fails(1, *words)
    assert error.startswith("error: ")
    assert said in error
    assert list(here.glob("runs/toy/*")) == []


def test_a_mistake_keeps_its_traceback_when_asked(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEQ_TRACEBACK", "1")
    with pytest.raises(ValueError, match="lr must be positive"):
        main("--model.lr", "-1")


def test_a_bug_keeps_its_traceback(main: Main, here: Path) -> None:
    with pytest.raises(KeyError, match="an internal bug"):
        main("--model.bug", "true")
    assert list(here.glob("runs/toy/*")) == []  # it never took a step
