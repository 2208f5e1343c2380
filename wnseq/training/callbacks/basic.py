"""Callbacks of every run: exact resume, speed, a stop at a loss that is not finite, safe checkpoints."""

import math
import os
import random
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from wnseq.errors import not_comparable
from wnseq.training._lightning_internals import begin_epoch_again, gradient_is_left, gradient_is_pending, resumed_from
from wnseq.training.callbacks.exact_places import begin_validation, resumes_exactly, rewind_validation
from wnseq.training.callbacks.graceful_stop import StopAtOnce
from wnseq.training.checkpoint_io import load_checked
from wnseq.training.cli.errors import suggest
from wnseq.training.evaluation import is_fitting
from wnseq.training.ranks import all_gather_object

__all__ = ["CheckMonitors", "Checkpoint", "EpochTime", "KeepPatience", "RngState", "TerminateOnNaN", "Throughput"]

LOG_AFTER = 0.5  # seconds between two figures of the throughput: Lightning takes up to a millisecond to log a number
LIMIT = "limit_val_batches"
ASK_EVERY = 10  # batches between two questions for the time since the last checkpoint


def _cuda_is_used() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _rng_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)
    words = numpy_state["state"]
    return {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {"key": words["key"].tolist(), "pos": int(words["pos"])}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if _cuda_is_used() else [],
    }


