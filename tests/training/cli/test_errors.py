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
        (
            ["--ckpt_path", "none.ckpt"],
            "--ckpt_path: there is no checkpoint at none.ckpt. Expected a checkpoint that a run",
        ),
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["accumulate_grad_batches=0"], "--trainer.accumulate_grad_batches must be at least 1, got 0"),
        (["accumulate_grad_batches=-1"], "--trainer.accumulate_grad_batches must be at least 1, got -1"),
        (["check_val_every_n_epoch=0"], "--trainer.check_val_every_n_epoch must be at least 1, got 0"),
        (["val_check_interval=0"], "--trainer.val_check_interval must be greater than 0, got 0"),
        (["gradient_clip_val=-1"], "--trainer.gradient_clip_val must be at least 0, got -1"),
        (["gradient_clip_val=.nan"], "--trainer.gradient_clip_val must be finite, got nan"),
        (
            ["accumulate_grad_batches=0", "val_check_interval=0.0"],
            "--trainer.accumulate_grad_batches must be at least 1, got 0; --trainer.val_check_interval must be greater",
        ),
        (["accelerator=tpu"], "torch_xla"),
    ],
)
def test_what_lightning_would_stumble_over(here: Path, fails: Fails, words: list[str], said: str) -> None:
    assert said in fails(1, *(f"--trainer.{word}" for word in words))
    assert list(here.glob("runs/toy/*")) == []


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"model: [1,\n", 1, "some.yaml is not YAML, line 2, column 1: "),
        (b"model:\n\tlr: 1\n", 1, "some.yaml is not YAML, line 2, column 1: found character '\\t' that cannot start"),
        (b"model: \xff\n", 1, "some.yaml is not UTF-8 text"),
        (b"just words", 1, "some.yaml must have options by name, such as data.batch_size: 16, got 'just words'"),
        (b"", 1, "some.yaml must have options by name, such as data.batch_size: 16, got None"),
        (b"model: null\n", 2, "null is no value of model."),
        (b"model:\n  lr: null\n", 2, "null is no value of model.lr."),
        (b"trainer:\n  max_steps: null\ndata:\n  corpus:\n", 2, "null is no value of data.corpus, trainer.max_steps."),
    ],
)
@pytest.mark.parametrize("form", ["--config=some.yaml", "--config some.yaml"])
def test_a_file_that_is_no_configuration(
    here: Path, fails: Fails, form: str, content: bytes, status: int, said: str
) -> None:
    (here / "some.yaml").write_bytes(content)
    assert said in fails(status, *form.split())


def test_a_null_where_none_is_a_value_is_one(here: Path, main: Main) -> None:
    (here / "some.yaml").write_text("trainer:\n  max_time: null\n  max_epochs: 1\n")
    assert main("--config", "some.yaml")
