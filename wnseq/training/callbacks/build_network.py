"""The network of a recipe, made before the callbacks of a run look at it."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["BuildNetwork", "build_network_first"]


class BuildNetwork(Callback):
    """Call the model's ``build_from_data`` before the ``setup`` of other callbacks.

    Weight averaging, pruning and other callbacks copy or search the model in ``setup``. Lightning sets up the data
    first, then callbacks, then the model, and only then calls the model's ``configure_model``: too late for them.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        model: Any = pl_module
        model.build_from_data()


def build_network_first(trainer: Trainer) -> None:
    """Add :class:`BuildNetwork` as the Trainer's first callback, once. Call it in ``configure_callbacks``."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(callback, BuildNetwork) for callback in callbacks):
        callbacks.insert(0, BuildNetwork())
