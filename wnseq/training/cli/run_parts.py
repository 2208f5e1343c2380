"""What a run is given besides the user's own: callbacks, what writes checkpoints, no profiler; and its processes."""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, LearningRateMonitor, ProgressBar
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only

from wnseq.training.callbacks.basic import CheckMonitors, Checkpoint, KeepPatience, RngState, TerminateOnNaN
from wnseq.training.callbacks.epoch_means import EpochMeans
from wnseq.training.callbacks.progress import PlainProgress, RichProgress
from wnseq.training.callbacks.resume_epoch import ResumeEpoch
from wnseq.training.callbacks.schedule_change import ScheduleChange
from wnseq.training.checkpoint_files import load_run_checkpoint
from wnseq.training.checkpoint_io import WholeCheckpointIO
from wnseq.training.cli.starting_point import StartingPoint
from wnseq.training.run_log import LogState

__all__ = [
    "NoProfiler",
    "add_fit_options",
    "best_checkpoint",
    "build_callbacks",
    "build_plugins",
    "check_trainer",
    "give_checkpoint",
]

TUNERS = (BatchSizeFinder, LearningRateFinder)
MEASURED = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}


class NoProfiler(PassThroughProfiler):
    """Lightning's profiler that does nothing, a hundred times in each step: a fifth of a millisecond less."""

    _nothing: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Return a context in which nothing is recorded."""
        return self._nothing


def _as_list(users: Any) -> list[Any]:
    """Return what a Trainer's flag gave as a list."""
    return [] if users is None else list(users) if isinstance(users, Sequence) else [users]


def add_fit_options(parser: Any) -> None:
    """Add the options of ``fit`` that are about stops."""
    parser.add_argument(
        "--resume",
        type=str,
        help="The folder of a run to go on with, or last: its options hold where the command gives none.",
    )
    parser.add_argument(
        "--checkpoint.every_minutes",
        type=NonNegativeFloat,
        default=10.0,
        help="Minutes of training between two renewals of last.ckpt inside an epoch; 0 for none.",
    )
    parser.add_argument(
        "--checkpoint.every_steps",
        type=NonNegativeInt,
        default=0,
        help="Steps between two renewals of last.ckpt inside an epoch; 0 for none.",
    )


def build_callbacks(
    options: Namespace,
    own: Iterable[Callback],
    saving: Namespace,
    *,
    monitor: str,
    mode: str,
    folder: Path | None,
    logs: bool,
    start: StartingPoint | None = None,
) -> list[Callback]:
    """Return the callbacks of a run.

    Args:
        options: The Trainer's options, those of the user's callbacks among them.
        own: The recipe's callbacks.
        saving: When checkpoints inside an epoch are written: ``every_minutes``, ``every_steps``, 0 for never.
        monitor: The metric by which a checkpoint is the best.
        mode: ``min`` or ``max``: whether its smallest or its largest value is the best.
        folder: The run's folder; None for a command that leaves no files.
        logs: Whether there is a logger.
        start: What a fit starts from. One that goes on keeps what a tuner found, and leaves the tuner out.
    """
    users = _as_list(options.callbacks)
    tuners = [each for each in users if start and start.resumed and isinstance(each, TUNERS)]
    for tuner in tuners:
        rank_zero_only(print)(f"{type(tuner).__name__} is left out: the run goes on with what it had")
    users = [each for each in users if each not in tuners]
    callbacks = [*users, *own]
    if any(hasattr(callback, "monitor") for callback in users):
        callbacks += [CheckMonitors(), KeepPatience()]
    callbacks += [RngState(), ResumeEpoch(), EpochMeans(), LogState(), TerminateOnNaN(), ScheduleChange()]
    if options.enable_progress_bar in (None, True) and not any(isinstance(c, ProgressBar) for c in callbacks):
        callbacks.append(RichProgress(monitor) if sys.stdout.isatty() else PlainProgress(monitor))
    if folder is None:
        return callbacks
    if logs:
        callbacks.append(LearningRateMonitor("step"))
    if options.enable_checkpointing in (None, True):
        # no counter: a resumed run finds its own files in the folder, and renews them
        whole: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
        # save_on_train_epoch_end=False: a run that ends before its first validation has nothing to compare
        # without validations too: last.ckpt keeps what the best so far was for a run that goes on with them
        best: dict[str, Any] = {"filename": "best", "monitor": monitor, "mode": mode}
        callbacks.append(Checkpoint(**whole, **best, save_on_train_epoch_end=False))
        # others, since with save_last Lightning renews last.ckpt only when it renews the best
        # at the epoch's end: with validations inside an epoch Lightning would save at these alone
        last = whole | {"filename": "last", "save_on_train_epoch_end": True}
        callbacks.append(Checkpoint(**last, save_on_exception=True))
        if saving.every_minutes:
            callbacks.append(Checkpoint(**last, train_time_interval=timedelta(minutes=saving.every_minutes)))
        if saving.every_steps:
            callbacks.append(Checkpoint(**last, every_n_train_steps=saving.every_steps))
    return callbacks