class RngState(Callback):
    """Save the state of the random generators in checkpoints, so that a resumed run repeats the uninterrupted one.

    These are Python's, NumPy's, torch's and every CUDA device's generator of each rank, as plain types and tensors,
    since Lightning loads a checkpoint with ``weights_only=True``. Lightning saves none of them.

    All ranks draw the same initial weights. When training starts, each rank is seeded differently, for its own dropout.

    Note:
        They are restored when training starts again, and once more at its first batch if that is inside an epoch: the
        loader's new iterator may have drawn numbers, and the uninterrupted run made its own earlier. A checkpoint that
        is saved in a validation has the state at its start, where the resumed run begins.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._restored: dict[str, Any] | None = None
        self._at_validation: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        own = self._at_validation or _rng_states()
        return {"processes": [own] if self._trainer is None else all_gather_object(self._trainer, own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._restored is not None:
            saved = len(self._restored["processes"] or [])
            if saved == trainer.world_size:
                return
            self._restored = None
            states = f"the random generators of {saved}" if saved else "no random generators of its"
            pl_module.print(
                f"the checkpoint has {states} processes, and this run has {trainer.world_size}: from here on it draws "
                "other random numbers than the first run would have drawn, those of dropout among them"
            )
        if trainer.world_size > 1:
            root = np.random.SeedSequence((torch.initial_seed(), trainer.global_rank, trainer.global_step))
            seed = int(root.generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._restored is not None:
            self._restore()
            begin_epoch_again(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if batch_idx > 0:
            self._restore()
        self._restored = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if is_fitting(trainer):
            self._restore()
            self._restored, self._at_validation = None, _rng_states()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._at_validation = None

    def _restore(self) -> None:
        if self._restored is None:
            return
        state = self._restored["processes"][0 if self._trainer is None else self._trainer.global_rank]
        random.setstate(state["python"])
        words = state["numpy"]["state"]
        np.random.set_state({**state["numpy"], "state": {**words, "key": np.array(words["key"], dtype=np.uint32)}})
        torch.set_rng_state(state["torch"].cpu())
        if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
            torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])


class Throughput(Callback):
    """Log the speed of training as ``train/<unit>_per_s``, validation excluded.

    It is a running mean over about the last 20 batches, over all ranks, logged at the first batch of an epoch and then
    twice a second.

    Args:
        unit: The plural of what is counted: ``tokens``, ``images``.
        count: The function from a batch to their number in it.
    """

    def __init__(self, unit: str, count: Callable[[Any], int]) -> None:
        self.name = f"train/{unit}_per_s"
        self.count = count
        self._count = self._seconds = self._since = self._logged = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._since = time.perf_counter()  # a run that resumes inside an epoch may skip its start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._since = time.perf_counter()

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._count = 0.95 * self._count + self.count(batch) * trainer.world_size
        self._seconds = 0.95 * self._seconds + now - self._since
        self._since = now
        if batch_idx == 0 or now - self._logged >= LOG_AFTER:
            self._logged = now
            pl_module.log(self.name, self._count / self._seconds, prog_bar=True)


class EpochTime(Callback):
    """Log ``train/seconds_per_epoch`` of each whole epoch, validation excluded.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[EpochTime()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._started: float | None = None
        self._paused = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if batch_idx == 0:
            self._started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._started is not None:
            self._started += time.perf_counter() - self._paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._started is not None:
            pl_module.log("train/seconds_per_epoch", time.perf_counter() - self._started)
        self._started = None


class TerminateOnNaN(Callback):
    """Stop at the first training loss that is not finite, before its gradient reaches the weights.

    Several ranks check the mean of their losses, and so stop together.

    Raises:
        FloatingPointError: It names the step. No checkpoint is written on it.
    """

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:  # noqa: D102
        mean = trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")  # in place
        if not math.isfinite(value := float(mean)):
            raise FloatingPointError(
                f"the training loss is {value} at step {trainer.global_step}, epoch {trainer.current_epoch}. Lower the "
                "learning rate, clip the gradient (--trainer.gradient_clip_val), or use --trainer.precision 32. "
                "No checkpoint was written of it; those of earlier epochs are kept."
            )


class CheckMonitors(Callback):
    """Check after the sanity validation that what the other callbacks monitor is logged; a misspelt name stops the run.

    Raises:
        ValueError: A callback has a ``monitor`` that no validation logs. ``train/…`` is not checked.
    """

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        logged = list(trainer.callback_metrics)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and monitor not in logged and not monitor.startswith("train/"):
                raise ValueError(
                    f"{type(callback).__name__} monitors {monitor!r}, which a validation does not log: it logs "
                    f"{', '.join(logged)}.{suggest(monitor, logged)}"
                )


class KeepPatience(Callback):
    """Keep the patience that a fit gives to EarlyStopping, where Lightning restores that of the resumed run.

    A run that EarlyStopping had ended stays ended, unless it is given more patience.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        self._given = {each: each.patience for each in trainer.early_stopping_callbacks}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        for each, patience in self._given.items():
            each.patience = patience
            if 0 < each.wait_count >= patience:
                trainer.should_stop = True


class Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, for runs that diverge, are stopped and resumed.

    A run that diverges, or fails in a validation or before its first batch, keeps its last checkpoint: a run to be
    resumed is not restored as a whole before that. Several ranks save at a stop that they
    have agreed on, and on no other exception: one may have failed alone, and saving needs them all.

    Inside an epoch it saves where a run resumes to the bit, not between the batches of a gradient: at a step before a
    validation that is at the validation's start, and a checkpoint saved in a validation resumes with the whole of it.

    Each file also holds the metrics at that time, under ``metrics``.

    Raises:
        ValueError: A resumed run validates on another number of batches than the losses that it compares with.

    Note:
        A resumed run finds the best checkpoint so far beside the one that it resumes from, or where it was saved.
        Lightning alone would forget its score where the folder is another, and call a worse checkpoint the best.
    """

    _trainer: Trainer | None = None
    _trains = False  # whether this fit has come to a batch
    _validates = False
    _places = 0
    _limit: float = 0  # of the validations so far
    _metrics: dict[str, float] = {}  # noqa: RUF012  # of a checkpoint that a fit resumes from

    @cached_property
    def state_key(self) -> str:  # noqa: D102  # type: ignore[override]
        return super().state_key  # which Lightning reads at every hook of every batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        super().setup(trainer, pl_module, stage)
        self._trainer, self._trains = trainer, False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        self._metrics = checkpoint.get("metrics", {}) if trainer.state.fn == TrainerFn.FITTING else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        super().on_train_start(trainer, pl_module)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})
        self._metrics = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        self._trains = True

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_never_due = self._every_n_train_steps < 1 and self._train_time_interval is None
        if is_never_due or not resumes_exactly(trainer):
            return
        self._places += 1
        # for the time since the last one Lightning asks rank 0, as long as a small batch takes
        if trainer.world_size == 1 or self._train_time_interval is None or self._places % ASK_EVERY == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if is_fitting(trainer):
            self._validates = True
            begin_validation(trainer)
            if not gradient_is_pending(trainer):
                super().on_train_batch_end(trainer, pl_module, None, None, 0)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._validates = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        checkpoint["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._validates:
            rewind_validation(checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: D102
        if not self._trains or isinstance(exception, FloatingPointError | StopAtOnce):
            return
        if trainer.state.fn != TrainerFn.FITTING:
            return
        is_exact = not (trainer.validating or trainer.world_size > 1 or gradient_is_left(trainer))
        if is_exact or isinstance(exception, SIGTERMException):
            super().on_exception(trainer, pl_module, exception)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        limit = getattr(self._trainer, LIMIT, 0) or self._limit  # a run without validations keeps that of its figures
        return {**super().state_dict(), **({LIMIT: limit} if limit and self.best_model_score is not None else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        if self._trainer and self._trainer.state.fn == TrainerFn.FITTING and LIMIT in state_dict:
            self._limit = state_dict[LIMIT]
            check_limit(self._limit, getattr(self._trainer, LIMIT))
        resumed = self._trainer and resumed_from(self._trainer)

        def found(path: str) -> str:
            beside = Path(os.path.realpath(str(resumed))).with_name(Path(path).name or "none")  # moved with its folder
            return str(beside) if resumed and path and beside.is_file() else path

        if Path(best := found(state_dict["best_model_path"])).is_file() and self._is_the_best(Path(best), state_dict):
            scores = {found(path): score for path, score in state_dict["best_k_models"].items()}
            paths = {"best_model_path": best, "kth_best_model_path": found(state_dict["kth_best_model_path"])}
            super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath})

    def _is_the_best(self, path: Path, state_dict: dict[str, Any]) -> bool:
        """Return True if a file is still the best checkpoint of a state, and not a later one of a run that went on.

        In the folder of the resumed run itself a later one is of the same run, which comes to it again.
        """
        score, monitor = state_dict["best_model_score"], state_dict["monitor"]
        resumed = self._trainer and resumed_from(self._trainer)
        own = score is None or path.parent.resolve() == Path(self.dirpath or ".").resolve()
        if own or (resumed and path.resolve() == Path(str(resumed)).resolve()):
            return True
        saved = load_checked(path).get("metrics", {}).get(monitor)
        if saved is None or saved == float(score):
            return True
        print(
            f"{path} has {monitor} {saved:.4g} now, and was the best with {float(score):.4g} when the resumed "
            "checkpoint was saved: that run went on. The best is looked for from here on."
        )
        return False


def check_limit(before: float, now: float) -> None:
    """Check that a resumed run validates on as many batches as before, or on none.

    Raises:
        ValueError: Its losses could not be compared with those before.
    """
    if now != 0 and repr(before) != repr(now):  # 1 is one batch, 1.0 all
        raise ValueError(not_comparable(LIMIT, before, now))
