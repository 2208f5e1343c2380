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

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

import wnseq
from wnseq.data.images import ImageBatch, ImageDataModule, Preprocess
from wnseq.init import data_free_init, data_init, memory_bias_
from wnseq.nn import RECURRENT_LAYERS
from wnseq.training.batches import check_classes, check_pixels, get_labelled, get_labels, get_tensor
from wnseq.training.callbacks import GateMonitor, UnusedParameters, build_network_first
from wnseq.training.cli.recipe import run
from wnseq.training.cli.sampling import ImageCLI
from wnseq.training.evaluation import EvaluationTotals, evaluation_stage
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint
from wnseq.training.hparams import check_arguments
from wnseq.training.images import ImageSpec, build_for_images, first_images, restore_for_images
from wnseq.training.initialisation import BatchInitialised
from wnseq.training.predictions import print_predictions
from wnseq.training.run_info import checkpoint_info, print_header
from wnseq.training.schedules import schedule_steps, use_found_learning_rate

Start = Literal["torch", "forget_bias", "input", "closed_form", "data"]


class SequentialImages(CheckedLoading, LightningModule):
    """A recurrent classifier and how it is trained.

    Args:
        cell: Recurrence.
        norm: ``weight`` for weight normalisation, ``none`` for plain layers.
        hidden_size: Features of the hidden state.
        num_layers: Recurrent layers.
        start: ``torch`` for torch's draw; ``forget_bias`` for that with a forget bias of 1 (the update gate's, in a
            GRU; −1 in a minGRU, where it forgets); ``data`` for pre-activations of deviation 1 on the first training
            batch, set by ``wnseq.data_init``; ``input`` for what it sets in the input part alone; ``closed_form`` for
            the same targets without data. minGRU and minLSTM have the first two alone.
        horizon: With start data, steps to remember, fewer than the pixels; by default the input has a share of 0.8 in
            the variance.
        learning_rate: AdamW's step size; it falls to zero along a cosine.
        weight_decay: Decay of the weights as the plain model has it.
        init_from: Checkpoint to start from: one of this recipe, whose hyper-parameters then hold where none are given,
            or a plain torch state dict with the same names.

    Shape:
        - batches: ``ImageBatch``, or a tuple or list of prepared images ``(N, C, H, W)`` and labels ``(N,)``; to
          predict, images alone will do

    Raises:
        ValueError: An argument is out of its range, or a checkpoint does not fit.
    """

    @fill_from_checkpoint
    def __init__(
        self,
        cell: Literal["lstm", "gru", "mingru", "minlstm"] = "lstm",
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
        self.save_hyperparameters(ignore=["init_from"])
        check_arguments(
            SequentialImages,
            self.hparams,
            hidden_size="at least 1",
            num_layers="at least 1",
            learning_rate="greater than 0",
            weight_decay="at least 0",
        )
        if horizon is not None and start != "data":
            raise ValueError(f"horizon must be left out unless the start is data, got {horizon}")
        if cell in ("mingru", "minlstm") and start not in ("torch", "forget_bias"):
            raise ValueError(f"start must be torch or forget_bias with the cell {cell}, got {start}")
        self.init_from = init_from
        self.network: Network | None = None
        self.totals = EvaluationTotals()

    def build(self, images: ImageSpec) -> None:
        """Make the network for images; any size will do."""
        if not images.classes:
            raise ValueError(f"{images.name} has no labels: give --data.dataset digits, mnist or cifar10, or your own")
        h, self.images = self.hparams, images
        self.network = Network(h.cell, h.norm, images.shape[0], h.hidden_size, h.num_layers, len(images.classes))

    def build_from_data(self) -> None:
        """Make the network for the images of the Trainer, if there is none, and start it from ``init_from``."""
        build_for_images(self, "images", ("cell", "norm", "hidden_size", "num_layers"))

    def configure_callbacks(self) -> list[Callback]:
        """Make the network before the callbacks of the Trainer look at it."""
        build_network_first(self.trainer)
        return [UnusedParameters()]

    def forward(self, images: Tensor) -> Tensor:
        """Classify prepared images: ``(N, C, H, W)`` to ``(N, classes)`` logits."""
        return self.network(images)

    def on_fit_start(self) -> None:
        """Print what is trained on what."""
        h = self.hparams
        use_found_learning_rate(self)
        print_header(self, f"{h.num_layers} x {h.hidden_size} {h.cell}, norm {h.norm}, start {h.start}")

    def configure_optimizers(self) -> Any:
        """Set up AdamW and its schedule."""
        h = self.hparams
        optimizer = torch.optim.AdamW(wnseq.param_groups(self.network, h.weight_decay), lr=h.learning_rate)
        return schedule_steps(optimizer, self.trainer, "cosine")

    def on_train_batch_start(self, batch: ImageBatch, index: int) -> None:
        """Initialise from the first batch, unless the weights are initialised or loaded."""
        if index == 0 and not self.network.is_initialised:
            images, _ = get_labelled(batch)
            initialise_from_batch(self.network, self.hparams.start, self.hparams.horizon, images)

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

    def validation_step(self, batch: ImageBatch, index: int) -> None:
        """Add one batch to the totals of the validation or the test."""
        nats, _, wrong = self._step(batch)
        self.totals.add(nats=nats, errors=wrong.sum(), images=len(wrong))

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss and the share of errors."""
        stage, (nats, errors, images) = evaluation_stage(self.trainer), self.totals.reduce(self.trainer).values()
        values = {f"{stage}/nats_per_image": nats / images, f"{stage}/error_percent": 100 * errors / images}
        self.log_dict(values, sync_dist=True)

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
        checkpoint["wnseq"] = checkpoint_info(self, "sequential_images", **self.images.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint."""
        restore_for_images(self, checkpoint, "sequential_images")


class Network(BatchInitialised):
    """Images to logits, one pixel a step."""

    def __init__(self, cell: str, norm: str, channels: int, hidden_size: int, num_layers: int, classes: int) -> None:
        super().__init__()
        self.rnn = RECURRENT_LAYERS[cell, norm](channels, hidden_size, num_layers)
        self.output = nn.Linear(hidden_size, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        return self.output(self.rnn(steps(images))[0][-1])  # (N, classes)


def steps(images: Tensor) -> Tensor:
    """Return the pixels of ``(N, C, H, W)`` as a sequence, row by row: ``(H·W, N, C)``."""
    return images.flatten(2).permute(2, 0, 1)


@torch.no_grad()
def initialise_from_batch(network: Network, how: Start, horizon: int | None, images: Tensor) -> None:
    """Initialise a network in place; one without weight normalisation gets the function of one that has it.

    Args:
        network: Network to initialise.
        how: The kind of start.
        horizon: Steps to remember, for the start from data.
        images: The batch.
    """
    rnn = network.rnn
    if how == "forget_bias":
        memory_bias_(rnn)
    elif how == "closed_form":
        data_free_init(rnn)
    elif how == "data":
        data_init(rnn, steps(images), horizon=horizon)
    elif how == "input":
        drawn = {name: value.clone() for name, value in rnn.state_dict().items() if name.startswith("weight_hh")}
        data_init(rnn, steps(images))
        rnn.load_state_dict(drawn, strict=False)
    network.mark_initialised()


@torch.no_grad()
def classify(checkpoint: str | Path, pixels: Tensor) -> Tensor:
    """Compute the classes' probabilities, ``(N, classes)``, by a checkpoint alone.

    Args:
        checkpoint: Path of a checkpoint of this recipe.
        pixels: Images of whole numbers, with the channels of the training images, ``(N, C, H, W)``.

    Raises:
        ValueError: The pixels are no whole numbers, or have other values or channels than those in training.
    """
    model = SequentialImages.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    if model.images.preprocess is not None:
        check_pixels(pixels, model.images.num_values, model.images.shape[0])
        pixels = Preprocess.from_state(model.images.preprocess)(pixels)
    elif not pixels.is_floating_point():
        raise ValueError("the checkpoint has no preprocessing, as after a loader of your own: give images as that does")
    return model(pixels).softmax(1)


@torch.enable_grad()
def memory(network: Network, images: Tensor) -> Tensor:
    """Measure how far back a network looks: ‖∂y_T/∂x_t‖ / ‖∂y_T/∂x_T‖ for every pixel t.

    Images are ``(N, C, H, W)``, the ratios ``(H·W,)``; the last is 1.
    """
    x = steps(images).detach().requires_grad_()
    last = network.rnn(x)[0][-1]
    along = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)).to(last)
    (slope,) = torch.autograd.grad((last * along).sum(), x)
    sizes = slope.flatten(1).norm(dim=1)
    return sizes / sizes[-1]


class SequentialImagesCLI(ImageCLI):
    """The command line of this recipe."""

    def callbacks(self) -> list[Callback]:
        """Log images per second, and monitor the gates."""
        return [*super().callbacks(), GateMonitor()]

    def report(self) -> None:
        """Print how far back the trained network looks."""
        images = first_images(self.datamodule, 100).images.to(self.model.device)
        self.model.train()  # cuDNN has no backward of a recurrence in evaluation
        ratios = memory(self.model.network, images).flip(0).tolist()
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
