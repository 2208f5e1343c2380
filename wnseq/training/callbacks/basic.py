"""What Lightning lacks and every recipe needs: exact resume, throughput, a guard against NaN, safe checkpoints."""

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

RENEWED = 10  # batches after which the throughput is logged again


def all_gather_object(trainer: Trainer, value: Any) -> list[Any] | None:
    """Gather what each process of a Trainer has.

    Args:
        trainer: the Trainer; each of its processes calls this at the same place.
        value: what this process has: anything that can be pickled, tensors on the CPU.

    Returns:
        The values in the order of the processes, the same in all; None after an exception in one of several processes,
        where the others may never answer.
    """
    if trainer.world_size > 1 and trainer.interrupted:
        return None
    return [trainer.strategy.broadcast(value, src=rank) for rank in range(trainer.world_size)]


def _cuda_is_used() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _generators() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)
    words = numpy_state["state"]
    return {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {"key": words["key"].tolist(), "pos": int(words["pos"])}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if _cuda_is_used() else [],
    }


class RngState(Callback):
    """Keep the random generators in the checkpoint, so that a resumed run draws what the uninterrupted one draws.

    Python's, NumPy's, torch's and every CUDA device's generator of each process, as plain types and tensors, since a
    checkpoint is resumed with ``weights_only=True``. Lightning saves none of them.

    Several processes draw their weights alike, and from the start of training on each draws its own: other dropout.

    Note:
        Restored when training starts again, and once more at its first batch where that stands inside an epoch:
        making the loader's iterator may have drawn, and the uninterrupted run made its own earlier.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._restored: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        own = _generators()
        return {"processes": [own] if self._trainer is None else all_gather_object(self._trainer, own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._restored is not None:
            saved = len(self._restored["processes"] or [])
            if saved == trainer.world_size:
                return
            self._restored = None
            whose = f"the random generators of {saved}" if saved else "no random generators of its"
            pl_module.print(
                f"the checkpoint has {whose} processes, and this run has {trainer.world_size}: what is drawn from "
                "here on, dropout among it, is not what the first run would have drawn"
            )
        if trainer.world_size > 1:
            root = np.random.SeedSequence((torch.initial_seed(), trainer.global_rank, trainer.global_step))
            seed = int(root.generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._restore()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if batch_idx > 0:
            self._restore()
        self._restored = None

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
    """Log how fast training goes, as ``train/<unit>_per_s``, validation not counted.

    A running mean over about the last 20 batches, renewed every tenth: it follows a change of speed and does not
    flicker, and Lightning takes up to a millisecond to log a number. With several processes, what all do together, as
    the first sees it.

    Args:
        unit: what is counted, in the plural: ``tokens``, ``images``.
        count: how many of them a batch holds.
    """

    def __init__(self, unit: str, count: Callable[[Any], int]) -> None:
        self.name = f"train/{unit}_per_s"
        self.count = count
        self._count = self._seconds = self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._since = time.perf_counter()  # a run resumed inside an epoch may not come by its start

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
        if batch_idx % RENEWED == 0:
            pl_module.log(self.name, self._count / self._seconds, prog_bar=True)


class TerminateOnNaN(Callback):
    """Stop at the first loss that is not finite, before its gradient reaches the weights.

    Several processes look at the mean of their losses, and so stop together.

    Raises:
        FloatingPointError: naming the step. No checkpoint is written on it.
    """

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:  # noqa: D102
        mean = trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")  # in place
        if not math.isfinite(value := float(mean)):
            raise FloatingPointError(
                f"the training loss is {value} at step {trainer.global_step}, epoch {trainer.current_epoch}. Lower the "
                "learning rate, clip the gradient (--trainer.gradient_clip_val), or use --trainer.precision 32. "
                "No checkpoint was written of it; those of earlier epochs stand."
            )


class Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, for runs that diverge, are stopped and resumed.

    A run that diverged, or was cut short in the midst of a validation (which Lightning does not resume), keeps the
    checkpoint it had. A resumed run remembers the best of the one before. Several processes save on SIGTERM, by which
    Lightning stops them at the same batch, and on no other exception: one may have failed alone, and to save they
    would have to wait for each other.

    Each file also holds, under ``metrics``, what had been measured when it was saved.

    Note:
        A resumed run writes to a folder of its own, and Lightning then forgets the best score so far, so that a worse
        checkpoint would be called the best. Files in the old folder are never removed (Lightning checks that).
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        checkpoint["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: D102
        alone = trainer.world_size > 1 and not isinstance(exception, SIGTERMException)
        if not isinstance(exception, FloatingPointError) and not trainer.validating and not alone:
            super().on_exception(trainer, pl_module, exception)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        if Path(state_dict["best_model_path"]).is_file():
            super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class EpochTime(Callback):
    """Log ``train/seconds_per_epoch``, validation not counted; of an epoch that was not seen whole, nothing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[EpochTime()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._paused = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if batch_idx == 0:
            self._began = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._began is not None:
            self._began += time.perf_counter() - self._paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._began is not None:
            pl_module.log("train/seconds_per_epoch", time.perf_counter() - self._began)
        self._began = None
