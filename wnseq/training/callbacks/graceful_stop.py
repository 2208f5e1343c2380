"""Ctrl-C and SIGTERM: stop between two batches, where a checkpoint is exact, and leave with the right status."""

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


class GracefulShutdown(Callback):
    """Let the first Ctrl-C or SIGTERM take effect after a training batch, and the second at once.

    Lightning's own handling stops in the middle of a batch (Ctrl-C) or of a validation (SIGTERM), and resumes neither
    to the bit: the batch's data, or the rest of the validation, is skipped. A stop that is asked for during validation,
    or during the batch before it, therefore comes after the next batch.

    Note:
        Lightning puts the former handlers back when the fit ends. With several processes they must agree when to stop,
        so Lightning's own handling is left in place there.
    """

    def __init__(self) -> None:
        self._asked: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        # only the main thread may have handlers
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            raise KeyboardInterrupt
        self._asked = number
        # not print: its buffer may be in use where the signal struck
        os.write(2, b"\nstopping after this batch; the same again stops at once\n")

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        validation_follows = (batch_idx + 1) % (trainer.val_check_batch or float("inf")) == 0
        if not trainer.is_last_batch and not validation_follows:
            self.leave()

    def leave(self) -> None:
        """Stop now if that was asked for.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SIGTERMException: after SIGTERM.
        """
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self._asked == signal.SIGTERM:
            raise SIGTERMException


@contextmanager
def statuses() -> Iterator[None]:
    """Leave with the shell's statuses: 130 after Ctrl-C, 143 after SIGTERM (Lightning has 1 and 0).

    Raises:
        SystemExit: with that status.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except SIGTERMException:
        sys.exit(143)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's way out of Ctrl-C
            sys.exit(130)
        raise
