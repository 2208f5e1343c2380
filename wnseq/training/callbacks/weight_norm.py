"""Directions of weight-normalised weights held at their length while a model is trained."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from wnseq.init._data_dependent import data_init
from wnseq.init._report import InitReport
from wnseq.optim import direction_norms, renormalize_


class Renormalize(Callback):
    """Put the norm of every direction back to its start after each step of an optimiser.

    v ← ‖v₀‖ · v/‖v‖, row by row, which changes no function: see :func:`wnseq.optim.renormalize_`.

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


def first_batch(batch: Any) -> Tensor:
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
        inputs: Callable[[Any], Any] = first_batch,
        init_scale: float | Mapping[str, float] = 1.0,
        input_share: float = 0.8,
        horizon: int | None = None,
    ) -> None:
        self.inputs = inputs
        self.init_scale = init_scale
        self.input_share = input_share
        self.horizon = horizon
        self.started: InitReport | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if trainer.global_step > 0 or batch_idx > 0 or trainer.ckpt_path is not None:
            return
        given = trainer.precision_plugin.convert_input(self.inputs(batch))
        options = {"input_share": self.input_share, "horizon": self.horizon}
        self.started = data_init(pl_module, given, self.init_scale, **options)  # type: ignore[arg-type]
        pl_module.print(self.started)
