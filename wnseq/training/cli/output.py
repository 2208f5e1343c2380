"""Standard output and standard error that nobody reads, that are closed, or that have only ASCII."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

__all__ = ["safe_output"]

GONE = (errno.EPIPE, errno.EIO, errno.ENOSPC)  # a pipe's reader; the terminal, whose end is a SIGHUP; the disk's room


class _Tolerant:
    """A stream that discards what is written after its reader has gone: a run goes on, its results are in files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or discard."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or discard."""
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        if error.errno not in GONE:
            raise error
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())  # what is buffered, and what others write, goes there


@contextmanager
def safe_output() -> Iterator[None]:
    """Make prints of the block succeed whatever standard output and standard error are.

    Without a reader (``| head``), after the end of the terminal, on a full disk, or where they are closed (``>&-``) the
    text is lost; where the encoding lacks a character, it is written as ``?``.
    """
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name) or nowhere
            if getattr(stream, "errors", None) == "strict":
                stream.reconfigure(errors="replace")
            setattr(sys, name, _Tolerant(stream))
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(ValueError):  # closed meanwhile
                    stream.flush()
            sys.stdout, sys.stderr = before
