"""PixelCNN++: images pixel by pixel, by causal convolutions in two streams, and sampling that recomputes nothing.

The network and the training of Salimans et al. 2017 (arXiv 1701.05517), weight-normalised, with the data-dependent
start of Salimans & Kingma 2016 (arXiv 1602.07868); sampled as by Ramachandran et al. 2017 (arXiv 1704.06001). With no
arguments it trains on scikit-learn's digits.

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
5. The logistic mixture is exact where the paper puts a density in the place of a small probability, and when images
   are drawn a channel follows the whole values of those before it.
6. Without the data-dependent start g is the length of v, so that both norms begin as the same function.
7. The checkpoint with the fewest bits on the validation images is tested.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from tqdm import tqdm

import wnseq
from wnseq import distributions
from wnseq.data.images import ImageBatch, ImageDataModule
from wnseq.distributions import bits_per_dim
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
from wnseq.training import checkpoint_files, plots
from wnseq.training.callbacks import PolyakAverage, Throughput
from wnseq.training.cli.recipe import RecipeCLI, run

CONV = {"weight": wnseq.WNConv2d, "none": nn.Conv2d}
UP = {"weight": wnseq.WNConvTranspose2d, "none": nn.ConvTranspose2d}
RESOLUTIONS = 3  # the whole, a half and a quarter of the size
DEVIATION = 0.05  # of the directions
SMALL = {"*.second.conv": 0.1}  # deviation, at the start, of what is to begin near zero
MOST_VALUES = 32  # of a categorical pixel, unless it is asked for
STREAMS = ((DownShiftedConv2d, (2, 3)), (DownRightShiftedConv2d, (2, 2)))  # above; above and at the left


def level(
    norm: str, channels: int, blocks: int, deeper: int, checkpointing: bool, classes: int, dropout: float
) -> PixelCNNStage:
    """Make the blocks of one resolution, and of those below it.

    Args:
        norm: ``weight`` or ``none``.
        channels: F.
        blocks: How many on the way down.
        deeper: Resolutions below this one.
        checkpointing: See :class:`wnseq.pixelcnn.layers.PixelCNNStage`.
        classes: How many the images are conditioned on; 0 for none.
        dropout: In each block.
    """

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


class Network(nn.Module):
    """p(x) = Π p(pixel | those before it), for images whose height and width are multiples of 4.

    Args:
        norm: ``weight`` or ``none``.
        shape: Channels, height and width.
        num_values: Values that a pixel can have.
        output: ``categorical`` or ``logistic``.
        channels: F.
        blocks: On the way down, at each resolution.
        mixtures: Components of the logistic mixture.
        classes: How many the images are conditioned on; 0 for none.
        dropout: In each block.
        checkpointing: See :class:`wnseq.pixelcnn.layers.PixelCNNStage`.
    """

    def __init__(
        self, norm: str, shape: Sequence[int], num_values: int, output: str, channels: int, blocks: int, mixtures: int,
        classes: int, dropout: float, checkpointing: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        in_channels, height, width = self.shape = tuple(shape)
        step = 2 ** (RESOLUTIONS - 1)
        if height % step or width % step:
            fits = step * math.ceil(max(height, width) / step)
            raise ValueError(
                f"images must be multiples of {step} high and wide, got {height} x {width}: --data.size {fits}"
            )
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
                weight = torch.empty_like(module.weight.detach()).normal_(0, DEVIATION)
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
        return (uniform >= parameters.softmax(1).cumsum(1)[:, :-1]).sum(1, keepdim=True)


def start(network: Network, twin: Network, x: Tensor, label: Tensor | None) -> None:
    """Set g and b from a batch, in place; what is not weight-normalised gets the result.

    Args:
        network: Network to start.
        twin: A weight-normalised one of the same sizes.
        x: Levels, ``(N, C, H, W)``.
        label: Classes, ``(N,)``.

    Raises:
        ValueError: The images have four rows, of which the lowest resolution has nothing to take a deviation of.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3; also for nets without weight normalisation.
    """
    step = 2 ** (RESOLUTIONS - 1)
    if network.shape[1] == step:
        raise ValueError(
            f"images of {step} rows have one row at the lowest resolution, and it sees nothing above: "
            "--model.data_init false"
        )
    twin.load_state_dict(network.state_dict())
    data_init(twin, (x, label), SMALL)
    form = "wnseq" if isinstance(network.pixels, wnseq.WNConv2d) else "plain"
    network.load_state_dict(wnseq.state_dict_as(twin, form))


class Cached:
    """The parameters of one pixel after the other, each layer computing what the pixel needs and no more.

    Args:
        network: The network; its weights are read once.
        batch: N.
        label: Classes, ``(N,)``.

    Source:
        Ramachandran et al. 2017, arXiv 1704.06001.
    """

    def __init__(self, network: Network, batch: int, label: Tensor | None) -> None:
        channels, height, width = network.shape
        self.network, (weight, self.bias) = network, weight_and_bias(network.pixels)
        self.head = weight.flatten(1).T
        self.image = self.head.new_ones(batch, height, width, channels + 1)
        self.above, self.near = (RowConv(layer, batch, width) for layer in (network.above, network.near))
        self.left = PixelConv(network.left, batch, width)
        self.streams = CachedStreams(network.streams, batch, width, label)
        self.nothing = self.head.new_zeros(batch, width, len(self.head))

    def begin(self, row: int) -> None:
        """Go to the beginning of a row."""
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
        """Take the pixel itself, ``(N, C)``."""
        self.image[:, row, column, :-1] = self.network.scaled(value)
        self.left.slots[column].copy_(self.image[:, row, column])


class Naive:
    """The same by a forward pass over the whole images for each pixel: what :class:`Cached` is held against."""

    def __init__(self, network: Network, batch: int, label: Tensor | None) -> None:
        self.network, self.label = wnseq.remove_weight_norm(network).model.eval(), label
        self.image = torch.zeros(batch, *network.shape, device=network.pixels.bias.device)

    def begin(self, row: int) -> None:
        """Nothing is kept of a row."""

    def parameters(self, row: int, column: int) -> Tensor:
        """Compute the parameters of the next pixel, ``(N, P)``."""
        return self.network(self.image, self.label)[:, :, row, column]

    def put(self, row: int, column: int, value: Tensor) -> None:
        """Take the pixel itself, ``(N, C)``."""
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
    """Draw images pixel by pixel, or the rest of images of which some pixels are known.

    Args:
        network: The network.
        uniform: Noise from 0 to 1, ``(N, K, H, W)``, K the network's ``draws``.
        label: Classes, ``(N,)``, of a network conditioned on them.
        given: Levels, ``(N, C, H, W)``, of which the known pixels are kept.
        known: Which those are, ``(H, W)``.
        sampler: What computes the parameters.

    Returns:
        Levels, ``(N, C, H, W)``, uint8.
    """
    channels, height, width = network.shape
    images = torch.zeros(len(uniform), channels, height, width, dtype=torch.long, device=uniform.device)
    steps = sampler(network, len(uniform), label)
    for row in tqdm(range(height), "rows", leave=False, disable=None):
        steps.begin(row)
        for column in range(width):
            parameters = steps.parameters(row, column)
            if known is not None and known[row, column]:
                value = given[:, :, row, column].long()
            else:
                value = network.sample(parameters, uniform[:, :, row, column])
            steps.put(row, column, value)
            images[:, :, row, column] = value
    return images.to(torch.uint8)


@dataclass
class Sampling:
    """How images are drawn from the model.

    Args:
        number: Images to draw.
        label: Class of all of them, of a conditional model; by default each class in turn.
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
        for name in ("number", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"sampling.{name} must be at least 1, got {getattr(self, name)}")


