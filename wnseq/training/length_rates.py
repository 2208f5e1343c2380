"""The step size of batches whose length is drawn: it follows the length."""

import functools
from statistics import fmean
from typing import Any

from lightning.pytorch import LightningModule

from wnseq.training.run_info import find_datamodule
from wnseq.training.schedules import scaled_rates

__all__ = ["RateByLength"]


class RateByLength:
    """Makes a LightningModule's step size follow the length of its batches; comes before LightningModule in its bases.

    With a ``TextDataModule`` whose ``random_bptt`` is on, a step has the step size times the length of its batch over
    ``bptt``, where gradients of several batches are accumulated times their mean; else it changes nothing.

    Example:
        >>> class Model(RateByLength, LightningModule): ...

    Source:
        Merity, Keskar & Socher 2018, arXiv 1708.02182, section 5.
    """

    _factors: tuple[float, ...] = ()  # of the batches since the last step

    def on_train_start(self) -> None:
        """Forget the batches of a fit before, which may have been stopped between two steps."""
        self._factors = ()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note the length of a batch."""
        model: Any = self
        data = find_datamodule(model)
        is_drawn = getattr(data, "random_bptt", False)
        self._factors += (len(batch.inputs) / data.bptt if is_drawn else 1.0,)

    @functools.wraps(LightningModule.optimizer_step)  # or Lightning warns of it where gradients are accumulated
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step by the size for the lengths."""
        parent: Any = super()
        factor, self._factors = fmean(self._factors), ()
        with scaled_rates(optimizer, factor):
            parent.optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
