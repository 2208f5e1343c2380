"""Directions of weight-normalised weights held at their length while a model is trained."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from wnseq.optimise import direction_norms, renormalize_


class Renormalize(Callback):
    """Put the norm of every direction back to its start after each step of an optimiser.

    v ← ‖v₀‖ · v/‖v‖, row by row, which changes no function: see :func:`wnseq.optimise.renormalize_`.

    The start is the first training batch, after whatever initialises the model when training starts. It travels in the
    checkpoint, and a resumed run goes on with it.

    Raises:
        ValueError: The model has no weight-normalised module of this library, or it is another one than the norms
            were taken of: a callback serves one model.

    Note:
        Lightning calls callbacks in the order given. One that averages or records weights after each batch comes after
        this one; those that write checkpoints always do.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[Renormalize()], logger=False, accelerator="cpu")

    Source:
        Karras et al. 2023, arXiv 2312.02696; Heo et al. 2020, arXiv 2006.08217, on the growth of ‖v‖.
    """

    def __init__(self) -> None:
        self.norms: dict[str, Tensor] = {}
        self._step = 0

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self.norms = dict(state_dict["norms"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if not self.norms:
            self.norms = direction_norms(pl_module)
            if not self.norms:
                raise ValueError(
                    f"Renormalize: {type(pl_module).__name__} has no weight-normalised module of wnseq, so there is "
                    "nothing to renormalize; leave the callback out, or convert the model with weight_normalize"
                )
        self._step = trainer.global_step

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:  # not while gradients are accumulated
            renormalize_(pl_module, self.norms)
