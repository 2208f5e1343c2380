"""PixelCNN++: images pixel by pixel, by causal convolutions in two streams, and sampling that recomputes nothing.

The network and the training of Salimans et al. 2017 (arXiv 1701.05517), weight-normalised, with the data-dependent
initialisation of Salimans & Kingma 2016 (arXiv 1602.07868); sampled as by Ramachandran et al. 2017 (arXiv 1704.06001).
With no arguments it trains on scikit-learn's digits.

On a CPU:
    wnseq run pixelcnn
    wnseq run pixelcnn --model.conditional true
On a GPU, the paper's own size:
    wnseq run pixelcnn --data.dataset cifar10 --data.batch_size 128 --model.channels 192 --model.blocks 5 \\
        --model.checkpoint_activations true --trainer.max_epochs 5000
    wnseq run pixelcnn --data.dataset binarized_mnist --data.batch_size 128 --model.channels 64 --trainer.max_epochs 100
Fine-tuning:
    wnseq run pixelcnn --model.init_from CHECKPOINT --model.learning_rate 3e-4
Sampling, from a checkpoint alone, to samples.png and samples.npz:
    wnseq run pixelcnn predict --ckpt_path CHECKPOINT --model.sampling.number 50

Expect 1.79 bits per dim on the test images, 79.2 nats an image, and samples in which most digits can be told, after 30
epochs: two minutes of two CPU cores.

Deviations from the paper:
1. By default the data are digits of 8 x 8 pixels and 17 values, a pixel is categorical, and the network has 32 channels
   and two blocks where the paper has 192 and five.
2. The batch has 50 images, of which the start is set, too; the paper's has 128, and its start is from 16 of them.
3. Adam's ε is added outside the root, as in torch.
4. The average of the weights has a shorter memory at first, about a ninth of the steps taken, until that is 2000 steps.
5. The logistic mixture is exact where the paper has a density instead of a small probability, and when images
   are drawn a channel follows the whole values of those before it.
6. Without the data-dependent start g is the length of v, so that both norms begin as the same function.
7. The checkpoint with the fewest bits on the validation images is tested.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from tqdm import tqdm

import wnseq
from wnseq import distributions
from wnseq.data.images import ImageBatch, ImageDataModule
from wnseq.init import data_init
from wnseq.pixelcnn import (
    CachedStreams,
    DownRightShiftedConv2d,
    DownShiftedConv2d,
    GatedBlock,
    PixelCNNStage,
    PixelConv,
    RowConv,
    down_shift,
    right_shift,
    weight_and_bias,
)
from wnseq.training import batches
from wnseq.training.callbacks import PolyakAverage, UnusedParameters, build_network_first
from wnseq.training.cli.recipe import run
from wnseq.training.cli.sampling import ImageSamplingCLI
from wnseq.training.evaluation import evaluation_stage
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint
from wnseq.training.hparams import check_arguments
from wnseq.training.images import ImageSpec, build_for_images, first_images, restore_for_images
from wnseq.training.initialisation import BatchInitialised
from wnseq.training.run_info import checkpoint_info, print_header
from wnseq.training.sample_files import save_images, save_samples

MAX_CATEGORICAL = 32  # values of a pixel that is categorical by default


@dataclass
class Sampling:
    """How images are drawn from the model.

    Args:
        number: Images to draw.
        label: Class of all images of a conditional model; by default each class in turn.
        seed: Seed of the draw.
        batch_size: Images at once.
        output: Path of the two files that ``predict`` writes, without their endings .png and .npz.
    """

    number: int = 100
    label: int | None = None
    seed: int = 0
    batch_size: int = 100
    output: str = "samples"

    def __post_init__(self) -> None:
        """Check the values."""
        check_arguments(Sampling, vars(self), "sampling.", number="at least 1", batch_size="at least 1")


class PixelCNN(CheckedLoading, LightningModule):
    """PixelCNN++ and how it is trained.

    Args:
        norm: ``weight`` for weight normalisation, ``none`` for torch's own layers.
        data_init: Whether g and b, or the plain weights, are set from the first training batch.
        output: Of a pixel: ``logistic``, a mixture of discretised logistics, its channels in turn; ``categorical``, for
            one channel; ``auto``: categorical for one channel of at most 32 values.
        channels: F, the width of both streams; 160 or 192 in the paper.
        blocks: Residual blocks on the way down, at each of three resolutions; 5 in the paper.
        mixtures: Components of the logistic mixture.
        dropout: Probability of a zero in each block.
        conditional: Whether images are conditioned on their class.
        checkpoint_activations: Whether training recomputes a block's activations in the backward pass instead of
            storing them: the same gradients with less memory and more time.
        learning_rate: Adam's initial step size, multiplied by 0.999995 after each step.
        polyak_steps: Steps over which the weights are averaged for evaluation; 0 for no average.
        sampling: How ``predict`` and the end of a run draw images.
        init_from: Checkpoint to start from: one of this recipe, whose hyper-parameters then hold where none are given,
            or a plain torch state dict with the same names.

    Shape:
        - batches: ``ImageBatch``, or a tensor or tuple that begins with pixels ``(N, C, H, W)`` and, if conditional,
          labels ``(N,)``

    Raises:
        ValueError: An argument is out of its range, images or labels do not fit, or a checkpoint does not fit.
    """

    resume_may_change = ("dropout", "checkpoint_activations", "polyak_steps")  # what takes effect in a resumed run

    @fill_from_checkpoint
    def __init__(
        self,
        norm: Literal["weight", "none"] = "weight",
        data_init: bool = True,
        output: Literal["auto", "categorical", "logistic"] = "auto",
        channels: int = 32,
        blocks: int = 2,
        mixtures: int = 10,
        dropout: float = 0.5,
        conditional: bool = False,
        checkpoint_activations: bool = False,
        learning_rate: float = 1e-3,
        polyak_steps: int = 2000,
        sampling: Sampling = Sampling(),  # noqa: B008 - shown by --help
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["init_from", "sampling"])
        ranges = dict.fromkeys(("channels", "blocks", "mixtures"), "at least 1")
        ranges |= {"dropout": "at least 0 and less than 1", "learning_rate": "greater than 0"}
        check_arguments(PixelCNN, {**self.hparams, "sampling": sampling}, **ranges, polyak_steps="at least 0")
        self.sampling, self.init_from = replace(sampling), init_from
        self.network: Network | None = None

    def build(self, images: ImageSpec) -> None:
        """Make the network for images."""
        h, output, self.images = self.hparams, self.hparams.output, images
        if h.conditional and not images.classes:
            raise ValueError("these images have no classes: --model.conditional false")
        if output == "auto":
            categorical = images.shape[0] == 1 and images.num_values <= MAX_CATEGORICAL
            output = "categorical" if categorical else "logistic"
        own = (h.mixtures, len(images.classes) if h.conditional else 0, h.dropout, h.checkpoint_activations)
        self.network = Network(h.norm, images.shape, images.num_values, output, h.channels, h.blocks, *own)

    def build_from_data(self) -> None:
        """Make the network for the images of the Trainer, if there is none, and start it from ``init_from``."""
        build_for_images(self, "pixels", self.hparams)

    def configure_callbacks(self) -> list[Callback]:
        """Make the network before the callbacks of the Trainer look at it; average the weights in training."""
        build_network_first(self.trainer)
        steps = self.hparams.polyak_steps if self.trainer.state.fn == "fit" else 0
        return [UnusedParameters(), *([PolyakAverage(steps)] if steps else [])]

    def configure_optimizers(self) -> dict[str, Any]:
        """Set up Adam, its step size falling a little with each step."""
        adam = torch.optim.Adam(self.network.parameters(), self.hparams.learning_rate, (0.95, 0.9995))
        falling = torch.optim.lr_scheduler.ExponentialLR(adam, 0.999995)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Compute the parameters of each pixel, ``(N, P, H, W)``, from pixels, ``(N, C, H, W)``."""
        return self.network(x, label)

    def on_fit_start(self) -> None:
        """Print what is trained on what; check the label and the sampler of the samples to come."""
        check_label(self.network, self.sampling.label)
        check_layers(self.network)
        print_header(self, f"norm {self.hparams.norm}, {self.network.output} pixels")

    def on_train_batch_start(self, batch: ImageBatch, index: int) -> None:
        """Initialise from the first batch, unless the weights are initialised or loaded."""
        if index > 0 or self.network.is_initialised:
            return
        if self.hparams.data_init:
            initialise_from_batch(self.network, *self.observe(batch))
        self.network.mark_initialised()

    def observe(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return pixels, ``(N, C, H, W)``, and classes, ``(N,)`` or None, of a batch that fits the network."""
        pixels, classes = batches.get_tensor(batch, "pixels"), self.network.classes
        batches.check_image_shape(pixels, self.network.shape)
        batches.check_pixels(pixels, self.network.num_values)
        if not classes:
            return pixels, None
        if (label := batches.get_labels(batch)) is None:
            raise ValueError(f"labels must be from 0 to {classes - 1}, got none")
        batches.check_classes(label, classes)
        return pixels, label

    def _step(self, batch: ImageBatch, stage: str) -> Tensor:
        """Compute the mean of −log p(x) over a batch, in nats per image; log it, and in bits per dimension."""
        pixels, label = self.observe(batch)
        nats = -self.network.log_likelihood(pixels, label).mean()
        bits = distributions.bits_per_dim(nats.detach(), math.prod(self.network.shape))
        values = {f"{stage}/nats_per_image": nats.detach(), f"{stage}/bits_per_dim": bits}
        self.log_dict(values, batch_size=len(pixels), sync_dist=True)
        return nats

    def training_step(self, batch: ImageBatch, index: int) -> Tensor:
        """Compute the mean loss per image of one batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: ImageBatch, index: int) -> None:
        """Log one batch of the validation or the test."""
        self._step(batch, evaluation_stage(self.trainer))

    test_step = validation_step

    def predict_step(self, batch: Any, index: int) -> None:
        """Draw images into two files."""
        if self.trainer.is_global_zero:
            print(*write_samples(self, self.sampling.output), sep="\n")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone."""
        checkpoint["wnseq"] = checkpoint_info(self, "pixelcnn", **self.images.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint."""
        restore_for_images(self, checkpoint, "pixelcnn")


