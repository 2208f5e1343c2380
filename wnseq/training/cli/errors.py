"""How a run ends after a user's mistake: one paragraph and an exit status, instead of a traceback."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

__all__ = ["suggest", "user_errors"]

TRACEBACK = "WNSEQ_TRACEBACK"
# What a user's mistake raises. Everything else (AttributeError, KeyError, RuntimeError, ...) is a bug of wnseq or of
# the recipe and keeps its traceback, except where torch raises a plain RuntimeError: weights that do not fit the model,
# a full disk.
MISTAKES = (
    ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError, MisconfigurationException,
    torch.OutOfMemoryError,
)  # fmt: skip
RUNTIME_MISTAKES = re.compile(
    r"Error\(s\) in loading state_dict|\[enforce fail at inline_container|PytorchStreamWriter failed"
)


def suggest(word: str, words: Iterable[str]) -> str:
    """Return a sentence that suggests the nearest of ``words``, or nothing if none is near.

    Example:
        >>> suggest("--model.cel", ["--model.cell", "--model.layers"])
        ' Did you mean --model.cell?'
        >>> suggest("--xyz", ["--model.cell"])
        ''
    """
    nearest = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a user's mistake into one paragraph on stderr and exit status 1.

    Raises:
        SystemExit: Status 1, caused by the mistake; in a terminal and in Python alike, as argparse does.

    Note:
        With the environment variable ``WNSEQ_TRACEBACK`` set, the exception passes as it was raised.
    """
    try:
        yield
    except (*MISTAKES, RuntimeError) as mistake:
        is_users = isinstance(mistake, MISTAKES) or RUNTIME_MISTAKES.search(str(mistake))
        if os.environ.get(TRACEBACK) or not is_users:
            raise
        sys.stdout.flush()  # so that the run's output comes before the error in a file too
        print(f"error: {mistake}\n({TRACEBACK}=1 shows where it was raised)", file=sys.stderr)
        raise SystemExit(1) from mistake