def build_plugins(options: Namespace, start: StartingPoint | None = None) -> list[Any]:
    """Return the Trainer's plugins: the user's, and one that writes checkpoints if there is none among them.

    Args:
        options: The Trainer's options.
        start: The checkpoint that the command has read, which is not read twice.
    """
    users = _as_list(options.plugins)
    if any(isinstance(plugin, CheckpointIO) for plugin in users):
        return users
    own = WholeCheckpointIO()
    if start is not None and start.resumed:
        own.give(start.path, start.take_content())
    return [*users, own]


def best_checkpoint(trainer: Trainer) -> Path | None:
    """Return the best checkpoint of a fit, without validation the last, or None if none was written."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoint)]
    if trainer.limit_val_batches == 0:
        callbacks = [callback for callback in callbacks if callback.monitor is None]
    written = [Path(callback.best_model_path) for callback in callbacks if callback.best_model_path]
    return written[0] if written else None  # the best comes before the last


def give_checkpoint(trainer: Trainer, path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, and make the Trainer's next load of it take the same, without a second read."""
    content = load_run_checkpoint(path)
    if isinstance(plugin := trainer.strategy.checkpoint_io, WholeCheckpointIO):
        plugin.give(path, content)
    return content


def check_trainer(trainer: Trainer, model: LightningModule, subcommand: str | None) -> Trainer:
    """Return a Trainer that suits a command and its model.

    Raises:
        ValueError: It would start more processes on a CPU than it has cores, which may wait for ever; it leaves the
            command nothing to do; or the test after a training, for which the model adapts, would fail.
    """
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > (os.cpu_count() or 1):
        raise ValueError(
            f"--trainer.devices {trainer.num_devices} on a CPU are as many processes, and there are {os.cpu_count()} "
            "cores: give at most that many, or leave it out"
        )
    if (limit := MEASURED.get(subcommand or "")) and getattr(trainer, limit) == 0:
        raise ValueError(f"--trainer.{limit} 0 leaves {subcommand} nothing to do: give a larger one, or leave it out")
    adaptation: Any = getattr(model, "evaluation", None)
    if adaptation is None or subcommand != "fit" or trainer.limit_test_batches == 0:
        return trainer
    if adaptation.tune and trainer.limit_val_batches == 0:
        raise ValueError(
            "evaluation.tune needs validation batches, for the test after the training, got "
            "--trainer.limit_val_batches 0: leave one of them out"
        )
    if adaptation.dynamic_rate and trainer.world_size > 1:
        raise ValueError(
            "dynamic evaluation, in the test after the training, adapts the weights of one process, got "
            f"{trainer.world_size}: train with --trainer.devices 1, or evaluate with the command test afterwards"
        )
    return trainer
