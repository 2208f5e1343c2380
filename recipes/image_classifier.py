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

Expect a test error of 1 to 2 % (3 to 5 of 300 images, by processor and number of threads, which round sums in their own
way) after 30 epochs of one second on one core of a CPU.

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

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

import wnseq
from wnseq.data.images import ImageBatch, ImageDataModule, Preprocess
from wnseq.init import data_init, draw_directions
from wnseq.training import plots
from wnseq.training.batches import check_classes, check_pixels, get_labelled, get_labels, get_tensor
from wnseq.training.callbacks import UnusedParameters, build_network_first
from wnseq.training.cli.recipe import run
from wnseq.training.cli.sampling import ImageCLI
from wnseq.training.evaluation import EvaluationTotals, evaluation_stage
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint
from wnseq.training.hparams import check_arguments
from wnseq.training.images import ImageSpec, build_for_images, restore_for_images
from wnseq.training.initialisation import BatchInitialised
from wnseq.training.predictions import print_predictions
from wnseq.training.ranks import join_lists, same_draws
from wnseq.training.run_info import checkpoint_info, find_datamodule, print_header
from wnseq.training.schedules import schedule_steps, use_found_learning_rate

Norm = Literal["none", "weight", "batch", "mean_only", "weight_mean_only"]


class ImageClassifier(CheckedLoading, LightningModule):
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
        init_images: Training images for the data-dependent initialisation.
        init_from: Checkpoint to start from: one of this recipe, whose hyper-parameters then hold where none are given,
            or a plain torch state dict with the same names.

    Shape:
        - batches: ``ImageBatch``, or a tuple or list of prepared images ``(N, C, H, W)`` and labels ``(N,)``; to
          predict, images alone will do

    Raises:
        ValueError: An argument is out of its range, or a checkpoint does not fit.
    """

    resume_may_change = ("noise", "dropout", "beta", "late_beta")  # what takes effect in a resumed run

    @fill_from_checkpoint
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
        self.save_hyperparameters(ignore=["init_from"])
        check_arguments(
            ImageClassifier,
            self.hparams,
            width="greater than 0",
            noise="at least 0",
            dropout="at least 0 and less than 1",
            learning_rate="greater than 0",
            beta="at least 0 and less than 1",
            late_beta="at least 0 and less than 1",
            init_images="at least 2",
        )
        self.init_from = init_from
        self.network: Network | None = None
        self.mistakes: list[tuple[Tensor, int, int]] = []  # pixels, label and prediction, of the last test
        self.totals = EvaluationTotals()

    def build(self, images: ImageSpec) -> None:
        """Make the network for images; any size will do."""
        if not images.classes:
            raise ValueError(f"{images.name} has no labels: give --data.dataset digits, mnist or cifar10, or your own")
        h, self.images = self.hparams, images
        self.network = Network(h.norm, images.shape[0], len(images.classes), h.width, h.noise, h.dropout)

    def build_from_data(self) -> None:
        """Make the network for the images of the Trainer, if there is none, and start it from ``init_from``."""
        build_for_images(self, "images", ("norm", "width"))

    def configure_callbacks(self) -> list[Callback]:
        """Make the network before the callbacks of the Trainer look at it."""
        build_network_first(self.trainer)
        return [UnusedParameters()]

    def forward(self, images: Tensor) -> Tensor:
        """Classify prepared images: ``(N, C, H, W)`` to ``(N, classes)`` logits."""
        return self.network(images)

    def on_fit_start(self) -> None:
        """Print what is trained on what; initialise from images of the data module."""
        h, data = self.hparams, find_datamodule(self)
        use_found_learning_rate(self)
        print_header(self, f"ConvPool-CNN-C, width {h.width}, norm {h.norm}")
        if isinstance(data, ImageDataModule):
            self._initialise(data, None)

    def _initialise(self, data: Any, images: Tensor | None) -> None:
        """Initialise from images of a data module, else from a batch, unless the weights are initialised or loaded."""
        if self.network.is_initialised:
            return
        with same_draws(self.trainer, self.device):
            if isinstance(data, ImageDataModule):
                train = data.images.parts["train"].pixels
                seeded = torch.Generator().manual_seed(torch.initial_seed())  # the same images for every norm
                chosen = torch.randperm(len(train), generator=seeded)[: self.hparams.init_images]
                images = data.preprocess(train[chosen]).to(next(self.network.parameters()))
            initialise_from_batch(self.network, self.hparams.norm, images)

    def configure_optimizers(self) -> Any:
        """Set up Adam and the paper's schedule."""
        h = self.hparams
        optimizer = torch.optim.Adam(self.network.parameters(), lr=h.learning_rate, betas=(h.beta, 0.999), eps=1e-4)
        return schedule_steps(optimizer, self.trainer, lambda done: min(1.0, 2 - 2 * done))

    def on_train_batch_start(self, batch: ImageBatch, index: int) -> None:
        """Lower β1 for the second half; initialise from a first batch that no data module made."""
        h = self.hparams
        if index == 0:
            self._initialise(find_datamodule(self), get_labelled(batch)[0])
        late = 2 * self.global_step >= self.trainer.estimated_stepping_batches
        for group in self.optimizers().param_groups:
            group["betas"] = (h.late_beta if late else h.beta, 0.999)

    def _step(self, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Classify one batch; return the summed loss in nats, the predicted classes, and which of them are wrong."""
        images, labels = get_labelled(batch)
        check_classes(labels, len(self.images.classes))
        logits = self.network(images).float()
        predicted = logits.argmax(1)
        return F.cross_entropy(logits, labels, reduction="sum"), predicted, predicted != labels

    def training_step(self, batch: ImageBatch, index: int) -> Tensor:
        """Compute the mean loss per image of one batch."""
        nats, _, wrong = self._step(batch)
        loss = nats / len(wrong)
        options = {"batch_size": len(wrong), "sync_dist": True}
        self.log("train/nats_per_image", loss, **options)
        error = 100 * wrong.float().mean()
        self.log("train/error_percent", error, on_step=False, on_epoch=True, prog_bar=True, **options)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the totals of the evaluation before, which may have been interrupted."""
        self.totals.reset()
        self.mistakes = []

    def validation_step(self, batch: ImageBatch, index: int) -> None:
        """Add one batch to the totals of the validation or the test."""
        nats, predicted, wrong = self._step(batch)
        self.totals.add(nats=nats, errors=wrong.sum(), images=len(wrong))
        if self.trainer.testing and isinstance(batch, ImageBatch):
            pixels, labels = batch.pixels[wrong].cpu(), batch.labels[wrong].tolist()
            self.mistakes += zip(pixels, labels, predicted[wrong].tolist(), strict=True)

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss and the share of errors."""
        stage, (nats, errors, images) = evaluation_stage(self.trainer), self.totals.reduce(self.trainer).values()
        values = {f"{stage}/nats_per_image": nats / images, f"{stage}/error_percent": 100 * errors / images}
        self.log_dict(values, sync_dist=True)
        self.mistakes = join_lists(self.trainer, self.mistakes)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: ImageBatch, index: int) -> Tensor:
        """Print a row for each image of the data module; return the classes' probabilities."""
        probabilities = self.network(get_tensor(batch, "images")).float().softmax(1)
        print_predictions(self.trainer, index, probabilities, get_labels(batch), self.images.classes)
        return probabilities

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone."""
        checkpoint["wnseq"] = checkpoint_info(self, "image_classifier", **self.images.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint."""
        restore_for_images(self, checkpoint, "image_classifier")


WEIGHT_NORMALISED = ("weight", "weight_mean_only")
CHANNELS = (96, 192)
MIN_SIZE = 12  # what two poolings and a convolution without padding leave a pixel of


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


class Network(BatchInitialised):
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
        if min(images.shape[2:]) < MIN_SIZE:
            height, width = images.shape[2:]
            raise wnseq.ShapeError(
                f"images must be at least {MIN_SIZE} high and wide, got {height} x {width}: --data.size {MIN_SIZE}"
            )
        return self.output(self.features(images).mean((2, 3)))  # (N, 192) → (N, 10)


def initialise_from_batch(network: Network, norm: str, images: Tensor) -> None:
    """Draw v from N(0, 0.05²), then set g and b from a batch, in place; a plain network gets the same function.

    Args:
        network: Network to initialise.
        norm: Its kind.
        images: The batch.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3; also for nets without weight normalisation.
    """
    with torch.random.fork_rng([images.device] if images.is_cuda else [], enabled=norm != "batch"):
        if norm != "batch":
            torch.manual_seed(torch.initial_seed())  # the same draw in all variants
        draw_directions(network, 0.05)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, 0, 0.05)
    if norm != "batch":  # which sets means and standard deviations itself
        data_init(network, images)
    network.mark_initialised()


