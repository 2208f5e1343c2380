"""The log of a run, ``metrics.csv``, that a resumed run goes on with as if it had never been stopped."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from wnseq._files import atomic_write
from wnseq.training._lightning_internals import pending_metrics, resumed_from, set_logged_steps

__all__ = ["LogState", "RunLog", "logged_before", "read_rows"]

Row = dict[str, Any]


class RunLog(CSVLogger):
    """Lightning's CSVLogger with one row for each step, which may be resumed.

    The newest row is kept back until the next step, since more may be logged of its step, or until the fit ends. The
    rows before it are in the file, and :class:`LogState` puts the newest into the checkpoints: a resumed run cuts the
    file where the checkpoint was saved and goes on.

    Args:
        folder: The folder of ``metrics.csv``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(logger=[RunLog("runs")], callbacks=[LogState()], accelerator="cpu")
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="")
        self.path = Path(folder, ExperimentWriter.NAME_METRICS_FILE)
        self._columns: list[str] = []
        self._row: Row = {}
        self._written: tuple[int, int] = (-1, 0)  # step of the last row in the file, and the byte where it begins

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The first rank's writer of ``hparams.yaml``; it leaves the files in the folder alone."""
        if self._experiment is None:
            self._experiment = _Writer(str(self.path.parent))
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add values to the row of a step."""
        step = max(self._written[0], self._row.get("step", -1)) + 1 if step is None else step
        if self._row and self._row["step"] != step:
            self.write()
        if not self._row and self._written[0] == step:
            self._take_back()
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._row |= values | {"step": step}

    @rank_zero_only
    def save(self) -> None:
        """Write the hyper-parameters; Lightning calls this after each value."""
        if self._experiment is not None:
            self._experiment.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the newest row."""
        self.save()
        self.write()

    def write(self) -> None:
        """Write the newest row, and the whole file again if there is a new column."""
        if not self._row:
            return
        columns = sorted({*self._columns, *self._row})
        if columns != self._columns or not self.path.exists():
            self._rewrite(read_rows(self.path), columns)
        self._written = (self._row["step"], self.path.stat().st_size)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(self._row)
        self._row = {}

    def snapshot(self, pending: Mapping[str, Any], step: int) -> Row:
        """Return the newest row with what is about to be added to it, when the rows before it are on the disk."""
        if pending and self._row.get("step") != step:
            self.write()
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return self._row | (dict(pending) | {"step": step} if pending else {})

    def resume(self, row: Row, step: int, source: Path) -> list[Row]:
        """Begin with the rows that a log has before a row, or before a step if there is no row.

        Args:
            row: The newest row at the checkpoint, which a :meth:`snapshot` returned.
            step: Steps done at the checkpoint.
            source: The log; this one, or that of the run that another goes on from.

        Returns:
            All rows, that one included.
        """
        rows = read_rows(source, before=row.get("step", step))
        self._row = dict(row)
        self._written = (-1, 0)
        if rows or self.path.exists():
            self._rewrite(rows, sorted({"step"}.union(*rows)))
        return [*rows, self._row] if self._row else rows

    def _rewrite(self, rows: Iterable[Row], columns: list[str]) -> None:
        self._columns = columns
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns)
        table.writeheader()
        table.writerows(rows)
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode())

    def _take_back(self) -> None:
        """Remove the last row from the file, to add to it."""
        step, start = self._written
        self._row = next(row for row in reversed(read_rows(self.path)) if row["step"] == step)
        os.truncate(self.path, start)
        self._written = (-1, 0)


def read_rows(path: Path, before: int | None = None) -> list[Row]:
    """Return the rows of a log whose values are kept as text, and their steps as numbers; none if there is no file.

    A last row that was cut short is left out.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if None in row or None in row.values() or not (row.get("step") or "").isdecimal():
                continue
            step = int(row["step"])
            if before is None or step < before:
                rows.append({name: value for name, value in row.items() if value != ""} | {"step": step})
    return rows


class LogState(Callback):
    """Keep in checkpoints what a :class:`RunLog` has not written yet, and go on with the log in a resumed run.

    What Lightning is about to log of the batch, or of the epoch, at whose end a checkpoint is saved is kept too: a
    resumed run begins behind that.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._row: Row | None = None
        self._is_resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        trainer = self._trainer
        log = _find_log(trainer)
        if trainer is None or log is None:
            return {}
        step, pending = pending_metrics(trainer)  # all ranks, since it may sum over them
        if not trainer.is_global_zero:
            return {}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        return {"row": log.snapshot(pending, step)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self._row = state_dict.get("row", {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        checkpoint, log = resumed_from(trainer), _find_log(trainer)
        self._is_resumed = checkpoint is not None
        if checkpoint is None or log is None or not trainer.is_global_zero:
            return
        checkpoints = Path(checkpoint).resolve().parent
        source = (checkpoints.parent if checkpoints.name == "checkpoints" else checkpoints) / log.path.name
        is_own = source == log.path.resolve()
        rows = log.resume(self._row or {}, trainer.global_step, source)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):  # its own file has all but the newest row
                logger.experiment.purge_step = None  # it has been purged; a writer that opens again would do it again
                for row in rows[-1:] if is_own and self._row else [] if is_own else rows:
                    values = {name: float(value) for name, value in row.items() if name != "step"}
                    logger.log_metrics(values, row["step"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if self._is_resumed and pl_module.automatic_optimization:
            set_logged_steps(trainer)
        self._is_resumed = False


def logged_before(checkpoint: Mapping[str, Any]) -> int:
    """Return the first step whose values a run that resumes from a checkpoint logs, again or for the first time."""
    row = checkpoint.get("callbacks", {}).get(LogState.__name__, {}).get("row", {})
    return int(row["step"] if "step" in row else checkpoint["global_step"])


def _find_log(trainer: Trainer | None) -> RunLog | None:
    return next((logger for logger in (trainer.loggers if trainer else ()) if isinstance(logger, RunLog)), None)


class _Writer(ExperimentWriter):
    """Lightning's, which would delete the log of a folder in use; only its ``hparams.yaml`` is wanted here."""

    def _check_log_dir_exists(self) -> None:
        """Do nothing."""
