"""Further steps of an optimiser inside one step of Lightning, whose hooks take as long as a small update."""

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["check_inner_steps", "scale_learning_rate", "take_step"]


def check_inner_steps(trainer: Trainer) -> None:
    """Check that a Trainer leaves each step of the optimiser to itself.

    Raises:
        ValueError: It accumulates gradients, or scales the loss.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"accumulate_grad_batches must be 1, got {trainer.accumulate_grad_batches}: a step of the Trainer is many "
            "updates here; larger ones have a larger --data.batch_size"
        )
    if trainer.precision == "16-mixed":
        raise ValueError("precision must not be 16-mixed, which scales the loss: use --trainer.precision bf16-mixed")


def scale_learning_rate(model: LightningModule, factor: float) -> None:
    """Set the step sizes of the next inner step to a share of the largest, if the model has a schedule.

    Lightning sets those of the first one.
    """
    schedule = model.lr_schedulers()
    if isinstance(schedule, LambdaLR):
        for group, largest in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = largest * factor


def take_step(model: LightningModule, loss: Tensor) -> None:
    """Step the model's optimiser inside of its training step, as Lightning does after it.

    The gradient is clipped as the Trainer says. Lightning's hooks are not called: a callback sees the last step.
    """
    trainer, optimizer = model.trainer, model.trainer.optimizers[0]
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    model.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
    optimizer.step()