@torch.no_grad()
def classify(checkpoint: str | Path, pixels: Tensor) -> Tensor:
    """Compute the classes' probabilities, ``(N, classes)``, by a checkpoint alone.

    Args:
        checkpoint: Path of a checkpoint of this recipe.
        pixels: Images of whole numbers, of the size and the channels of the training images, ``(N, C, H, W)``.

    Raises:
        ValueError: The pixels are no whole numbers, or have other values or channels than those in training.
    """
    model = ImageClassifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    if model.images.preprocess is not None:
        check_pixels(pixels, model.images.num_values, model.images.shape[0])
        pixels = Preprocess.from_state(model.images.preprocess)(pixels)
    elif not pixels.is_floating_point():
        raise ValueError("the checkpoint has no preprocessing, as after a loader of your own: give images as that does")
    return model(pixels).softmax(1)


class ImageClassifierCLI(ImageCLI):
    """The command line of this recipe."""

    def report(self) -> None:
        """Draw the test images that are misclassified."""
        if "test/error_percent" not in self.metrics:  # limit_test_batches 0
            return
        mistakes, names = self.model.mistakes, self.model.images.classes
        print(f"\n{len(mistakes)} of the test images are taken for another class")
        if not mistakes or self.run_dir is None:
            return
        shown = mistakes[:40]
        captions = [f"{names[label]} → {names[predicted]}" for _, label, predicted in shown]
        figure = self.run_dir / "mistakes.png"
        images = torch.stack([pixels for pixels, _, _ in shown]) / (self.model.images.num_values - 1)
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
