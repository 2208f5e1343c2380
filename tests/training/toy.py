"""A recipe in small, for the tests of the command line: a linear model on random windows, with dropout."""

import csv
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from wnseq.training.cli.recipe import RecipeCLI, run
from wnseq.training.run_info import checkpoint_info


class Window(NamedTuple):
    inputs: Tensor
    targets: Tensor


@dataclass
class Sampling:
    """How to sample.

    Args:
        temperature: larger is wilder.
    """

    temperature: float = 1.0


class Windows:
    """An epoch of windows drawn beforehand, with a length, whose position is its state."""

    def __init__(self, length: int, seed: int) -> None:
        self.windows = torch.randn(length, 8, 4, generator=torch.Generator().manual_seed(seed))
        self.position = 0

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Window]:
        self.position %= len(self.windows)  # Lightning takes len() windows and does not see the end
        while self.position < len(self.windows):
            window = self.windows[self.position]
            self.position += 1
            yield Window(window, window.roll(1, 0))

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class ToyData(LightningDataModule):
    """Random windows.

    Args:
        corpus: a name; ``missing`` is one that is not there.
        windows: windows an epoch.
    """

    def __init__(self, corpus: str = "noise", windows: int = 12) -> None:
        super().__init__()
        self.corpus = corpus
        self.windows = windows

    def setup(self, stage: str) -> None:
        if self.corpus == "missing":
            raise FileNotFoundError(f"corpus {self.corpus!r} is neither a name nor a file")

    def train_dataloader(self) -> Windows:
        return Windows(self.windows, 0)

    def val_dataloader(self) -> Windows:
        return Windows(3, 1)

    def test_dataloader(self) -> Windows:
        return Windows(3, 2)

    def predict_dataloader(self) -> Windows:
        return Windows(1, 3)


class ToyModel(LightningModule):
    """A linear model.

    Args:
        width: hidden units.
        cell: a choice.
        lr: step size.
        dropout: probability.
        explode_at: the step at which the loss becomes infinite.
        bug: what to break inside training.
        sampling: how to sample.
    """

    resume_may_change = ("dropout", "explode_at", "bug")

    def __init__(
        self,
        width: int = 4,
        cell: Literal["lstm", "gru"] = "lstm",
        lr: float = 0.05,
        dropout: float = 0.5,
        explode_at: int = -1,
        bug: bool = False,
        sampling: Sampling = Sampling(),  # noqa: B008
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"lr must be positive, got {lr}")
        self.save_hyperparameters(ignore=["sampling"])
        self.lr, self.explode_at, self.bug, self.sampling = lr, explode_at, bug, sampling
        self.net = nn.Sequential(nn.Linear(4, width), nn.Dropout(dropout), nn.Linear(width, 4))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["wnseq"] = checkpoint_info(self, "toy")

    def _step(self, window: Window, stage: str) -> Tensor:
        loss = nn.functional.mse_loss(self.net(window.inputs), window.targets)
        self.log(f"{stage}/loss", loss, prog_bar=stage == "train", batch_size=1)
        return loss

    def training_step(self, window: Window, index: int) -> Tensor:
        if self.bug:
            raise KeyError("an internal bug")
        loss = self._step(window, "train")
        self.log("train/mean_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss / 0 if self.global_step == self.explode_at else loss

    def validation_step(self, window: Window, index: int) -> None:
        torch.rand(2)  # as an estimate by samples does
        self._step(window, "val")

    def test_step(self, window: Window, index: int) -> None:
        self._step(window, "test")

    def predict_step(self, window: Window, index: int) -> None:
        print(f"sample at temperature {self.sampling.temperature} from width {self.hparams['width']}")

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), self.lr)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)}


class StopAt(Callback):
    """Sends this process signals at the start of a batch of training, or of the validation or test after a step.

    The first is ``number``, the others are SIGINT. With the number 0 it fails, as a bug does.
    """

    def __init__(self, step: int, number: int = int(signal.SIGTERM), where: str = "train", times: int = 1) -> None:
        self.step, self.number, self.where, self.times = step, number, where, times

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._stop(trainer, "train")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._stop(trainer, "validation")

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            self._stop(trainer, "test")

    def _stop(self, trainer: Trainer, where: str) -> None:
        if trainer.global_step == self.step and self.where == where:
            if self.number == 0:
                raise LookupError("a bug")
            for number in [self.number, *[signal.SIGINT] * (self.times - 1)]:
                signal.raise_signal(number)
            self.step = -1


class Started(Callback):
    """Leaves a file when training has begun."""

    path = Path("started")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.path.touch()


class ToyCLI(RecipeCLI):
    def report(self) -> None:
        print("a sample of what it learnt")


class Die(Callback):
    """Ends a run at a step as a kill would: nothing is saved on it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise FloatingPointError("killed")


def log_without_clock(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's metrics.csv but for its columns of speed."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if "per_s" not in name} for row in csv.DictReader(file)]


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    return run(
        ToyModel,
        ToyData,
        recipe="toy",
        monitor="val/loss",
        args=args,
        defaults={"trainer.max_epochs": 3},
        cli_class=ToyCLI,
    )


if __name__ == "__main__":
    main()
