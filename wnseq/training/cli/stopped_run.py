"""How a run that is stopped ends: with the command that goes on from it, and the signal's status."""

import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from wnseq.training._lightning_internals import resumed_from
from wnseq.training.callbacks.graceful_stop import GracefulShutdown
from wnseq.training.cli.starting_point import resume_arguments
from wnseq.training.signals import handled_signals

__all__ = ["stopped_run"]


@contextmanager
def stopped_run(
    trainer: Trainer, shutdown: GracefulShutdown, run: Path | None, words: Sequence[str], program: str, *, is_new: bool
) -> Iterator[None]:
    """Print how to go on if the block is stopped by a signal, and end with its status.

    The folder of a new run that fails or is stopped before its first step is removed.

    Args:
        trainer: The Trainer that the block uses.
        shutdown: Its callback that stops it.
        run: The folder of the run; None for a command that leaves no files.
        words: The command line.
        program: The words before it.
        is_new: Whether the command has begun the run.

    Raises:
        SystemExit: With the status of the signal.
    """
    try:
        yield
    except BaseException as error:
        with handled_signals(signal.SIG_IGN):
            is_stop = isinstance(error, SystemExit | KeyboardInterrupt)
            if trainer.is_global_zero and run is not None:
                if trainer.global_step == 0 and is_new:
                    shutil.rmtree(run, ignore_errors=True)
                elif is_stop:
                    print(_how_to_resume(trainer, run / "checkpoints" / "last.ckpt", words, program), flush=True)
            shutdown.wait_for_others()
        if is_stop and shutdown.status:
            raise SystemExit(shutdown.status) from error
        raise


def _how_to_resume(trainer: Trainer, last: Path, words: Sequence[str], program: str) -> str:
    stopped = f"stopped at step {trainer.global_step}"
    resumed = Path(resumed_from(trainer) or last)
    if not (path := last if last.is_file() else resumed).is_file():
        return f"{stopped}; no checkpoint was written"
    step = torch.load(path, map_location="meta", weights_only=True, mmap=True)["global_step"]
    saved = "" if step == trainer.global_step else f"; the last checkpoint is of step {step}"
    return f"{stopped}{saved}. To go on from there:\n{program} {resume_arguments(words, path)}"
