"""A folder in which one process works at a time, whatever becomes of the process that started it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wnseq._files import locked

__all__ = ["alone_in"]


@contextmanager
def alone_in(folder: Path) -> Iterator[list[int]]:
    """Hold a folder; wait, with a line on the screen, for a process that a parent which was killed has left in it.

    Yields:
        Descriptors to pass on to a process (``pass_fds``), which then holds the folder until its end.
    """
    with locked(folder) as held:
        if held:
            yield [held] if held > 0 else []
            return
    print(f"waiting for another process that works in {folder}", flush=True)
    with locked(folder, waits=True) as held:
        yield [held]
