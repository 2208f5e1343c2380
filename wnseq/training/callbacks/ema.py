"""The average of the weights along a run, for evaluation and for checkpoints: exponential, or from a plateau on."""

import math
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from wnseq.training.evaluation import is_fitting

__all__ = ["PolyakAverage"]

UNITS = ("steps", "epochs")


class PolyakAverage(Callback):
    """Average the weights over the last steps of training, exponentially, for evaluation and for checkpoints.

    ā ← ā + max(1/M, 9/(10 + t)) (w − ā) after each batch with a step of an optimiser, t their number in ā

    The decay is 1 − 1/M. Over the first steps it is smaller: the average then covers about the last ninth of them, so
    that it soon forgets the initial weights. Validation uses the average, and so does everything after training. The
    weights of a checkpoint are the average. The weights before averaging are in it too, under ``current_model_state``,
    and a resumed run continues with them. Buffers are not averaged. Half types are averaged in float32.

    With ``trigger`` averaging begins late, ā ← ā + max(1/M, 1/(1 + t)) (w − ā), where a metric of the validation is
    above its least value of more than ``patience`` validations before. With M = ∞ it is the mean of all weights since.
    Until then the weights themselves are evaluated. With a constant step size this is NT-ASGD.

    The parameters are averaged as the optimiser sees them: of a weight-normalised weight g and v, each by itself.

    Args:
        memory: M. 2000 steps are the decay of 0.9995 of PixelCNN++.
        unit: The unit of memory: ``steps`` or ``epochs``.
        trigger: Metric of the validation, the lower the better, that lets the average begin.
        patience: Validations without an improvement before it begins, 5 in AWD-LSTM.

    Raises:
        ValueError: The memory is not greater than 0, its unit is unknown, or patience is less than 1. The validation
            has no metric of the trigger's name, or there is none. A checkpoint callback has ``save_weights_only``, with
            which Lightning calls no callback. A parameter is sharded, or not in the state dict under its own name, so
            that no checkpoint could hold its average. The memory is in epochs and the loader has no length.

    Note:
        Lightning's WeightAveraging (2.6) evaluates ``test(ckpt_path=…)`` with the weights before averaging, leaves the
        last step out of a checkpoint that is saved after another callback's exception, saves the average as the
        weights to continue with after the end of training, and averages nothing in a second fit. It also copies the
        whole module.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PolyakAverage(2000)], logger=False, accelerator="cpu")

    Source:
        Polyak & Juditsky 1992; the decay from the code of Salimans et al. 2017, arXiv 1701.05517; the trigger from the
        code of Merity et al. 2017, arXiv 1708.02182, algorithm 1.
    """

    def __init__(
        self,
        memory: float,
        unit: Literal["steps", "epochs"] = "steps",
        *,
        trigger: str | None = None,
        patience: int = 5,
    ) -> None:
        if not memory > 0:
            raise ValueError(f"PolyakAverage: memory must be greater than 0, got {memory}")
        if unit not in UNITS:
            raise ValueError(f"PolyakAverage: unit must be {' or '.join(UNITS)}, got {unit!r}")
        if patience < 1:
            raise ValueError(f"PolyakAverage: patience must be at least 1, got {patience}")
        self.memory, self.unit, self.trigger, self.patience = memory, unit, trigger, patience
        self._reset()

    def _reset(self) -> None:
        self._average: dict[str, Tensor] = {}  # by parameter, empty before the first step
        self._training: dict[str, Tensor] = {}  # the weights before averaging, while the model has the average
        self._taken = 0  # steps in the average
        self._seen = 0  # the Trainer's count of steps at the last of them
        self._steps = math.inf  # of memory
        self._metrics: list[float] = []  # of the trigger, until the average begins
        self._waits = self.trigger is not None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        if stage != "fit":
            return
        self._reset()
        if any(getattr(callback, "save_weights_only", False) for callback in trainer.checkpoint_callbacks):
            raise ValueError(
                "PolyakAverage: with save_weights_only Lightning calls no callback, so the checkpoint would hold the "
                "weights before averaging; leave save_weights_only out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        stored = pl_module.state_dict()
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad and (name not in stored or hasattr(parameter, "full_tensor")):
                raise ValueError(
                    f"PolyakAverage: the parameter {name} is sharded, or not in the state dict under its own name, so "
                    "no checkpoint could hold its average; leave the average out, or train with --trainer.strategy ddp"
                )
        if self._waits and not trainer.enable_validation:
            raise ValueError(
                f"PolyakAverage: {self.trigger}, by which the average begins, needs a validation: loaders, and "
                "limit_val_batches not 0"
            )
        epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        if self.unit == "epochs" and math.isinf(epoch):
            raise ValueError(
                f"PolyakAverage: the loader has no length, so {self.memory:g} epochs are no number of steps; give the "
                "memory in steps"
            )
        self._steps = max(1.0, self.memory * (epoch if self.unit == "epochs" else 1))
        self._seen = trainer.global_step

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._update(trainer, pl_module)

    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the weights to the average, unless no step was taken since the last call."""
        if trainer.global_step == self._seen or self._training:
            return
        if self._waits:
            self._seen = trainer.global_step
            return
        now = {name: _at_least_float32(parameter.detach()) for name, parameter in pl_module.named_parameters()}
        if self._taken:
            average = [self._average[name].to(value.device) for name, value in now.items()]  # resumed from the CPU
            share = max(1 / self._steps, 9 / (10 + self._taken) if self.trigger is None else 1 / (1 + self._taken))
            get_ema_multi_avg_fn(1 - share)(average, list(now.values()), self._taken)  # type: ignore[no-untyped-call]
            self._average = dict(zip(now, average, strict=True))
        else:
            self._average = {name: value.clone() for name, value in now.items()}
        self._seen, self._taken = trainer.global_step, self._taken + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if trainer.state.fn == TrainerFn.FITTING:
            self._use_average(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if trainer.state.fn == TrainerFn.FITTING:
            _copy_into(pl_module, self._training)
            self._training = {}
        if self._waits and is_fitting(trainer):
            self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to average where the metric was lower more than ``patience`` validations ago."""
        if self.trigger not in trainer.callback_metrics:
            raise ValueError(f"PolyakAverage: the validation has no metric {self.trigger!r} to begin by")
        now, before = float(trainer.callback_metrics[self.trigger]), self._metrics[: -self.patience]
        self._metrics.append(now)
        if before and now > min(before):
            self._waits = False
            pl_module.print(f"averaging the weights from step {trainer.global_step} on: {self.trigger} is {now:.4f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._use_average(pl_module)

    on_fit_end = on_train_end  # a run that resumes after its last step has no training, and no end of it

    def _use_average(self, pl_module: LightningModule) -> None:
        """Copy the average into the model, and keep the weights for the end of validation or a checkpoint."""
        if self._average and not self._training:
            with torch.inference_mode(False), torch.no_grad():  # copies made in inference mode are of little use later
                self._training = {name: value.clone() for name, value in pl_module.named_parameters()}
            _copy_into(pl_module, self._average)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        if trainer.state.fn == TrainerFn.FITTING:
            self._update(trainer, pl_module)  # after a batch that another callback's exception has cut short
        if self.trigger is not None:
            checkpoint["average_trigger"] = {"metrics": self._metrics, "waits": self._waits}
        if not self._average:
            return
        model = checkpoint["state_dict"]
        checkpoint["state_dict"] = _replace_parameters(model, self._average, pl_module)
        checkpoint["current_model_state"] = _replace_parameters(model, self._training, pl_module)
        checkpoint["polyak_average"] = {"average": self._average, "taken": self._taken}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        self._reset()
        if trainer.state.fn != TrainerFn.FITTING:
            return  # the model has loaded the average
        trigger, saved = checkpoint.get("average_trigger"), checkpoint.get("polyak_average")
        if saved is not None:
            pl_module.load_state_dict(checkpoint["current_model_state"], strict=pl_module.strict_loading)
        if (saved if self.trigger is None else trigger) is None:  # an exponential one is none that begins by a trigger
            begins = "with the next step" if self.trigger is None else f"once {self.trigger} stays above its least"
            pl_module.print(f"the checkpoint has no average of the weights to go on with: one begins {begins}")
            return
        if trigger is not None and self.trigger is not None:
            self._metrics, self._waits = list(trigger["metrics"]), trigger["waits"]
        if saved is not None:
            self._average = {name: value.clone() for name, value in saved["average"].items()}
            self._taken, self._seen = saved["taken"], checkpoint["global_step"]


def _at_least_float32(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _copy_into(pl_module: LightningModule, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in pl_module.named_parameters():
            if name in values:
                parameter.copy_(values[name])


def _replace_parameters(state: dict[str, Any], values: dict[str, Tensor], pl_module: LightningModule) -> dict[str, Any]:
    """Replace the parameters in a state dict by values, under each name of a parameter that has several."""
    first = {id(parameter): name for name, parameter in pl_module.named_parameters()}
    names = {name: first[id(parameter)] for name, parameter in pl_module.named_parameters(remove_duplicate=False)}
    return {
        name: values[names[name]].to(value.dtype) if names.get(name) in values else value
        for name, value in state.items()
    }
