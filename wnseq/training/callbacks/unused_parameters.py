"""A warning about parameters that training leaves as they are."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["UnusedParameters"]

SHOWN = 5  # names in the warning


class UnusedParameters(Callback):
    """Warn at the first step of a fit about parameters that it does not train.

    They have no gradient, since the loss does not depend on them, or no optimiser has them. Those without
    ``requires_grad`` are left out.

    Note:
        It checks a single process alone: DDP itself reports such parameters, and sharded ones may have their gradient
        elsewhere.

    Example:
        >>> trainer = Trainer(callbacks=[UnusedParameters()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._done = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._done = trainer.world_size > 1

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:  # noqa: D102
        if self._done:
            return
        self._done = True
        held = {id(p) for each in trainer.optimizers for group in each.param_groups for p in group["params"]}
        trained = {name: parameter for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
        _warn(
            [name for name, parameter in trained.items() if parameter.grad is None and id(parameter) in held],
            "have no gradient, and training leaves them as they are: the loss does not depend on them. Use them in the "
            "network's forward, or freeze them with requires_grad_(False)",
        )
        _warn(
            [name for name, parameter in trained.items() if id(parameter) not in held],
            "are in no optimizer, and training leaves them as they are. Add them in configure_optimizers, or freeze "
            "them with requires_grad_(False)",
        )


def _warn(names: list[str], text: str) -> None:
    if names:
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        rank_zero_warn(f"{len(names):,} parameters {text}: {', '.join(names[:SHOWN])}{more}")
