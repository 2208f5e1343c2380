"""The start of a run set from its first training batch."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from wnseq.data_init import Started, data_init


def first(batch: Any) -> Tensor:
    """Take the input of a batch: the batch itself, or the first of a tuple or a list.

    Args:
        batch: What the loader gives.

    Raises:
        TypeError: That is no tensor.
    """
    input = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(input, Tensor):
        raise TypeError(
            f"DataInit: the model's input must be a tensor or the first of a tuple, got {type(batch).__name__}; say "
            "what the model is called with: DataInit(inputs=lambda batch: …)"
        )
    return input


class DataInit(Callback):
    """Set g and bias of every weight-normalised layer from the first training batch: see :func:`wnseq.data_init`.

    Once, before the first step of a fresh fit; never in one that resumes a checkpoint. The batch is trained on all the
    same, and no random generator is used, so that the run sees what it sees without. ``started`` tells what was set.

    Args:
        inputs: what the model is called with, from a batch: one argument, a plain tuple of several, or a dictionary.
        init_scale: deviation of the pre-activations, or several by patterns of names.
        input_share: in recurrent modules, the input's share of the variance.
        horizon: in recurrent modules, the number of steps to remember; it takes the place of input_share.

    Raises:
        TypeError: what a batch holds is no tensor, and ``inputs`` was not given.

    Note:
        What measures the start at ``on_train_start``, as GateMonitor does, still sees the draw.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DataInit(horizon=30)], logger=False, accelerator="cpu")

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3.
    """

    def __init__(
        self,
        inputs: Callable[[Any], Any] = first,
        init_scale: float | Mapping[str, float] = 1.0,
        input_share: float = 0.8,
        horizon: int | None = None,
    ) -> None:
        self.inputs = inputs
        self.init_scale = init_scale
        self.input_share = input_share
        self.horizon = horizon
        self.started: Started | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if trainer.global_step > 0 or batch_idx > 0 or trainer.ckpt_path is not None:
            return
        given = trainer.precision_plugin.convert_input(self.inputs(batch))
        options = {"input_share": self.input_share, "horizon": self.horizon}
        self.started = data_init(pl_module, given, self.init_scale, **options)  # type: ignore[arg-type]
        pl_module.print(self.started)
