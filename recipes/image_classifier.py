"""Image classifier ConvPool-CNN-C, with weight, batch or mean-only batch normalisation, or none.

The network, the five variants and the schedule of Salimans & Kingma 2016 (arXiv 1602.07868), section 5.1, which trains
on CIFAR-10 without augmentation. With no arguments it trains on scikit-learn's digits, enlarged to 32 x 32.

On a CPU:
    wnseq run image_classifier
    wnseq run image_classifier --data.dataset mnist --trainer.max_epochs 5
On a GPU, the paper's own:
    wnseq run image_classifier --data.dataset cifar10 --data.whiten true --data.val_size 0
        --trainer.limit_val_batches 0 --data.batch_size 100 --model.width 1 --model.dropout 0.5
        --model.learning_rate 3e-3 --model.norm weight_mean_only --trainer.max_epochs 200
Fine-tuning:
    wnseq run image_classifier --model.init_from CHECKPOINT --model.learning_rate 3e-4
Classifying, the data's options taken from the checkpoint:
    wnseq run image_classifier predict --ckpt_path CHECKPOINT

Expect a test error of 1 % (3 of 300 images) after 30 epochs of one second on one core of a CPU.

Deviations from the paper:
1. By default the data are digits, of one channel; the network has an eighth of the channels, less dropout, smaller
   batches and a smaller step.
2. Torch's Adam adds its epsilon outside the square root. It is 1e-4, the root of the paper's 1e-8, which stands inside.
3. The step size falls with every step of the second half; the paper lowers it once an epoch.
4. By default 300 (CIFAR-10: 5,000) of the training images are held out, and the checkpoint with the smallest error on
   them is tested. The paper trains on all images and tests the final weights: --data.val_size 0
   --trainer.limit_val_batches 0.
5. All variants but batch normalisation, which sets means and deviations by itself, start from the same function, by
   equations 5 and 6. In the paper's code the plain one starts from another draw and keeps a constant first scale.
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
from wnseq.init import data_init, draw_directions
from wnseq.training import checkpoint_files, plots
from wnseq.training.callbacks import Throughput, all_gather_object
from wnseq.training.cli.recipe import RecipeCLI, run

Norm = Literal["none", "weight", "batch", "mean_only", "weight_mean_only"]
WEIGHT_NORMALISED = ("weight", "weight_mean_only")
CHANNELS = (96, 192)


class Normalised(nn.Sequential):
    """A linear map or a convolution, and what normalises its output; leaky ReLU is left to the caller."""

    def __init__(self, norm: str, inputs: int, outputs: int, kernel_size: int | None = None, padding: int = 0) -> None:
        own = norm in WEIGHT_NORMALISED
        bias = norm in ("none", "weight")  # the batch norms bring their own
        if kernel_size is None:
            layer = (wnseq.WNLinear if own else nn.Linear)(inputs, outputs, bias)
            norms = nn.BatchNorm1d, wnseq.MeanOnlyBatchNorm1d
        else:
            kind = wnseq.WNConv2d if own else nn.Conv2d
            layer = kind(inputs, outputs, kernel_size, padding=padding, bias=bias)
            norms = nn.BatchNorm2d, wnseq.MeanOnlyBatchNorm2d
        super().__init__()
        self.map = layer
        if norm == "batch":
            self.norm = norms[0](outputs, eps=1e-6)
        elif norm in ("mean_only", "weight_mean_only"):
            self.norm = norms[1](outputs)


class Noise(nn.Module):
    """Gaussian noise in training."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        """Add it."""
        return x + self.deviation * torch.randn_like(x) if self.training and self.deviation else x


class Network(nn.Module):
    """ConvPool-CNN-C: images to logits, for images of at least 12 x 12."""

    def __init__(self, norm: str, channels: int, classes: int, width: float, noise: float, dropout: float) -> None:
        super().__init__()
        first, second = (max(1, round(width * number)) for number in CHANNELS)

        def stage(*sizes: tuple[int, int], kernel_size: int = 3, padding: int = 1) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for inputs, outputs in sizes:
                layers += [Normalised(norm, inputs, outputs, kernel_size, padding), nn.LeakyReLU(0.1)]
            return layers

        self.features = nn.Sequential(
            Noise(noise),
            *stage((channels, first), (first, first), (first, first)),  # (N, 96, 32, 32)
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
            *stage((first, second), (second, second), (second, second)),  # (N, 192, 16, 16)
            nn.MaxPool2d(2),
            nn.Dropout(dropout),  # (N, 192, 8, 8)
            *stage((second, second), padding=0),  # (N, 192, 6, 6)
            *stage((second, second), (second, second), kernel_size=1, padding=0),
        )
        self.output = Normalised(norm, second, classes)
        self.to(memory_format=torch.channels_last)  # what oneDNN and cuDNN compute in: a tenth to a fifth off the step

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        return self.output(self.features(images).mean((2, 3)))  # (N, 192) → (N, 10)


def start(network: Network, norm: str, make: Any, images: Tensor) -> None:
    """Draw v from N(0, 0.05²), then set g and b from a batch, in place; what is not weight-normalised gets the result.

    Args:
        network: Network to start.
        norm: Its kind.
        make: Makes a network of another kind with the same sizes.
        images: The batch.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3; also for nets without weight normalisation.
    """
    if norm == "batch":  # sets means and deviations by itself
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, 0, 0.05)
        return
    twin = network if norm in WEIGHT_NORMALISED else make("weight" if norm == "none" else "weight_mean_only")
    twin.to(images.device)
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(torch.initial_seed())  # the same draw in all variants
        draw_directions(twin, 0.05)
    data_init(twin, images)
    if twin is not network:
        network.load_state_dict(wnseq.remove_weight_norm(twin).model.state_dict())


class ImageClassifier(LightningModule):
    """ConvPool-CNN-C and how it is trained.

    Args:
        norm: ``weight``; ``mean_only`` for mean-only batch normalisation, ``weight_mean_only`` for both; ``batch``; or
            ``none``.
        width: Factor of the 96 and 192 channels.
        noise: Standard deviation of the Gaussian noise in the images.
        dropout: Probability of a zero after each pooling.
        learning_rate: Adam's step size in the first half; it then falls to zero, in a straight line.
        beta: Adam's β1 in the first half.
        late_beta: Adam's β1 in the second half.
        init_images: Training images from which the start is set.
        init_from: Checkpoint to start from: one of this recipe, or a plain torch state dict with the same names.

    Shape:
        - batches: ``ImageBatch`` of ``(N, C, H, W)`` images and ``(N,)`` labels

    Raises:
        ValueError: An argument is out of its range, or a checkpoint does not fit.
    """

    def __init__(
        self,
        norm: Norm = "weight",
        width: float = 0.125,
        noise: float = 0.15,
        dropout: float = 0.2,
        learning_rate: float = 1e-3,
        beta: float = 0.9,
        late_beta: float = 0.5,
        init_images: int = 500,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, fits, expected in (
            ("width", width, width > 0, "greater than 0"),
            ("noise", noise, noise >= 0, "at least 0"),
            ("dropout", dropout, 0 <= dropout < 1, "at least 0 and less than 1"),
            ("learning_rate", learning_rate, learning_rate > 0, "greater than 0"),
            ("beta", beta, 0 <= beta < 1, "at least 0 and less than 1"),
            ("late_beta", late_beta, 0 <= late_beta < 1, "at least 0 and less than 1"),
            ("init_images", init_images, init_images >= 2, "at least 2"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {expected}, got {value}")
        self.save_hyperparameters(ignore=["init_from"])
        self.init_from = init_from
        self.network: Network | None = None
        self.fresh = False  # whether the start is still to be set
        self.preprocess: Preprocess | None = None
        self.classes: tuple[str, ...] = ()
        self.mistakes: list[tuple[Tensor, int, int]] = []  # levels, label and prediction, of the last test
        self._sums: dict[str, list[float]] = {}  # nats, errors and images of the running evaluation

    def make(self, norm: str) -> Network:
        """Make a network of any kind for the images at hand."""
        h = self.hparams
        return Network(norm, len(self.preprocess.offset), len(self.classes), h.width, h.noise, h.dropout)

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
            checkpoint_files.load_weights(self.network, path, checkpoint_files.load(path), ("norm", "width"))
            self.fresh = False

    def forward(self, images: Tensor) -> Tensor:
        """Classify prepared images: ``(N, C, H, W)`` to ``(N, classes)`` logits."""
        return self.network(images)

    def on_fit_start(self) -> None:
        """Say what is trained on what; set the start from data, unless the weights come from a checkpoint."""
        data = self.trainer.datamodule
        self.print(data.describe())
        for logger in self.loggers:
            logger.log_hyperparams({"dataset": data.dataset, "images_sha256": data.images.sha256})
        h = self.hparams
        size = sum(parameter.numel() for parameter in self.parameters())
        self.print(f"model: ConvPool-CNN-C, width {h.width}, norm {h.norm}, {size:,} parameters\n")
        if self.fresh and self.trainer.ckpt_path is None:
            train = data.images.parts["train"].pixels
            seeded = torch.Generator().manual_seed(torch.initial_seed())  # the same images in all variants
            chosen = torch.randperm(len(train), generator=seeded)[: h.init_images]
            start(self.network, h.norm, self.make, self.preprocess(train[chosen]).to(self.device))
        self.fresh = False

    def configure_optimizers(self) -> Any:
        """Set up Adam and the paper's schedule."""
        if self.network is None:
            raise ValueError("there is no network yet: fit with an ImageDataModule, or call build first")
        h = self.hparams
        optimizer = torch.optim.Adam(self.network.parameters(), lr=h.learning_rate, betas=(h.beta, 0.999), eps=1e-4)
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise ValueError("the schedule needs --trainer.max_epochs or --trainer.max_steps")
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 - 2 * step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: ImageBatch, index: int) -> None:
        """Lower β1 for the second half."""
        h = self.hparams
        late = 2 * self.global_step >= self.trainer.estimated_stepping_batches
        for group in self.optimizers().param_groups:
            group["betas"] = (h.late_beta if late else h.beta, 0.999)

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
        nats, found, wrong = self._step(batch)
        sums = self._sums.setdefault(stage, [0.0, 0.0, 0.0])
        for place, value in enumerate((nats, wrong.sum(), len(wrong))):
            sums[place] += float(value)
        if stage == "test":
            shown = zip(batch.pixels[wrong].cpu(), batch.labels[wrong].tolist(), found[wrong].tolist(), strict=True)
            self.mistakes += shown

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

    def on_test_epoch_start(self) -> None:
        """Forget the mistakes of an earlier test."""
        self.mistakes = []

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
            "recipe": "image_classifier",
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
        levels: Pixels as whole numbers, of the size and the channels of the training images, ``(N, C, H, W)``.

    Returns:
        The classes' probabilities, ``(N, classes)``.
    """
    model = ImageClassifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    return model(model.preprocess(levels)).softmax(1)


class ImageClassifierCLI(RecipeCLI):
    """The command line of this recipe."""

    def callbacks(self) -> list[Callback]:
        """Count images."""
        return [Throughput("images", lambda batch: len(batch.images))]

    def report(self) -> None:
        """Draw the test images that were taken for something else."""
        mistakes, names = self.model.mistakes, self.model.classes
        print(f"\n{len(mistakes)} of the test images are taken for another class")
        if not mistakes or self.run_dir is None:
            return
        shown = mistakes[:40]
        captions = [f"{names[label]} → {names[found]}" for _, label, found in shown]
        figure = self.run_dir / "mistakes.png"
        images = torch.stack([levels for levels, _, _ in shown]) / (self.model.preprocess.num_values - 1)
        if plots.plot_images(images.numpy(), captions, figure, title="label → prediction"):
            print(f"the first {len(shown)} of them: {figure}")


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the final metrics."""
    return run(
        ImageClassifier,
        ImageDataModule,
        recipe="image_classifier",
        args=args,
        monitor="val/error_percent",
        cli_class=ImageClassifierCLI,
        defaults={"trainer.max_epochs": 30, "data.size": 32, "data.batch_size": 32},
    )


if __name__ == "__main__":
    main()