CONV = {"weight": wnseq.WNConv2d, "none": nn.Conv2d}
UP = {"weight": wnseq.WNConvTranspose2d, "none": nn.ConvTranspose2d}
RESOLUTIONS = 3  # the whole, a half and a quarter of the size
STD = 0.05  # initial standard deviation of the directions
SMALL = {"*.second.conv": 0.1}  # initial standard deviation of what starts near zero
STREAMS = ((DownShiftedConv2d, (2, 3)), (DownRightShiftedConv2d, (2, 2)))  # above; above and at the left


def level(
    norm: str, channels: int, blocks: int, deeper: int, checkpointing: bool, classes: int, dropout: float
) -> PixelCNNStage:
    """Make the blocks of one resolution, and of the ``deeper`` resolutions below it: so many blocks on the way down."""

    def block(stream: int, shortcuts: int) -> GatedBlock:
        shifted, kernel = STREAMS[stream]
        first, second = (shifted(CONV[norm](2 * channels, times * channels, kernel)) for times in (1, 2))
        side = CONV[norm](2 * shortcuts * channels, channels, 1) if shortcuts else None
        return GatedBlock(first, second, side, classes, dropout)

    def between(conv: type[nn.Module]) -> list[nn.Module]:
        return [shifted(conv(channels, channels, kernel, stride=2)) for shifted, kernel in STREAMS]

    down = [(block(0, 0), block(1, 1)) for _ in range(blocks)]
    up = [(block(0, 1), block(1, 2)) for _ in range(blocks + (deeper > 0))]  # one for each skip
    if not deeper:
        return PixelCNNStage(down, up, checkpointing=checkpointing)
    inner = level(norm, channels, blocks, deeper - 1, checkpointing, classes, dropout)
    return PixelCNNStage(down, up, between(CONV[norm]), inner, between(UP[norm]), checkpointing)


