"""A process that another one starts: it works in its folder alone, and is stopped with the one that started it."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from wnseq._files import locked
from wnseq.training.signals import handled_signals

__all__ = ["alone_in", "run_child"]


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


def run_child(command: Sequence[str], output: BinaryIO, held: Sequence[int]) -> int:
    """Run a process to its end, and pass on to it the signals that stop a program.

    Args:
        command: The command.
        output: File for what it prints.
        held: Descriptors that it inherits.

    Returns:
        Its exit status.

    Raises:
        SystemExit: A signal came, and the process has ended; with 128 and the number of the signal.
    """
    came: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for process in started:
            process.send_signal(number)

    with handled_signals(pass_on):
        # in a new session, so that Ctrl-C reaches it only from here
        process = subprocess.Popen(
            command, pass_fds=held, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        started.append(process)
        with process:
            if came:
                process.send_signal(came[0])
            status = process.wait()
    if came:
        raise SystemExit(128 + came[0])
    return status
