"""A wrong option is answered by one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

Main = Callable[..., dict[str, float]]
Fails = Callable[..., str]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--trainer.max_epoch", "3"],
            "toy fit: error: unknown option --trainer.max_epoch. Did you mean --trainer.max_epochs?",
        ),
        (["--model.cel=gru"], "toy fit: error: unknown option --model.cel. Did you mean --model.cell?"),
        (["test"], "toy test: error: test needs --ckpt_path: a file, or best or last of the newest run."),
        (["test", "--frobnicate"], "toy test: error: unknown option --frobnicate."),
        (["tset"], "toy: error: unknown subcommand 'tset'. Did you mean test?"),
        (["fit", "stray"], "unexpected argument 'stray': options begin with --."),
        (["--model.cell", "gruu"], "option --model.cell: expected one of lstm, gru, got gruu. Did you mean gru?"),
        (["--model.lr", "fast"], "option --model.lr: expected float, got fast."),
        (["--model.lr"], "option --model.lr: expected one argument."),
        (["--trainer.max_epochs", "three"], "option --trainer.max_epochs: expected int or null, got three."),
        (["--seed_everything", "x"], "option --seed_everything: expected bool or int, got x."),
        (
            ["--trainer.logger", "CSV"],
            "option --trainer.logger: expected Logger or Iterable[Logger] or bool or null, got CSV.",
        ),
        (["-c", "none.yaml"], "option --config: File does not exist:"),
    ],
)
def test_a_wrong_option_is_one_line(here: Path, fails: Fails, words: list[str], said: str) -> None:
    error = fails(2, *words)
    assert said in error
    assert error.endswith(" See --help.\n")
    assert error.count("\n") == 1
    assert list(here.iterdir()) == []


def test_a_wrong_option_in_a_file_has_a_suggestion_too(here: Path, fails: Fails) -> None:
    Path("run.yaml").write_text("model:\n  widht: 3\n")
    assert (
        fails(2, "-c", "run.yaml")
        == "toy: error: unknown option model.widht. Did you mean --model.width? See --help.\n"
    )


def test_a_literal_among_other_types_is_written_out(here: Path, fails: Fails) -> None:
    error = fails(2, "--trainer.precision", "17")
    assert error.startswith(
        "toy fit: error: option --trainer.precision: expected 64 or 32 or 16 or 'transformer-engine' or"
    )
    assert error.endswith(" or null, got 17. See --help.\n")
