"""Weight normalisation in a run: data-dependent initialisation before the first step, constant ‖v‖ after each step."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from wnseq.init._data_dependent import data_init
from wnseq.init._report import InitReport
from wnseq.nn._weight_pairs import directions
from wnseq.optim import direction_norms, renormalize_
from wnseq.training._lightning_internals import resumed_from

__all__ = ["DataInit", "Renormalize", "model_input"]


def model_input(batch: Any) -> Tensor:
    """Return the model's input from a batch: the batch itself, or the first of a tuple or a list.

    Raises:
        TypeError: It is not a tensor.
    """
    input = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(input, Tensor):
        raise TypeError(
            f"DataInit: the model's input must be a tensor or the first of a tuple, got {type(batch).__name__}; name "
            "the model's input with DataInit(inputs=lambda batch: …)"
        )
    return input


class DataInit(Callback):
    """Set g and bias of every weight-normalised layer from the first training batch, as :func:`wnseq.data_init` does.

    It acts before the first step of a new run, never when a run resumes, and once for a model: a second fit goes on. It
    warns if a g is not ‖v‖, as after training or loading. The batch is then trained on as any other, and no random
    generator is used, so that the data of the run do not change. The report is in ``report`` afterwards.

    Args:
        inputs: The function from a batch to the model's input: one argument, a plain tuple of several, or a dictionary.
        init_scale: As in :func:`wnseq.data_init`, like the next two.
        input_share: In recurrent modules, the input's share of the variance.
        horizon: In recurrent modules, the number of steps to remember; it replaces input_share.

    Raises:
        TypeError: A batch does not begin with a tensor, and ``inputs`` was not given.

    Note:
        A callback that reads the weights in ``on_train_start``, as GateMonitor does, sees them before this.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DataInit(horizon=30)], logger=False, accelerator="cpu")

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3.
    """

    def __init__(
        self,
        inputs: Callable[[Any], Any] = model_input,
        init_scale: float | Mapping[str, float] = 1.0,
        input_share: float = 0.8,
        horizon: int | None = None,
    ) -> None:
        self.inputs = inputs
        self.init_scale = init_scale
        self.input_share = input_share
        self.horizon = horizon
        self.report: InitReport | None = None
        self._done: LightningModule | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if trainer.global_step > 0 or batch_idx > 0 or resumed_from(trainer) or self._done is pl_module:
            return
        if (name := _first_trained(pl_module)) is not None:
            rank_zero_warn(
                f"DataInit overwrites g and biases of a model that was trained, loaded or changed: {name} is not the "
                "norm of its v. To keep such weights, leave DataInit out."
            )
        inputs = trainer.precision_plugin.convert_input(self.inputs(batch))
        options = {"input_share": self.input_share, "horizon": self.horizon}
        self.report = data_init(pl_module, inputs, self.init_scale, **options)  # type: ignore[arg-type]
        self._done = pl_module
        pl_module.print(self.report)


def _first_trained(model: LightningModule) -> str | None:
    """Return the name of a g that is not ‖v‖; None if there is none."""
    norms = direction_norms(model)
    for name, (_, g, _) in directions(model):
        if not torch.allclose(g.detach().float(), norms[name].float(), rtol=1e-2, atol=0):  # of half types
            return f"{name.removesuffix('_v')}_g"
    return None


class Renormalize(Callback):
    """Restore the initial norm of every direction after each step of an optimiser.

    v ← ‖v₀‖ · v/‖v‖, row by row, which does not change the model's function: see :func:`wnseq.optim.renormalize_`.

    The norms are those at the first training batch, after any initialisation when training starts; a second fit of the
    model keeps them, and so does a resumed run, whose checkpoint holds them.

    Raises:
        ValueError: The model has no weight-normalised module of wnseq, or is not the one that the norms belong to.

    Note:
        Lightning calls callbacks in the order given. One that averages or records weights after each batch must come
        after this one; those that write checkpoints always do.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[Renormalize()], logger=False, accelerator="cpu")

    Source:
        Karras et al. 2023, arXiv 2312.02696; Heo et al. 2020, arXiv 2006.08217, on the growth of ‖v‖.
    """

    def __init__(self) -> None:
        self.norms: dict[str, Tensor] = {}
        self._model: LightningModule | None = None  # whose norms they are; None of those of a checkpoint
        self._hooks: list[RemovableHandle] = []

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self.norms, self._model = dict(state_dict["norms"]), None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._remove_hooks()
        if self._model not in (None, pl_module):
            self.norms = {}
        self._model = pl_module
        for optimizer in trainer.optimizers:  # a training step may take several steps of one
            self._hooks.append(optimizer.register_step_post_hook(lambda *_: renormalize_(pl_module, self.norms)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if not self.norms:
            self.norms = direction_norms(pl_module)
            if not self.norms:
                raise ValueError(
                    f"Renormalize: {type(pl_module).__name__} has no weight-normalised module of wnseq, so there is "
                    "nothing to renormalize; leave the callback out, or convert the model with weight_normalize"
                )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._remove_hooks()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: D102
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()
