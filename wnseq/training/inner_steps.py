"""Further steps of an optimiser inside one step of Lightning, which takes longer to call its hooks than some updates."""

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

__all__ = ["check_inner_steps", "take_step"]


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


def take_step(model: LightningModule, loss: Tensor) -> None:
    """Take a step of the model's optimiser inside of its training step, as Lightning takes the one that follows.

    The gradient is clipped as the Trainer says. Lightning's hooks are not called: a callback sees the last step.
    """
    trainer, optimizer = model.trainer, model.trainer.optimizers[0]
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    model.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
    optimizer.step()
