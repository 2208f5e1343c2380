"""The exceptions that torch and Python lack, and the gate through which files of other programs are read."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["FileFormatError", "ShapeError", "reading"]


class ShapeError(ValueError, RuntimeError):
    """A tensor of the wrong shape: a ValueError, and the RuntimeError that torch raises there."""


def raise_as_torch(run: Callable[[], Any], problem: str, error: type[Exception] = ShapeError) -> NoReturn:
    """Raise an error whose text begins with what torch says when it runs the same, and goes on with the problem."""
    try:
        run()
    except (RuntimeError, TypeError, ValueError) as torch_error:
        problem = f"{str(torch_error).rstrip('. ')}; {problem}"
    raise error(problem)


def not_comparable(name: str, before: object, now: object) -> str:
    """Return what is wrong with a resumed run whose validations have another setting, and the ways to go on."""
    return (
        f"The run to be resumed was validated with {name} {before}, this one has {now}: the best checkpoint, and what "
        f"else goes by the validation, would compare figures that are not comparable. Give the same {name}, or start a "
        "new run from the checkpoint's weights. test and validate may have another."
    )


class FileFormatError(ValueError):
    """A file that is damaged, cut short, or of another kind than its reader expects."""


@contextmanager
def reading(path: str | Path, kind: str, remedy: str = "") -> Iterator[None]:
    """Raise :class:`FileFormatError` for whatever a parser raises on a file that it was not made for.

    Parsers raise nearly anything on a damaged file: IndexError, KeyError, RecursionError, struct.error, zlib.error.

    Args:
        path: The file, for the error.
        kind: What it is read as, with its article.
        remedy: A sentence for the end of the error.

    Raises:
        FileFormatError: The block raised. One of its own, and an OSError of the system, are raised as they are.
    """
    try:
        yield
    except Exception as error:
        system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)  # EINVAL: a seek before 0
        if system or isinstance(error, FileFormatError):
            raise
        detail = f"{type(error).__name__}: {error}".strip(": ").partition("\n")[0]
        detail = detail if len(detail) <= 120 else f"{detail[:117]}..."
        raise FileFormatError(
            f"{path} can't be read as {kind}: it is damaged, cut short, or a file of another kind ({detail})."
            f"{' ' if remedy else ''}{remedy}"
        ) from error
