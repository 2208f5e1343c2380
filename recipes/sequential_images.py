"""Classifier of images read pixel by pixel, with a weight-normalised LSTM or GRU and a choice of starts.

A recurrent net sees one pixel a step, row after row, and names the class after the last: the task of Le, Jaitly and
Hinton 2015 (arXiv 1504.00941), where what the first pixels say has to last to the end. With no arguments it trains on
scikit-learn's digits, 64 steps.

On a CPU:
    wnseq run sequential_images
    wnseq run sequential_images --model.start data --model.horizon 60
On a GPU, 784 steps:
    wnseq run sequential_images --data.dataset mnist --model.hidden_size 128 --trainer.max_epochs 30
Fine-tuning:
    wnseq run sequential_images --model.init_from CHECKPOINT --model.learning_rate 1e-3
Classifying, the data's options taken from the checkpoint:
    wnseq run sequential_images predict --ckpt_path CHECKPOINT

Expect a test error near 4 %, after half a minute of training on a CPU core.

Deviations from the paper:
1. The paper's nets are ReLU nets started from the identity, beside plain LSTMs; these are LSTMs and GRUs, their weights
   normalised as in Salimans & Kingma 2016 (arXiv 1602.07868), section 5.3. The softmax stays plain.
2. By default the data are digits, of which 300 training images are held out; the checkpoint with the smallest error on
   them is tested.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

import wnseq
from wnseq.data.images import ImageBatch, ImageDataModule, Preprocess
from wnseq.init import data_free_init, data_init
from wnseq.nn import gate_slice
from wnseq.training import checkpoint_files
from wnseq.training.callbacks import GateMonitor, Throughput, all_gather_object
from wnseq.training.cli.recipe import RecipeCLI, run

LAYERS = {
    ("lstm", "weight"): wnseq.WNLSTM,
    ("gru", "weight"): wnseq.WNGRU,
    ("lstm", "none"): wnseq.LSTM,
    ("gru", "none"): wnseq.GRU,
}
Start = Literal["torch", "forget_bias", "input", "closed_form", "data"]


class Network(nn.Module):
    """Images to logits, one pixel a step."""

    def __init__(self, cell: str, norm: str, channels: int, hidden_size: int, num_layers: int, classes: int) -> None:
        super().__init__()
        self.cell = cell
        self.rnn = LAYERS[cell, norm](channels, hidden_size, num_layers)
        self.output = nn.Linear(hidden_size, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        return self.output(self.rnn(steps(images))[0][-1])  # (N, classes)


def steps(images: Tensor) -> Tensor:
    """Lay the pixels of ``(N, C, H, W)`` one after the other, row by row: ``(H·W, N, C)``."""
    return images.flatten(2).permute(2, 0, 1)


@torch.no_grad()
def begin(network: Network, how: Start, horizon: int | None, make: Any, images: Tensor) -> None:
    """Set the start of a network, in place; one without weight normalisation gets the function of one that has it.

    Args:
        network: Network to start.
        how: The kind of start.
        horizon: Steps to remember, for the start from data.
        make: Makes a network of another norm with the same sizes.
        images: The batch that the start is taken from.
    """
    twin = network if hasattr(network.rnn, "weight_names") else make("weight").to(images.device)
    if twin is not network:
        twin.load_state_dict(network.state_dict())
    rnn = twin.rnn
    if how == "forget_bias":
        rows = gate_slice(network.cell, {"lstm": "forget", "gru": "update"}[network.cell], rnn.hidden_size)
        for layer in range(rnn.num_layers):
            rnn.get_parameter(f"bias_ih_l{layer}")[rows] = 1.0
            rnn.get_parameter(f"bias_hh_l{layer}")[rows] = 0.0
    elif how == "closed_form":
        data_free_init(rnn)
    elif how == "data":
        data_init(rnn, steps(images), horizon=horizon)
    elif how == "input":
        drawn = {name: value.clone() for name, value in rnn.state_dict().items() if "_hh_" in name and "_g" in name}
        data_init(rnn, steps(images))
        rnn.load_state_dict(drawn, strict=False)
    if twin is not network:
        network.load_state_dict(wnseq.remove_weight_norm(twin).model.state_dict())


class SequentialImages(LightningModule):
    """A recurrent classifier and how it is trained.

    Args:
        cell: Recurrence.
        norm: ``weight`` for weight normalisation, ``none`` for plain layers.
        hidden_size: Features of the hidden state.
        num_layers: Recurrent layers.
        start: ``torch`` for torch's draw; ``forget_bias`` for a forget bias of 1 beside it (the update gate's, in a
            GRU); ``data`` for pre-activations of deviation 1 on the first training batch, set by ``wnseq.data_init``;
            ``input`` for what it sets in the input part alone; ``closed_form`` for the same targets without data.
        horizon: Steps that the start from data is to remember, fewer than the pixels; by default the input has a share
            of 0.8 in the variance, whatever memory that gives.
        learning_rate: AdamW's step size; it falls to zero along a cosine.
        weight_decay: Decay of the weights as the plain model has it.
        init_from: Checkpoint to start from: one of this recipe, or a plain torch state dict with the same names.

    Shape:
        - batches: ``ImageBatch`` of ``(N, C, H, W)`` images and ``(N,)`` labels

    Raises:
        ValueError: An argument is out of its range, or a checkpoint does not fit.
    """

    def __init__(
        self,
        cell: Literal["lstm", "gru"] = "lstm",
        norm: Literal["weight", "none"] = "weight",
        hidden_size: int = 64,
        num_layers: int = 1,
        start: Start = "forget_bias",
        horizon: int | None = None,
        learning_rate: float = 3e-2,
        weight_decay: float = 0.0,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, fits, expected in (
            ("hidden_size", hidden_size, hidden_size >= 1, "at least 1"),
            ("num_layers", num_layers, num_layers >= 1, "at least 1"),
            ("horizon", horizon, horizon is None or start == "data", "left out unless the start is data"),
            ("learning_rate", learning_rate, learning_rate > 0, "greater than 0"),
            ("weight_decay", weight_decay, weight_decay >= 0, "at least 0"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {expected}, got {value}")
        self.save_hyperparameters(ignore=["init_from"])
        self.init_from = init_from
        self.network: Network | None = None
        self.fresh = False  # whether the start is still to be set
        self.preprocess: Preprocess | None = None
        self.classes: tuple[str, ...] = ()
        self._sums: dict[str, list[float]] = {}  # nats, errors and images of the running evaluation

    def make(self, norm: str) -> Network:
        """Make a network of any norm for the images at hand."""
        h = self.hparams
        return Network(h.cell, norm, len(self.preprocess.offset), h.hidden_size, h.num_layers, len(self.classes))

    def build(self, preprocess: Preprocess, classes: Sequence[str]) -> None:
        """Make the network for images that are prepared in one way."""
        self.preprocess, self.classes = preprocess, tuple(classes)
        self.network = self.make(self.hparams.norm)
        self.fresh = True

    def configure_model(self) -> None:
        """Make the network once the data is known, and start it from ``init_from``."""
        data = getattr(self._trainer, "datamodule", None)
        if self.network is not None or not isinstance(data, ImageDataModule):
            return
        if not data.images.classes:
            raise ValueError(f"{data.dataset} has no labels: give --data.dataset digits, mnist or cifar10")
        self.build(data.preprocess, data.images.classes)
        if self.init_from is not None:
            path = Path(self.init_from)
            checkpoint_files.load_weights(
                self.network, path, checkpoint_files.load(path), ("cell", "norm", "hidden_size", "num_layers")
            )
            self.fresh = False

    def forward(self, images: Tensor) -> Tensor:
        """Classify prepared images: ``(N, C, H, W)`` to ``(N, classes)`` logits."""
        return self.network(images)

    def on_fit_start(self) -> None:
        """Say what is trained on what."""
        data = self.trainer.datamodule
        self.print(data.describe())
        for logger in self.loggers:
            logger.log_hyperparams({"dataset": data.dataset, "images_sha256": data.images.sha256})
        h = self.hparams
        size = sum(parameter.numel() for parameter in self.parameters())
        self.print(
            f"model: {h.num_layers} x {h.hidden_size} {h.cell}, norm {h.norm}, start {h.start}, {size:,} parameters\n"
        )

    def configure_optimizers(self) -> Any:
        """Set up AdamW and its schedule."""
        if self.network is None:
            raise ValueError("there is no network yet: fit with an ImageDataModule, or call build first")
        h = self.hparams
        optimizer = torch.optim.AdamW(wnseq.param_groups(self.network, h.weight_decay), lr=h.learning_rate)
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise ValueError("the schedule needs --trainer.max_epochs or --trainer.max_steps")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: ImageBatch, index: int) -> None:
        """Set the start from the first batch, unless the weights come from a checkpoint."""
        if self.fresh and self.trainer.ckpt_path is None:
            begin(self.network, self.hparams.start, self.hparams.horizon, self.make, batch.images)
        self.fresh = False

    def _step(self, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Classify one batch; return the summed loss in nats, the classes found, and which of them are wrong."""
        logits = self.network(batch.images).float()
        nats = F.cross_entropy(logits, batch.labels, reduction="sum")
        found = logits.argmax(1)
        return nats, found, found != batch.labels

    def training_step(self, batch: ImageBatch, index: int) -> Tensor:
        """Take the mean loss per image of one batch."""
        nats, _, wrong = self._step(batch)
        loss = nats / len(wrong)
        options = {"batch_size": len(wrong), "sync_dist": True}
        self.log("train/nats_per_image", loss, **options)
        error = 100 * wrong.float().mean()
        self.log("train/error_percent", error, on_step=False, on_epoch=True, prog_bar=True, **options)
        return loss

    def _evaluate(self, batch: ImageBatch, stage: str) -> None:
        nats, _, wrong = self._step(batch)
        sums = self._sums.setdefault(stage, [0.0, 0.0, 0.0])
        for place, value in enumerate((nats, wrong.sum(), len(wrong))):
            sums[place] += float(value)

    def _log_evaluation(self, stage: str) -> None:
        nats, errors, images = map(sum, zip(*all_gather_object(self.trainer, self._sums.pop(stage)), strict=True))
        values = {f"{stage}/nats_per_image": nats / images, f"{stage}/error_percent": 100 * errors / images}
        self.log_dict(values, sync_dist=True)

    def validation_step(self, batch: ImageBatch, index: int) -> None:
        """Add one batch to the validation."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the validation."""
        self._log_evaluation("val")

    def test_step(self, batch: ImageBatch, index: int) -> None:
        """Add one batch to the test."""
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log the test."""
        self._log_evaluation("test")

    def on_predict_start(self) -> None:
        """Write the head of the table."""
        self.print("image,label,predicted,probability")

    def predict_step(self, batch: ImageBatch, index: int) -> Tensor:
        """Write a row for each test image; return the classes' probabilities."""
        probabilities = self.network(batch.images).float().softmax(1)
        best = probabilities.max(1)
        first = index * self.trainer.datamodule.eval_batch_size
        rows = zip(batch.labels.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
        for place, (label, found, probability) in enumerate(rows):
            number = first + place * self.trainer.world_size + self.global_rank
            print(f"{number},{self.classes[label]},{self.classes[found]},{probability:.4f}")
        return probabilities

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone."""
        data = getattr(self._trainer, "datamodule", None)
        options = ("dataset", "size", "normalize", "whiten", "val_size")
        checkpoint["wnseq"] = {
            "version": wnseq.__version__,
            "recipe": "sequential_images",
            "classes": list(self.classes),
            "preprocess": self.preprocess.state(),
            "data": {name: getattr(data, name) for name in options} if isinstance(data, ImageDataModule) else {},
            "images_sha256": data.images.sha256 if isinstance(data, ImageDataModule) else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint."""
        if self.network is None:
            about = checkpoint["wnseq"]
            self.build(Preprocess.from_state(about["preprocess"]), about["classes"])
        self.fresh = False


@torch.no_grad()
def classify(checkpoint: str | Path, levels: Tensor) -> Tensor:
    """Classify images by a checkpoint alone.

    Args:
        checkpoint: Path of a checkpoint of this recipe.
        levels: Pixels as whole numbers, with the channels of the training images, ``(N, C, H, W)``.

    Returns:
        The classes' probabilities, ``(N, classes)``.
    """
    model = SequentialImages.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    return model(model.preprocess(levels)).softmax(1)


@torch.enable_grad()
def memory(network: Network, images: Tensor) -> Tensor:
    """Measure how far back a network looks: ‖∂y_T/∂x_t‖ / ‖∂y_T/∂x_T‖ for every pixel t.

    Args:
        network: The network.
        images: Prepared images, ``(N, C, H, W)``.

    Returns:
        The ratios, ``(H·W,)``; the last is 1.
    """
    x = steps(images).detach().requires_grad_()
    last = network.rnn(x)[0][-1]
    along = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)).to(last)
    (slope,) = torch.autograd.grad((last * along).sum(), x)
    sizes = slope.flatten(1).norm(dim=1)
    return sizes / sizes[-1]


class SequentialImagesCLI(RecipeCLI):
    """The command line of this recipe."""

    def callbacks(self) -> list[Callback]:
        """Count images, and show what the gates learn."""
        return [Throughput("images", lambda batch: len(batch.images)), GateMonitor()]

    def report(self) -> None:
        """Show how far back the trained network looks."""
        batch = next(iter(self.datamodule.test_dataloader()))
        self.model.train()  # cuDNN has no backward of a recurrence in evaluation
        ratios = memory(self.model.network, batch.images.to(self.model.device)).flip(0).tolist()
        lags = [lag for lag in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if lag < len(ratios)]
        print("\ngradient of the last output with respect to a pixel, relative to the last pixel's:")
        for lag in [*lags, len(ratios) - 1]:
            print(f"  {lag:4d} steps back  {ratios[lag]:.2g}")


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the final metrics."""
    return run(
        SequentialImages,
        ImageDataModule,
        recipe="sequential_images",
        args=args,
        monitor="val/error_percent",
        cli_class=SequentialImagesCLI,
        defaults={
            "trainer.max_epochs": 30,
            "trainer.gradient_clip_val": 1.0,
            "data.batch_size": 64,
            "data.normalize": "unit",
        },
    )


if __name__ == "__main__":
    main()