class Network(BatchInitialised):
    """p(x) = Π p(pixel | those before it), for images ``shape``, ``(C, H, W)``, with sides that are multiples of 4.

    ``channels`` is F, the width of both streams; ``checkpointing`` is that of :class:`wnseq.pixelcnn.PixelCNNStage`.
    """

    def __init__(
        self, norm: str, shape: Sequence[int], num_values: int, output: str, channels: int, blocks: int, mixtures: int,
        classes: int, dropout: float, checkpointing: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        in_channels, height, width = self.shape = tuple(shape)
        batches.check_image_multiple(height, width, 2 ** (RESOLUTIONS - 1))
        if output == "categorical" and in_channels > 1:
            raise ValueError(f"a categorical pixel has one channel, these have {in_channels}: --model.output logistic")
        conv = CONV[norm]
        self.num_values, self.output, self.classes = num_values, output, classes
        self.above = DownShiftedConv2d(conv(in_channels + 1, channels, (2, 3)))
        self.near = DownShiftedConv2d(conv(in_channels + 1, channels, (1, 3)))
        self.left = DownRightShiftedConv2d(conv(in_channels + 1, channels, (2, 1)))
        self.streams = level(norm, channels, blocks, RESOLUTIONS - 1, checkpointing, classes, dropout)
        logistic = output == "logistic"
        self.pixels = conv(
            channels, distributions.logistic_mixture_channels(in_channels, mixtures) if logistic else num_values, 1
        )
        self.draws = 1 + in_channels if logistic else 1  # uniform numbers that a pixel is drawn from
        for module in self.modules():
            if isinstance(module, (*CONV.values(), *UP.values())):
                weight = torch.empty_like(module.weight.detach()).normal_(0, STD)
                module.load_state_dict({"weight": weight, "bias": torch.zeros_like(module.bias)})

    def scaled(self, x: Tensor) -> Tensor:
        """Map pixels to −1 … 1."""
        return x.to(self.pixels.bias) * (2 / (self.num_values - 1)) - 1

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map pixels, ``(N, C, H, W)``, and classes, ``(N,)``, to the parameters of each pixel, ``(N, P, H, W)``."""
        x = F.pad(self.scaled(x), (0, 0, 0, 0, 0, 1), value=1.0)  # (N, C + 1, H, W), by which a layer sees the edge
        u = down_shift(self.above(x))  # (N, F, H, W)
        ul = down_shift(self.near(x)) + right_shift(self.left(x))
        return self.pixels(F.elu(self.streams(u, ul, label)[1]))

    def log_likelihood(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Compute log p(x), ``(N,)``, of pixels, ``(N, C, H, W)``."""
        parameters = self(x, label)
        if self.output == "logistic":
            pixels = distributions.logistic_mixture_log_likelihood(x, parameters, self.num_values)
        else:
            pixels = -F.cross_entropy(parameters, x[:, 0].long(), reduction="none")
        return pixels.flatten(1).sum(1)

    def sample(self, parameters: Tensor, uniform: Tensor) -> Tensor:
        """Draw one pixel of each image, ``(N, C)``, by its parameters, ``(N, P)``, and noise from 0 to 1."""
        if self.output == "logistic":
            return distributions.logistic_mixture_sample(parameters, uniform, self.shape[0], self.num_values)
        wide = torch.promote_types(parameters.dtype, torch.float32)  # mixed precision's probabilities add up to another
        return (uniform >= parameters.softmax(1, wide).cumsum(1)[:, :-1]).sum(1, keepdim=True)


def initialise_from_batch(network: Network, x: Tensor, label: Tensor | None) -> None:
    """Set g and b from pixels ``(N, C, H, W)`` and classes ``(N,)``; a plain network gets the same function.

    Raises:
        ValueError: The images have four rows: the lowest resolution then has one, with nothing to measure.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3; also for nets without weight normalisation.
    """
    step = 2 ** (RESOLUTIONS - 1)
    if network.shape[1] == step:
        raise ValueError(
            f"images of {step} rows have one row at the lowest resolution, and it sees nothing above: "
            "--model.data_init false"
        )
    data_init(network, (x, label), SMALL)


def check_layers(network: Network) -> None:
    """Check that a network has no layer but those whose forward :class:`Cached` repeats."""
    if more := dict(network.named_children()).keys() - {"above", "near", "left", "streams", "pixels"}:
        raise ValueError(f"the cached sampler lacks {', '.join(sorted(more))}: add it to Cached, or draw by Naive")


class Cached:
    """Parameters of one pixel after the other for N images; each layer computes what the pixel needs and no more.

    Source:
        Ramachandran et al. 2017, arXiv 1704.06001.
    """

    def __init__(self, network: Network, batch_size: int, label: Tensor | None) -> None:
        check_layers(network)
        channels, height, width = network.shape
        self.network, (weight, self.bias) = network, weight_and_bias(network.pixels)
        self.head = weight.flatten(1).T
        self.image = self.head.new_ones(batch_size, height, width, channels + 1)
        self.above, self.near = (RowConv(layer, batch_size, width) for layer in (network.above, network.near))
        self.left = PixelConv(network.left, batch_size, width)
        self.streams = CachedStreams(network.streams, batch_size, width, label)
        self.nothing = self.head.new_zeros(batch_size, width, len(self.head))

    def begin(self, row: int) -> None:
        """Start a row."""
        u = self.of_row = self.nothing
        if row:
            self.above.push(self.image[:, row - 1])
            self.near.push(self.image[:, row - 1])
            u, self.of_row = self.above.output(), self.near.output()
        self.left.next_row()
        self.streams.row(row, u)

    def parameters(self, row: int, column: int) -> Tensor:
        """Compute the parameters of the next pixel, ``(N, P)``."""
        x = self.streams.x.copy_(self.of_row[:, column])
        if column:
            x.add_(self.left.output(column - 1))
        self.streams.pixel(row, column)
        return torch.addmm(self.bias, F.elu(x), self.head)

    def put(self, row: int, column: int, value: Tensor) -> None:
        """Store the pixel itself, ``(N, C)``."""
        self.image[:, row, column, :-1] = self.network.scaled(value)
        self.left.slots[column].copy_(self.image[:, row, column])


class Naive:
    """The same by a forward pass over the whole images for each pixel: the reference of :class:`Cached`."""

    def __init__(self, network: Network, batch_size: int, label: Tensor | None) -> None:
        self.network, self.label = wnseq.remove_weight_norm(network).eval(), label
        self.image = torch.zeros(batch_size, *network.shape, device=network.pixels.bias.device)

    def begin(self, row: int) -> None:
        """Do nothing: no row is cached."""

    def parameters(self, row: int, column: int) -> Tensor:
        """Compute the parameters of the next pixel, ``(N, P)``."""
        return self.network(self.image, self.label)[:, :, row, column]

    def put(self, row: int, column: int, value: Tensor) -> None:
        """Store the pixel itself, ``(N, C)``."""
        self.image[:, :, row, column] = value


@torch.inference_mode()
def draw(
    network: Network,
    uniform: Tensor,
    label: Tensor | None = None,
    given: Tensor | None = None,
    known: Tensor | None = None,
    sampler: type[Cached] | type[Naive] = Cached,
) -> Tensor:
    """Draw images pixel by pixel, or the rest of images of which some pixels are known: ``(N, C, H, W)``, uint8.

    Args:
        network: The network.
        uniform: Noise from 0 to 1, ``(N, K, H, W)``, K the network's ``draws``.
        label: Classes, ``(N,)``, of a network conditioned on them.
        given: Pixels, ``(N, C, H, W)``, of which the known are kept.
        known: Which those are, ``(H, W)``.
        sampler: What computes the parameters.
    """
    channels, height, width = network.shape
    images = torch.zeros(len(uniform), channels, height, width, dtype=torch.long, device=uniform.device)
    with torch.autocast(uniform.device.type, enabled=False):  # which does not cast what `addmm` writes into
        steps = sampler(network, len(uniform), label)
        for row in tqdm(range(height), "rows", leave=False, disable=None):
            steps.begin(row)
            for column in range(width):
                parameters = steps.parameters(row, column)
                if column == 0:
                    batches.check_finite(parameters, "the parameters of a pixel")
                if known is not None and known[row, column]:
                    value = given[:, :, row, column].long()
                else:
                    value = network.sample(parameters, uniform[:, :, row, column])
                steps.put(row, column, value)
                images[:, :, row, column] = value
    return images.to(torch.uint8)


def noise(network: Network, number: int, seed: int) -> Tensor:
    """Draw what images are drawn from, on the CPU: the same numbers on every device."""
    return torch.rand(number, network.draws, *network.shape[1:], generator=torch.Generator().manual_seed(seed))


class Samples(NamedTuple):
    """Images drawn from a model."""

    pixels: Tensor  # (N, C, H, W), uint8
    labels: Tensor  # (N,), int64; (0,) of a model that is not conditioned on classes


def check_label(network: Network, label: int | None) -> None:
    """Check that a network has a class to draw."""
    if label is not None and not 0 <= label < network.classes:
        there = f"from 0 to {network.classes - 1}" if network.classes else "left out: the model is not conditional"
        raise ValueError(f"sampling.label must be {there}, got {label}")


def sample(model: PixelCNN, sampling: Sampling) -> Samples:
    """Draw images.

    Raises:
        ValueError: There is no such class.
    """
    net, number = model.network, sampling.number
    check_label(net, sampling.label)
    labels = torch.arange(number) % net.classes if net.classes else torch.empty(0, dtype=torch.long)
    labels = labels if sampling.label is None else torch.full_like(labels, sampling.label)
    uniform, parts = noise(net, number, sampling.seed), []
    for some in torch.arange(number).split(sampling.batch_size):
        label = labels[some].to(model.device) if net.classes else None
        parts.append(draw(net, uniform[some].to(model.device), label).cpu())
    return Samples(torch.cat(parts), labels)


def generate(checkpoint: str | Path, **sampling: Any) -> Samples:
    """Draw images from a checkpoint alone; ``sampling`` are fields of :class:`Sampling`."""
    return sample(PixelCNN.load_from_checkpoint(checkpoint, map_location="cpu"), Sampling(**sampling))


def complete(model: PixelCNN, pixels: Tensor, known: Tensor, labels: Tensor | None = None, seed: int = 0) -> Tensor:
    """Draw the unknown pixels of images ``(N, C, H, W)``, each given the known ones before it.

    ``known`` says which pixels are, ``(H, W)``: those after an unknown one are kept, but do not influence it.
    """
    parts = model.observe(ImageBatch(pixels, labels, pixels))
    given, label = (None if part is None else part.to(model.device) for part in parts)
    return draw(model.network, noise(model.network, len(pixels), seed).to(model.device), label, given, known)


def write_samples(model: PixelCNN, output: str | Path) -> list[Path]:
    """Draw images into two files; see :func:`wnseq.training.sample_files.save_samples`."""
    drawn = sample(model, model.sampling)
    return save_samples(output, shown(model, drawn.pixels), **drawn._asdict())


def shown(model: PixelCNN, pixels: Tensor) -> Tensor:
    """Scale pixels to values from 0 to 1."""
    return pixels.double() / (model.network.num_values - 1)


class PixelCNNCLI(ImageSamplingCLI):
    """The command line of this recipe."""

    def draw(self, folder: Path) -> list[Path]:
        """Draw samples, and test images whose lower half is drawn."""
        model, batch = self.model, first_images(self.datamodule, 10)
        pixels, labels = (None if part is None else part.to(model.device) for part in (batch.pixels, batch.labels))
        known = torch.zeros(pixels.shape[2:], dtype=torch.bool)
        known[: len(known) // 2] = True
        drawn = [complete(model, pixels, known, labels, seed) for seed in range(3)]
        rows = torch.cat([pixels * known.to(pixels), *drawn, pixels])
        title = "the upper half of test images, three times completed, and the whole"
        files = write_samples(model, folder / "samples")
        return files + save_images(shown(model, rows), folder / "completions.png", title)


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the final metrics."""
    return run(
        PixelCNN,
        ImageDataModule,
        recipe="pixelcnn",
        args=args,
        monitor="val/bits_per_dim",
        cli_class=PixelCNNCLI,
        defaults={"trainer.max_epochs": 30, "data.batch_size": 50},
    )


if __name__ == "__main__":
    main()
