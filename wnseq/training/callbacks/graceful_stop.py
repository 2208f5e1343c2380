"""SIGINT, SIGTERM and SIGHUP stop a run where a checkpoint is exact, in all processes, with the shell's status."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen, TimeoutExpired
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from wnseq.training._lightning_internals import gradient_is_pending, replace_sigterm_handler, stop_after_batch
from wnseq.training.callbacks.exact_places import awaits_validation, resumes_exactly
from wnseq.training.ranks import RankAgreement
from wnseq.training.signals import handle_signals, handled_signals

__all__ = ["GracefulShutdown", "StopAtOnce", "exit_on_signals"]

PATIENCE = 5.0  # seconds in which signals count as one: a closed terminal or a scheduler sends several


class StopAtOnce(KeyboardInterrupt):
    """Ends a run in the midst of a batch, at a second request; no checkpoint is saved on it."""


class GracefulShutdown(Callback):
    """Stop at SIGINT, SIGTERM or SIGHUP where a checkpoint is exact: after a training batch, or in a validation.

    Lightning alone stops in the middle of a batch (SIGINT), after the validation (SIGTERM) or without a checkpoint
    (SIGHUP), and with several processes it broadcasts inside the handler, which may wait for ever. Here a handler only
    leaves a note, and the ranks agree at the next batch. Signals of the next five seconds, and those that come while
    the checkpoint is written, change nothing; one in between stops at once, and the last checkpoint stands.

    An evaluation or a prediction by one process has nothing to save and stops at once.

    Note:
        Lightning restores the former handlers when the fit ends. A SIGHUP that is ignored, as under nohup, stays so.
    """

    def __init__(self) -> None:
        self._requested = 0  # the signal's number
        self._since = 0.0
        self._defers = False
        self._stops = False
        self._agreement = RankAgreement()
        self._others: list[Popen[Any]] = []
        self._awaits_validation = False
        self._last_step = -1

    @property
    def status(self) -> int:
        """The exit status of a run that was stopped: 128 and the number of the signal. 0 if none came."""
        return 128 + self._requested if self._requested else 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        if stage == "fit":
            self._requested, self._stops = 0, False  # of an earlier fit
        replace_sigterm_handler(trainer, self._request)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        self._awaits_validation = trainer.state.fn == TrainerFn.FITTING and awaits_validation(checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._last_step = trainer.max_steps
        self._awaits_validation &= trainer.enable_validation
        if self._awaits_validation and trainer.max_steps > 0:
            trainer.fit_loop.epoch_loop.max_steps += 1  # or Lightning finds nothing left to do after the last step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._defers = True
        self._agreement.begin(trainer)
        handle_signals(self._request)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._awaits_validation:
            trainer.fit_loop.epoch_loop.max_steps, self._awaits_validation = self._last_step, False
        self._begin_evaluation(trainer, trainer.num_val_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._begin_evaluation(trainer, trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._begin_evaluation(trainer, trainer.num_predict_batches)

    def _begin_evaluation(self, trainer: Trainer, batches: list[int | float]) -> None:
        if trainer.sanity_checking:
            return
        self._agreement.begin(trainer, sum(batches))
        if trainer.state.fn != TrainerFn.FITTING:
            self._defers = trainer.world_size > 1
            handle_signals(self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._stops or (self._requested and time.monotonic() < self._since + PATIENCE):
            return
        if self._requested:
            self._stops = True
            raise StopAtOnce
        self._requested, self._since = number, time.monotonic()
        if not self._defers:
            self._stops = True
            raise SIGTERMException(self.status)
        with suppress(OSError):  # the terminal may have been closed, which is what SIGHUP says
            # not print: its buffer may be in use when the signal arrives
            os.write(2, b"\nstopping after this batch; the same in five seconds stops at once, without a checkpoint\n")

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_possible = self._requested or trainer.world_size > 1
        if is_possible and resumes_exactly(trainer) and self._is_agreed(trainer):
            stop_after_batch(trainer)  # not here, where the batch is not logged yet

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        is_exact = trainer.state.fn != TrainerFn.FITTING or not gradient_is_pending(trainer)  # or at the next step
        if is_exact and not trainer.sanity_checking:
            self._stop_if_agreed(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        self._stop_if_agreed(trainer)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        self._stop_if_agreed(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._agreement.begin(trainer)  # of the batches of training that follow

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._agreement.begin(trainer)
        self._is_agreed(trainer)

    on_test_end = on_predict_end = on_train_end

    def _is_agreed(self, trainer: Trainer) -> bool:
        """Return True if the run is to stop here, in all processes."""
        self._stops = self._agreement.largest(trainer, self._requested) > 0
        if self._stops:
            self._requested = int(self._agreement.value)
        return self._stops

    def _stop_if_agreed(self, trainer: Trainer) -> None:
        if self._is_agreed(trainer):
            raise SIGTERMException(self.status)

    def stop_if_requested(self) -> None:
        """Stop after the training, if a signal came since the last batch; other processes know of it.

        Raises:
            SIGTERMException: It came.
        """
        if self._stops:
            raise SIGTERMException(self.status)

    @contextmanager
    def handling(self, trainer: Trainer) -> Iterator[None]:
        """Handle the signals of a block between and after the Trainer's loops."""
        self._defers = trainer.world_size > 1
        with handled_signals(self._request):
            yield

    def stop_at_once(self) -> None:
        """From here on do not wait for the other processes, which have nothing left to do.

        Raises:
            SIGTERMException: A signal has come already.
        """
        self._defers = False
        if self._requested:
            raise SIGTERMException(self.status)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: D102
        if self._stops and isinstance(exception, SIGTERMException):
            # Lightning kills this process when it sees that one which it started has ended with another status than 0
            started: list[Popen[Any]] = getattr(trainer.strategy.launcher, "procs", [])
            self._others = started[:]
            started.clear()

    def wait_for_others(self) -> None:
        """Wait until the processes that Lightning started have ended, each with the status of this one."""
        for process in self._others:
            with suppress(TimeoutExpired):
                process.wait(PATIENCE)
        self._others = []


@contextmanager
def exit_on_signals(*, ends_process: bool) -> Iterator[None]:
    """Exit with the shell's status after a signal: 130 after Ctrl-C, 143 after SIGTERM (Lightning has 1 and 0).

    Args:
        ends_process: Whether the process ends then; more signals do not change its status.

    Raises:
        SystemExit: With that status.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        status = error.code if isinstance(error, SystemExit) else 130
        if status is None and isinstance(error, SIGTERMException):
            status = 143
        if status == 1 and isinstance(error.__context__, KeyboardInterrupt):  # Lightning's way out of Ctrl-C
            status = 130
        if ends_process and isinstance(status, int) and status > 128:
            handle_signals(signal.SIG_IGN)
        if isinstance(error, SystemExit) and status == error.code:
            raise
        sys.exit(status)
