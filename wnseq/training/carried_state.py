"""The recurrent state that a model carries from batch to batch, one for each stage, in memory and in checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from wnseq.training.ranks import all_gather_object
from wnseq.training.run_info import find_trainer

__all__ = ["CarriedStates", "State"]

State = Tensor | tuple[Tensor, Tensor]
TRAINING = {"train": "carried_state", "teacher": "teacher_state"}  # stages of a training, and their keys in checkpoints


class CarriedStates(dict[str, State]):
    """States by stage: ``(L, N, H)``, or a pair of them, of N streams of text."""

    def __init__(self, **states: State) -> None:
        super().__init__(states)
        self._restored: set[str] = set()  # stages of a state that may have been computed in another precision
        self.teacher_sha256: str | None = None  # of the weights that the state of the stage teacher is computed by

    def carry(self, stage: str, state: State) -> None:
        """Keep the state after a batch, without its graph."""
        self._restored.discard(stage)
        self[stage] = (state[0].detach(), state[1].detach()) if isinstance(state, tuple) else state.detach()

    def carried(self, model: LightningModule, stage: str, batch: Any, precision: Any = None) -> State | None:
        """Return the state that a batch begins with, on the model's device; None for zeros.

        It is the one that the batch before left, unless this one resets it or has other streams. That of a checkpoint
        comes in the precision of what reads it, which may be another one than before.

        Args:
            model: The model, which says on the screen that the streams are others.
            stage: What the state is of, as ``train``.
            batch: A ``TextBatch``.
            precision: Dtype of what reads it; None for the model's.
        """
        if batch.reset_state or (state := self.get(stage)) is None:
            return None
        parts = state if isinstance(state, tuple) else (state,)
        if (kept := parts[0].shape[1]) != (streams := batch.inputs.shape[1]):
            model.print(f"the state carried so far has {kept} streams, this batch {streams}: starting from zero")
            return None
        dtype, own = parts[0].dtype, cast("torch.dtype", precision or model.dtype)
        if stage in self._restored and not (  # autocast takes a state of its own dtype or of the weights'
            torch.is_autocast_enabled(model.device.type) and dtype.itemsize <= own.itemsize
        ):
            dtype = own
        return _state([part.to(model.device, dtype) for part in parts])

    def gather(self, trainer: Trainer) -> dict[str, Any]:
        """Return the states of training, of the streams of all processes in their order, for a checkpoint.

        One is empty before the first batch, and None where the other processes may not answer.
        """
        found: dict[str, Any] = {} if self.teacher_sha256 is None else {"teacher_sha256": self.teacher_sha256}
        for stage, key in TRAINING.items():
            if stage == "train" or stage in self:
                state: Any = self.get(stage, ())
                own = [part.cpu() for part in (state if isinstance(state, tuple) else (state,))]
                of_all = all_gather_object(trainer, own)
                found[key] = of_all and [torch.cat(streams, 1) for streams in zip(*of_all, strict=True)]
        return found

    def restore(self, model: LightningModule, checkpoint: Mapping[str, Any]) -> None:
        """Restore this process's streams of the states in a checkpoint, if the model resumes a training."""
        trainer = find_trainer(model)
        if trainer is None or trainer.state.fn != "fit":
            return
        self.teacher_sha256 = checkpoint.get("teacher_sha256")
        for stage, key in TRAINING.items():
            self.pop(stage, None)  # a tuner's
            saved = checkpoint.get(key, ())
            if saved is None:
                model.print(
                    "the checkpoint was saved as several processes were stopped: the carried state starts from zero"
                )
            elif saved:
                rank, ranks = trainer.global_rank, trainer.world_size
                streams = saved[0].shape[1]
                self[stage] = _state([s[:, rank * streams // ranks : (rank + 1) * streams // ranks] for s in saved])
                self._restored.add(stage)


def _state(parts: Sequence[Tensor]) -> State:
    return (parts[0], parts[1]) if len(parts) > 1 else parts[0]
