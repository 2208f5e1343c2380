"""Training loops that take turns, each in a process of its own: what one sets in the C library or in torch holds for
a whole process."""

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback
from torch import Tensor

from wnseq.training.benchmark._memory import process_peak

START_METHOD = "spawn"  # from nothing: a fork would inherit what its parent has set


class TurnTaker(Callback):
    """Waits for a number of steps, lets the loop take them, and sends back their seconds and losses.

    A Trainer takes it as a callback; any other loop sets :attr:`loss` at each step, and calls :meth:`next_step` before
    each and after the last. It works in the process of a :class:`TrainingProcess`.
    """

    connection: ClassVar["Connection[Any, Any]"]  # a class attribute: Lightning makes callbacks without arguments

    def __init__(self) -> None:
        self.loss: float | None = None
        self._steps = 0
        self._seconds: list[float] = []
        self._losses: list[float] = []
        self._start = 0.0

    def next_step(self) -> None:
        """End a step, if one was begun, and begin the next; between two turns, wait."""
        now = time.perf_counter()
        if self.loss is not None:
            self._seconds.append(now - self._start)
            self._losses.append(self.loss)
        if len(self._seconds) == self._steps:
            if self._steps:
                self.connection.send((self._seconds, self._losses, process_peak()))
            self._steps, self._seconds, self._losses = self.connection.recv(), [], []
            now = time.perf_counter()
        self._start = now

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """End a step and begin the next."""
        self.next_step()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss."""
        self.loss = loss.item()


class TrainingProcess:
    """A variant's process, as the benchmark sees it.

    Args:
        name: Name of the variant.
        train: Runs the whole loop with a :class:`TurnTaker`; a function that pickle finds by its name.
        args: Its arguments.
        folder: Where its output is written.
        threads: Number of torch's threads.
    """

    def __init__(
        self, name: str, train: Callable[..., Any], args: tuple[Any, ...], folder: Path, *, threads: int
    ) -> None:
        self.name = name
        self.losses: list[float] = []
        self.peak = 0.0  # MB of memory
        self._output = folder / f"{name}.txt"
        context: Any = multiprocessing.get_context(START_METHOD)
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_run, args=(train, args, self._output, threads, other_end))
        self._process.start()
        other_end.close()

    def take(self, steps: int) -> list[float]:
        """Have it take some steps; return the seconds of each.

        Raises:
            ValueError: It has ended; the message quotes its output.
        """
        try:
            self._connection.send(steps)
            seconds, losses, self.peak = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            status, lines = self._process.exitcode, self._output.read_text("utf-8", "replace").splitlines()
            said = "\n".join(lines[-5:])
            raise ValueError(f"the variant {self.name!r} ended with status {status}; it said:\n{said}") from None
        self.losses += losses
        return list(seconds)

    def mean_loss(self, part: slice) -> float:
        """Return the mean loss of some steps."""
        return fmean(self.losses[part])

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _run(
    train: Callable[..., Any],
    args: tuple[Any, ...],
    output: Path,
    threads: int,
    connection: "Connection[Any, Any]",
) -> None:
    sys.stdout = sys.stderr = output.open("w", encoding="utf-8")
    torch.set_num_threads(threads)
    TurnTaker.connection = connection
    train(*args)
