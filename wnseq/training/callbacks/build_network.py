"""The network of a recipe, made before the callbacks of a run look at it."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["BuildNetwork", "build_network_first"]


class BuildNetwork(Callback):
    """Call the model's ``build_from_data`` before the ``setup`` of other callbacks.

    Weight averaging, pruning and other callbacks copy or search the model in ``setup``. Lightning sets up the data
    first, then callbacks, then the model, and only then calls the model's ``configure_model``: too late for them.

    Raises:
        ValueError: An evaluation starts, and neither data nor a checkpoint has made a network.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: D102
        model: Any = pl_module
        model.build_from_data()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if getattr(pl_module, "network", self) is None:
            raise ValueError("there is no network yet: fit the model first, or load a checkpoint of it")

    on_validation_start = on_predict_start = on_test_start


def build_network_first(trainer: Trainer) -> None:
    """Add :class:`BuildNetwork` as the Trainer's first callback, once. Call it in ``configure_callbacks``."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(callback, BuildNetwork) for callback in callbacks):
        callbacks.insert(0, BuildNetwork())
