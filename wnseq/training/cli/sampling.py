"""The command line of a recipe whose ``predict`` draws samples."""

from typing import Any

from lightning.pytorch import LightningModule

from wnseq.training.cli.recipe import RecipeCLI

__all__ = ["SamplingCLI"]


class SamplingCLI(RecipeCLI):
    """RecipeCLI whose ``predict`` reads no data: it calls the model's ``predict_step`` once."""

    def predict(self, model: LightningModule, ckpt_path: str | None, **kwargs: Any) -> None:
        """Draw samples from the checkpoint alone."""
        self.trainer.predict(model, range(1), ckpt_path=ckpt_path)
