"""The signals that stop a program: how they are handled for a while. Nothing here imports Lightning."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

__all__ = ["exit_on_signal", "handle_signals", "handled_signals", "held_signals"]

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def handle_signals(handler: Any) -> dict[int, Any]:
    """Install a handler of SIGINT, SIGTERM and SIGHUP; return those before.

    In another thread than the main one nothing changes. A signal that is ignored, as SIGHUP under nohup, stays so; but
    not SIGINT, which a shell's background jobs ignore.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ignored = [number for number, old in before.items() if old == signal.SIG_IGN and number != signal.SIGINT]
    for number in before.keys() - ignored:
        signal.signal(number, handler)
    return before


@contextmanager
def handled_signals(handler: Any) -> Iterator[None]:
    """Handle the signals of a block as :func:`handle_signals` does."""
    before = handle_signals(handler)
    try:
        yield
    finally:
        for number, old in before.items():
            if old is not None:  # one that was not installed by Python
                signal.signal(number, old)


@contextmanager
def held_signals() -> Iterator[Callable[[], None]]:
    """Hold the signals of a block back until it ends, or calls what is yielded."""
    came: list[int] = []
    before = handle_signals(lambda number, frame: came.append(number))

    def deliver() -> None:
        while came:
            number = came.pop(0)
            hold = signal.signal(number, before[number] or signal.SIG_DFL)
            signal.raise_signal(number)
            signal.signal(number, hold)

    try:
        yield deliver
    finally:
        for number, old in before.items():
            signal.signal(number, old or signal.SIG_DFL)
        for number in came:
            signal.raise_signal(number)


def exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """Exit with the status by which a shell names a signal, as its handler.

    Raises:
        SystemExit: With 128 and the signal's number.
    """
    raise SystemExit(128 + number)