class PixelCNN(LightningModule):
    """PixelCNN++ and how it is trained.

    Args:
        norm: ``weight`` for weight normalisation, ``none`` for torch's own layers.
        data_init: Whether g and b, or what they stand for, are set from the first training batch.
        output: Of a pixel: ``logistic``, a mixture of discretised logistics, its channels in turn; ``categorical``, for
            one channel; ``auto``: categorical for one channel of at most 32 values.
        channels: F, the width of both streams; 160 or 192 for the paper's.
        blocks: Residual blocks on the way down, at each of three resolutions; 5 for the paper's.
        mixtures: Components of the logistic mixture.
        dropout: Share of the elements, in each block.
        conditional: Whether images are conditioned on their class.
        checkpoint_activations: Whether training computes what is inside a block once more on the way back, in the place
            of keeping it: the same gradients by less memory and more time.
        learning_rate: Adam's step size at the start; each step has 0.999995 of that of the one before.
        polyak_steps: Steps over which the weights are averaged for evaluation; 0 for no average.
        sampling: How ``predict`` and the end of a run draw images.
        init_from: Checkpoint to start from: one of this recipe, or a plain torch state dict with the same names.

    Shape:
        - batches: ``ImageBatch``, of which the pixels are used, ``(N, C, H, W)``, and the labels if it is conditional

    Raises:
        ValueError: An argument is out of its range, images or labels do not fit, or a checkpoint does not fit.
    """

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
        for name in ("channels", "blocks", "mixtures", "learning_rate", "polyak_steps"):
            if self.hparams[name] < 0 or (self.hparams[name] == 0 and name != "polyak_steps"):
                raise ValueError(f"{name} must be greater than 0, got {self.hparams[name]}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, got {dropout}")
        self.sampling = sampling
        self.init_from = init_from
        self.network: Network | None = None
        self.fresh = False  # whether the start is still to be set

    def make(self, norm: str, shape: Sequence[int], num_values: int, classes: int) -> Network:
        """Make a network of any norm."""
        h, output = self.hparams, self.hparams.output
        if output == "auto":
            output = "categorical" if shape[0] == 1 and num_values <= MOST_VALUES else "logistic"
        own = (h.channels, h.blocks, h.mixtures, classes, h.dropout, h.checkpoint_activations)
        return Network(norm, shape, num_values, output, *own)

    def build(self, shape: Sequence[int], num_values: int, classes: int = 0) -> None:
        """Make the network for images of one shape, ``(C, H, W)``, and number of values, of so many classes."""
        if self.hparams.conditional and not classes:
            raise ValueError("these images have no classes: --model.conditional false")
        self.fresh = True
        self.network = self.make(self.hparams.norm, shape, num_values, classes if self.hparams.conditional else 0)

    def configure_model(self) -> None:
        """Make the network once the data is known, and start it from ``init_from``."""
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, ImageDataModule) and (data.whiten or data.normalize != "symmetric"):
            raise ValueError("the likelihood is that of the pixels themselves: leave out --data.normalize and whiten")
        if self.network is not None or not isinstance(data, ImageDataModule):
            return
        shape = data.preprocess.enlarge(data.images.parts["train"].pixels[:1]).shape[1:]
        self.build(shape, data.images.num_values, len(data.images.classes))
        if self.init_from is not None:
            path = Path(self.init_from)
            loaded = checkpoint_files.load(path)
            self.check_channels(loaded, str(path))
            checkpoint_files.load_weights(self.network, path, loaded, self.hparams)
            self.fresh = False

    def check_channels(self, loaded: dict[str, Any], what: str) -> None:
        """Make sure that a checkpoint is of images with as many channels as those of the network."""
        channels = loaded.get("wnseq", {}).get("shape", self.network.shape)[0]
        if channels != self.network.shape[0]:
            raise ValueError(f"{what} is of images with {channels} channels, these have {self.network.shape[0]}")

    def configure_callbacks(self) -> list[Callback]:
        """Average the weights in training."""
        steps = self.hparams.polyak_steps if self.trainer.state.fn == "fit" else 0
        return [PolyakAverage(steps)] if steps else []

    def configure_optimizers(self) -> dict[str, Any]:
        """Set up Adam, its step size falling a little with each step."""
        if self.network is None:
            raise ValueError("there is no network yet: fit with an ImageDataModule, or call build first")
        adam = torch.optim.Adam(self.network.parameters(), self.hparams.learning_rate, (0.95, 0.9995))
        falling = torch.optim.lr_scheduler.ExponentialLR(adam, 0.999995)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Compute the parameters of each pixel, ``(N, P, H, W)``, from pixels, ``(N, C, H, W)``."""
        return self.network(x, label)

    def on_fit_start(self) -> None:
        """Say what is trained on what."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageDataModule):
            self.print(data.describe())
            for logger in self.loggers:
                logger.log_hyperparams({"dataset": data.dataset, "images_sha256": data.images.sha256})
        size = sum(parameter.numel() for parameter in self.parameters())
        self.print(f"model: norm {self.hparams.norm}, {size:,} parameters; {self.network.output} pixels\n")

    def on_train_batch_start(self, batch: ImageBatch, index: int) -> None:
        """Set the start from the first batch, unless the weights come from a checkpoint."""
        if self.fresh and self.hparams.data_init and self.trainer.ckpt_path is None:
            net = self.network
            twin = self.make("weight", net.shape, net.num_values, net.classes).to(self.device)
            start(net, twin, *self.observe(batch))
        self.fresh = False

    def observe(self, batch: ImageBatch) -> tuple[Tensor, Tensor | None]:
        """Take pixels, ``(N, C, H, W)``, and classes, ``(N,)`` or None, out of a batch.

        Raises:
            ShapeError: The images are not of the shape that the network is for.
            ValueError: A pixel is none of the values, or a label none of the classes.
        """
        pixels, label, net = batch.pixels, batch.labels, self.network
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != net.shape:
            expected, got = (None, *net.shape), tuple(pixels.shape)
            raise wnseq.ShapeError(f"images must have the shape {expected}, which the network is for, got {got}")
        top, least, most = net.num_values - 1, float(pixels.min()), float(pixels.max())
        if least < 0 or most > top or bool((pixels != pixels.round()).any()):
            raise ValueError(f"pixels must be whole numbers from 0 to {top}, unscaled, got {least:g} to {most:g}")
        if not net.classes:
            return pixels, None
        if label is None or int(label.min()) < 0 or int(label.max()) >= net.classes:
            got = "none" if label is None else f"{int(label.min())} to {int(label.max())}"
            raise ValueError(f"labels must be from 0 to {net.classes - 1}, got {got}")
        return pixels, label

    def _step(self, batch: ImageBatch, stage: str) -> Tensor:
        """Compute the mean of −log p(x) over a batch, in nats per image; log it, and in bits per dimension."""
        nats = -self.network.log_likelihood(*self.observe(batch)).mean()
        bits = bits_per_dim(nats.detach(), math.prod(self.network.shape))
        values = {f"{stage}/nats_per_image": nats.detach(), f"{stage}/bits_per_dim": bits}
        self.log_dict(values, batch_size=len(batch.pixels), sync_dist=True)
        return nats

    def training_step(self, batch: ImageBatch, index: int) -> Tensor:
        """Take the mean over one batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: ImageBatch, index: int) -> None:
        """Add one batch to the validation."""
        self._step(batch, "val")

    def test_step(self, batch: ImageBatch, index: int) -> None:
        """Add one batch to the test."""
        self._step(batch, "test")

    def predict_step(self, batch: Any, index: int) -> None:
        """Draw images and write them to two files."""
        if self.trainer.is_global_zero:
            for path in write_samples(self, self.sampling, Path(self.sampling.output)):
                print(path)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone."""
        data = getattr(self._trainer, "datamodule", None)
        given = isinstance(data, ImageDataModule)
        checkpoint["wnseq"] = {
            "version": wnseq.__version__,
            "recipe": "pixelcnn",
            "shape": list(self.network.shape),
            "num_values": self.network.num_values,
            "classes": self.network.classes,
            "data": {name: getattr(data, name) for name in ("dataset", "size", "val_size")} if given else {},
            "images_sha256": data.images.sha256 if given else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint."""
        about = checkpoint["wnseq"]
        if self.network is None:
            self.build(about["shape"], about["num_values"], about["classes"])
        self.check_channels(checkpoint, "the checkpoint")
        self.fresh = False


def noise(network: Network, number: int, seed: int) -> Tensor:
    """Draw what images are drawn from, on the CPU: the same numbers on every device."""
    return torch.rand(number, network.draws, *network.shape[1:], generator=torch.Generator().manual_seed(seed))


class Samples(NamedTuple):
    """Images drawn from a model.

    Args:
        pixels: The images.
        labels: Their classes; empty for a model that is not conditioned on them.

    Shape:
        - pixels: ``(N, C, H, W)``, uint8
        - labels: ``(N,)`` or ``(0,)``, int64
    """

    pixels: Tensor
    labels: Tensor


def sample(model: PixelCNN, sampling: Sampling) -> Samples:
    """Draw images.

    Args:
        model: A model with its network.
        sampling: How many and how.

    Raises:
        ValueError: There is no such class.
    """
    net, number = model.network, sampling.number
    if sampling.label is not None and not 0 <= sampling.label < net.classes:
        there = f"from 0 to {net.classes - 1}" if net.classes else "left out: the model is not conditional"
        raise ValueError(f"sampling.label must be {there}, got {sampling.label}")
    labels = torch.arange(number) % net.classes if net.classes else torch.empty(0, dtype=torch.long)
    labels = labels if sampling.label is None else torch.full_like(labels, sampling.label)
    uniform, parts = noise(net, number, sampling.seed), []
    for some in torch.arange(number).split(sampling.batch_size):
        label = labels[some].to(model.device) if net.classes else None
        parts.append(draw(net, uniform[some].to(model.device), label).cpu())
    return Samples(torch.cat(parts), labels)


def generate(checkpoint: str | Path, **sampling: Any) -> Samples:
    """Draw images from a checkpoint alone.

    Args:
        checkpoint: Path of a checkpoint of this recipe.
        sampling: Fields of :class:`Sampling`.
    """
    return sample(PixelCNN.load_from_checkpoint(checkpoint, map_location="cpu"), Sampling(**sampling))


def complete(model: PixelCNN, pixels: Tensor, known: Tensor, labels: Tensor | None = None, seed: int = 0) -> Tensor:
    """Draw the unknown pixels of images, each given the known ones before it.

    Args:
        model: A model with its network.
        pixels: The images, ``(N, C, H, W)``; what they have where they are not known has no effect.
        known: Which pixels are, ``(H, W)``. What is known further on than an unknown pixel is kept, but cannot be
            taken into account.
        labels: Their classes, ``(N,)``, for a conditional model.
        seed: Seed of the draw.

    Returns:
        The whole images, ``(N, C, H, W)``, uint8.

    Raises:
        ValueError: The images or labels do not fit the model.
    """
    parts = model.observe(ImageBatch(pixels, labels, pixels))
    given, label = (None if part is None else part.to(model.device) for part in parts)
    return draw(model.network, noise(model.network, len(pixels), seed).to(model.device), label, given, known)


def write_samples(model: PixelCNN, sampling: Sampling, path: Path) -> list[Path]:
    """Draw images and write them as a grid and as arrays.

    Args:
        model: A model with its network.
        sampling: How many and how.
        path: Where to, without the ending.

    Returns:
        The files.
    """
    drawn = sample(model, sampling)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(f"{path}.npz", **{name: value.numpy() for name, value in drawn._asdict().items()})
    return [*draw_grid(model, drawn.pixels, Path(f"{path}.png"), "samples"), Path(f"{path}.npz")]


def draw_grid(model: PixelCNN, pixels: Tensor, figure: Path, title: str) -> list[Path]:
    """Draw images, ten a row; return the file, if there is one."""
    images = (pixels.double() / (model.network.num_values - 1)).cpu().numpy()
    return [figure] if plots.plot_images(images, [""] * len(images), figure, title=title) else []


class PixelCNNCLI(RecipeCLI):
    """The command line of this recipe."""

    def callbacks(self) -> list[Callback]:
        """Count images."""
        return [Throughput("images", lambda batch: len(batch.pixels))]

    def predict(self, model: PixelCNN, ckpt_path: str, **kwargs: Any) -> None:
        """Draw images from the checkpoint; no data is read."""
        self.trainer.predict(model, range(1), ckpt_path=ckpt_path)

    def report(self) -> None:
        """Draw samples, and test images whose lower half is drawn."""
        if self.run_dir is None:
            return
        model = self.model.eval()
        files = write_samples(model, model.sampling, self.run_dir / "samples")
        batch = next(iter(self.datamodule.test_dataloader()))
        pixels, labels = (None if part is None else part[:10].to(model.device) for part in (batch.pixels, batch.labels))
        known = torch.zeros(pixels.shape[2:], dtype=torch.bool)
        known[: len(known) // 2] = True
        drawn = [complete(model, pixels, known, labels, seed) for seed in range(3)]
        rows = torch.cat([pixels * known.to(pixels), *drawn, pixels])
        title = "the upper half of test images, three times completed, and the whole"
        files += draw_grid(model, rows, self.run_dir / "completions.png", title)
        print("\n" + "\n".join(map(str, files)))


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
