"""The recurrent state that a model carries from batch to batch, one for each stage, in memory and in checkpoints."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from wnseq.training.ranks import all_gather_object
from wnseq.training.run_info import find_trainer

__all__ = ["CarriedStates", "State"]

State = Tensor | tuple[Tensor, Tensor]


class CarriedStates(dict[str, State]):
    """States by stage: ``(L, N, H)``, or a pair of them, of N streams of text."""

    def carry(self, stage: str, state: State) -> None:
        """Keep the state after a batch, without its graph."""
        self[stage] = (state[0].detach(), state[1].detach()) if isinstance(state, tuple) else state.detach()

    def carried(self, model: LightningModule, stage: str, streams: int) -> State | None:
        """Return the state that the batch before left, on the model's device; None if it has other streams."""
        if (state := self.get(stage)) is None:
            return None
        parts = state if isinstance(state, tuple) else (state,)
        if (kept := parts[0].shape[1]) != streams:
            model.print(f"the state carried so far has {kept} streams, this batch {streams}: starting from zero")
            return None
        return _state([part.to(model.device) for part in parts])

    def gather(self, trainer: Trainer) -> list[Tensor] | None:
        """Return the training state of the streams of all processes, in their order, for a checkpoint.

        It is empty before the first batch, and None where the other processes may not answer.
        """
        state: Any = self.get("train", ())
        own = [part.cpu() for part in (state if isinstance(state, tuple) else (state,))]
        of_all = all_gather_object(trainer, own)
        return of_all and [torch.cat(streams, 1) for streams in zip(*of_all, strict=True)]

    def restore(self, model: LightningModule, saved: Sequence[Tensor] | None) -> None:
        """Restore this process's streams of the state in a checkpoint, if the model resumes a training."""
        trainer = find_trainer(model)
        if trainer is None or trainer.state.fn != "fit":
            return
        self.pop("train", None)  # a tuner's
        if saved is None:
            model.print(
                "the checkpoint was saved as several processes were stopped: the carried state starts from zero"
            )
        elif saved:
            rank, ranks = trainer.global_rank, trainer.world_size
            streams = saved[0].shape[1]
            self["train"] = _state([s[:, rank * streams // ranks : (rank + 1) * streams // ranks] for s in saved])


def _state(parts: Sequence[Tensor]) -> State:
    return (parts[0], parts[1]) if len(parts) > 1 else parts[0]
