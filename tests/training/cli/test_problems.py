"""The problems of a command, those of all its parts at once."""

from collections.abc import Callable

import pytest

Fails = Callable[..., str]


def test_the_problems_of_trainer_and_model_are_reported_at_once(fails: Fails) -> None:
    error = fails(1, "--trainer.accumulate_grad_batches=0", "--trainer.val_check_interval=0", "--model.lr=-1")
    assert (
        "error: --trainer.accumulate_grad_batches must be at least 1, got 0; --trainer.val_check_interval must be "
        "greater than 0, got 0; lr must be positive, got -1.0\n"
    ) in error


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--model.lr=-1", "error: lr must be positive, got -1.0\n"),
        ("--trainer.gradient_clip_val=-1", "error: --trainer.gradient_clip_val must be at least 0, got -1\n"),
        ("--data.corpus=missing", "error: corpus 'missing' is neither a name nor a file\n"),
    ],
)
def test_a_single_problem_is_as_it_was_raised(fails: Fails, words: str, text: str) -> None:
    assert text in fails(1, words)
