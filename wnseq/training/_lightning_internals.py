"""The only place that touches private names of Lightning, and argparse's list of options."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

TUNER_FILES = (".lr_find_", ".scale_batch_size_")  # how the names begin of files by which a tuner restores a model


class FlagsFirstCLI(LightningCLI):
    """LightningCLI in which the flags of the command line overrule the hyper-parameters of a checkpoint.

    Its parser knows the options of the subcommand ``typed[0]`` alone: those of all four take it a fifth of a second.
    """

    typed: list[str]

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Return the parser of a subcommand, without options for one that was not typed."""
        if self.typed[:1] == [subcommand]:
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        return self.init_parser(**kwargs)

    def _parse_ckpt_path(self) -> None:
        """Do nothing, where Lightning (since 2.5.5) lets the hyper-parameters overrule the flags."""


def subparsers(parser: Any) -> Mapping[str, Any]:
    """Return the parsers of a parser's subcommands by name."""
    return next(action.choices for action in parser._actions if isinstance(action.choices, dict))


def option_names(parser: Any) -> Iterable[str]:
    """Return the options of a parser as they are typed: ``--trainer.max_epochs``."""
    names: Iterable[str] = parser._option_string_actions
    return names


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders of training batches that ``Trainer.fit`` was called with, before Lightning prepares them."""
    given = trainer.fit_loop._data_source.dataloader()
    combined = given if isinstance(given, CombinedLoader) else CombinedLoader(given)
    return list(combined.flattened)


def pending_metrics(trainer: Trainer) -> tuple[int, dict[str, float]]:
    """Return the step and the metrics that Lightning logs after the hooks of a batch's or an epoch's end.

    There are none elsewhere.
    """
    loop, connector = trainer.fit_loop, trainer._logger_connector
    step = loop.epoch_loop._batches_that_stepped
    batches: Any = loop.epoch_loop.batch_progress
    epochs: Any = loop.epoch_progress
    if connector._first_loop_iter is None:
        ends = trainer.training and epochs.total.completed == epochs.total.processed - 1
        step -= 1  # Lightning lowers it only after the hooks
    else:
        ends = trainer.training and batches.total.completed == batches.total.processed - 1
        every: int = vars(trainer)["log_every_n_steps"]
        ends = ends and not loop._should_accumulate() and bool(every) and (step + 1) % every == 0
    if not ends or trainer._results is None or (trainer.world_size > 1 and trainer.interrupted):
        return step, {}
    values = {name: value.item() for name, value in connector.metrics["log"].items()}
    return step, values | {"epoch": trainer.current_epoch} if values else {}


def set_logged_steps(trainer: Trainer) -> None:
    """Make a resumed run count its steps for the loggers from those it has done.

    Lightning reckons them from the place where the checkpoint was saved, and is one off at some.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def epoch_sums(trainer: Trainer) -> dict[str, list[Tensor]]:
    """Return the sums, and the numbers of examples, of the metrics of a training epoch that is not over."""
    epochs: Any = trainer.fit_loop.epoch_progress.total
    sums = {}
    for key, metric in trainer.fit_loop.epoch_loop._results.items() if epochs.processed < epochs.started else ():
        if metric.is_tensor and metric.meta.on_epoch and metric.update_called and not metric.has_reset:
            counted = [metric.cumulated_batch_size] if metric.meta.is_mean_reduction else []
            sums[key] = [torch.as_tensor(value).detach().cpu().clone() for value in (metric.value, *counted)]
    return sums


def add_epoch_sums(trainer: Trainer, sums: dict[str, list[Tensor]]) -> None:
    """Add the sums of :func:`epoch_sums` to those metrics that have a value by now, and remove them from ``sums``."""
    results = trainer.fit_loop.epoch_loop._results
    for key in [key for key in sums if key in results and results[key].update_called]:
        metric, (value, *counted) = results[key], sums.pop(key)
        before = value.to(metric.value.device)
        if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
            metric.value = metric.meta.reduce_fx(torch.stack([before, metric.value]))
        else:
            metric.value = before + metric.value
        for number in counted:
            metric.cumulated_batch_size = metric.cumulated_batch_size + number.to(before.device)


def resumed_from(trainer: Trainer) -> str | None:
    """Return the checkpoint that a fit goes on from; None in a new one, also if a tuner has restored its model."""
    path = trainer.ckpt_path
    return None if path is None or PurePath(path).name.startswith(TUNER_FILES) else str(path)


def begin_epoch_again(trainer: Trainer) -> None:
    """Make a resumed fit's iterator of training batches once more where an epoch begins, and none has been drawn.

    An uninterrupted fit makes it there, and a shuffling loader draws random numbers for it; a resumed one made it
    before the states of the random generators were restored.
    """
    loop, fetcher = trainer.fit_loop, trainer.fit_loop._data_fetcher
    is_begin = loop.epoch_loop.batch_progress.is_last_batch  # of the epoch before
    if is_begin and fetcher is not None and fetcher.length is not None:  # else it has fetched a batch
        iter(fetcher)


def gradient_is_pending(trainer: Trainer) -> bool:
    """Return True if the last training batch only added to a gradient, which a later one completes."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def gradient_is_left(trainer: Trainer) -> bool:
    """Return True if the training batches that have ended left a gradient of which no step was taken."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    ended = progress.current.completed
    took_last_step = progress.is_last_batch and ended == progress.current.ready
    return ended % trainer.accumulate_grad_batches > 0 and not took_last_step


def validation_follows(trainer: Trainer) -> bool:
    """Return True if a validation follows the training batch that is about to end."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))  # type: ignore[arg-type]


def replace_sigterm_handler(trainer: Trainer, handler: Callable[[int, FrameType | None], None]) -> None:
    """Make a Trainer call a handler at SIGTERM instead of its own, which broadcasts and may wait for ever."""
    trainer._signal_connector._sigterm_notifier_fn = handler  # type: ignore[method-assign, assignment]


def stop_after_batch(trainer: Trainer) -> None:
    """Make a Trainer raise SIGTERMException when it has logged this training batch. All ranks must call it."""
    trainer._signal_connector.received_sigterm = True


def is_finished(trainer: Trainer) -> bool:
    """Return True if a fit has come to its end: all steps or epochs are done, or a callback has stopped it."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    steps_done = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs_done = trainer.max_epochs not in (None, -1) and progress.processed >= trainer.max_epochs
    return steps_done or epochs_done or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def epochs_started(trainer: Trainer) -> int:
    """Return the number of epochs that a fit has begun."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return int(progress.started)


def monitored(trainer: Trainer) -> tuple[str, float] | None:
    """Return the metric and its value by which a checkpoint that is being written was chosen; None if by none."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    validated = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.completed > 0
    validation_ends = trainer.validating and validated and trainer._logger_connector._first_loop_iter is None
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.monitor not in trainer.callback_metrics:
            continue
        value = float(trainer.callback_metrics[callback.monitor])
        is_epoch_end = progress.processed == progress.started and callback._should_save_on_train_epoch_end(trainer)
        is_best = callback.best_model_score is not None and value == float(callback.best_model_score)
        if validation_ends or (is_epoch_end and is_best and not trainer.validating):
            return callback.monitor, value
    return None


def start_next_epoch(trainer: Trainer) -> None:
    """Begin a resumed fit with the epoch after the one that it was saved at the end of, if it was."""
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end and loop.epoch_loop.batch_progress.is_last_batch:
        loop.epoch_progress.increment_completed()
        loop._restarting = loop.epoch_loop.restarting = False  # its setter holds on to True with max_steps
        loop.reset_restart_stage()
        loop.epoch_loop.reset_restart_stage()
