"""The command lines of recipes of images, and of those whose ``predict`` draws samples."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule

from wnseq.training.batches import get_tensor
from wnseq.training.callbacks.basic import Throughput
from wnseq.training.cli.checkpoint_commands import check_output
from wnseq.training.cli.recipe import RecipeCLI

__all__ = ["ImageCLI", "ImageSamplingCLI", "SamplingCLI"]


# what a command makes, and the options that have no part in it
IGNORED = {
    "predict": ("draws from the checkpoint alone", "--data"),
    "test": ("draws nothing", "--model.sampling"),
    "validate": ("draws nothing", "--model.sampling"),
}


class ImageCLI(RecipeCLI):
    """RecipeCLI that counts images."""

    def callbacks(self) -> list[Callback]:
        """Return the throughput in images."""
        return [Throughput("images", lambda batch: len(get_tensor(batch, "images")))]


class SamplingCLI(RecipeCLI):
    """RecipeCLI whose ``predict`` reads no data: it calls the model's ``predict_step`` once."""

    ending = ""  # of the file that the option sampling.output names

    def before_instantiate_classes(self) -> None:
        """Refuse options that the command would ignore, and check the file of ``predict`` before it draws.

        Those of a file of options, which may serve several commands, pass.
        """
        super().before_instantiate_classes()
        does, ignored = IGNORED.get(self.subcommand or "", ("", ""))
        words = [word.partition("=")[0] for word in self.typed if ignored]
        if named := [word for word in words if f"{word}.".startswith(f"{ignored}.")]:
            raise ValueError(f"{self.subcommand} {does}: {', '.join(named)} would do nothing")
        output = self.config[self.subcommand].get("model.sampling.output")
        if output is not None and self.subcommand == "predict":
            check_output(f"{output}{self.ending}", "--model.sampling.output")

    def predict(self, model: LightningModule, ckpt_path: str | None, **kwargs: Any) -> None:
        """Draw samples from the checkpoint alone."""
        self.trainer.predict(model, range(1), ckpt_path=ckpt_path)


class ImageSamplingCLI(SamplingCLI, ImageCLI):
    """SamplingCLI that draws images into the folder of a run. A recipe overrides :meth:`draw`."""

    ending = ".npz"

    def draw(self, folder: Path) -> list[Path]:
        """Draw images into files of a folder; return the files. None by default."""
        return []

    def report(self) -> None:
        """Draw images into the folder of the run, if it has one, and print the files."""
        if self.run_dir is not None:
            print("", *self.draw(self.run_dir), sep="\n")
