"""How a run ends when it does not end well: one paragraph and an exit status, instead of a traceback."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

TRACEBACK = "WNSEQ_TRACEBACK"
# What a user's mistake looks like. Everything else (AttributeError, KeyError, RuntimeError, ...) is a bug of ours or of
# the recipe and keeps its traceback, except where torch raises a bare RuntimeError: weights that do not fit the model,
# a full disk.
MISTAKES = (ValueError, TypeError, OSError, FloatingPointError, MisconfigurationException, torch.OutOfMemoryError)
BARE = re.compile(r"Error\(s\) in loading state_dict|\[enforce fail at inline_container|PytorchStreamWriter failed")


def guess(word: str, words: Iterable[str]) -> str:
    """Ask whether the nearest of ``words`` was meant, or say nothing where none is near.

    Example:
        >>> guess("--model.cel", ["--model.cell", "--model.layers"])
        ' Did you mean --model.cell?'
        >>> guess("--xyz", ["--model.cell"])
        ''
    """
    nearest = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a user's mistake into one paragraph on stderr and exit status 1.

    Raises:
        SystemExit: status 1, caused by the mistake; in a terminal and in Python alike, as argparse does.

    Note:
        With the environment variable ``WNSEQ_TRACEBACK`` set, the exception passes as it was raised.
    """
    try:
        yield
    except (*MISTAKES, RuntimeError) as mistake:
        if os.environ.get(TRACEBACK) or not (isinstance(mistake, MISTAKES) or BARE.search(str(mistake))):
            raise
        sys.stdout.flush()  # what the run had to say stands before the error also in a file
        print(f"error: {mistake}\n({TRACEBACK}=1 shows where it was raised)", file=sys.stderr)
        raise SystemExit(1) from mistake
