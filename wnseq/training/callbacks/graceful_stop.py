"""Ctrl-C and SIGTERM stop a run between two batches, where a checkpoint is exact, with the shell's exit status."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["GracefulShutdown", "exit_on_signals"]


class GracefulShutdown(Callback):
    """Stop after the current training batch at the first Ctrl-C or SIGTERM, and at once at the second.

    Lightning alone stops in the middle of a batch (Ctrl-C) or of a validation (SIGTERM), and cannot resume either to
    the bit: the batch's data, or the rest of the validation, is skipped. A request during validation, or during the
    batch before it, therefore takes effect after the next batch.

    Note:
        Lightning restores the former handlers when the fit ends. Several ranks must agree when to stop, so Lightning's
        own handlers stay in place there.
    """

    def __init__(self) -> None:
        self._requested: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._requested = None  # of an earlier fit
        # only the main thread may have handlers
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested is not None:
            raise KeyboardInterrupt
        self._requested = number
        # not print: its buffer may be in use when the signal arrives
        os.write(2, b"\nstopping after this batch; the same again stops at once\n")

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        validation_follows = (batch_idx + 1) % (trainer.val_check_batch or float("inf")) == 0
        if not trainer.is_last_batch and not validation_follows:
            self.stop_if_requested()

    def stop_if_requested(self) -> None:
        """Stop if a signal has requested it.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SIGTERMException: After SIGTERM.
        """
        if self._requested == signal.SIGINT:
            raise KeyboardInterrupt
        if self._requested == signal.SIGTERM:
            raise SIGTERMException


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Exit with the shell's status after a signal: 130 after Ctrl-C, 143 after SIGTERM (Lightning has 1 and 0).

    Raises:
        SystemExit: With that status.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except SIGTERMException:
        sys.exit(143)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's way out of Ctrl-C
            sys.exit(130)
        raise
