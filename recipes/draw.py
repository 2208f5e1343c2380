"""DRAW: an image drawn glimpse by glimpse, by a weight-normalised LSTM that reads and writes through small windows.

The variational auto-encoder of Gregor et al. 2015 (arXiv 1502.04623), each weight vector of its LSTMs and linear maps
normalised as in Salimans & Kingma 2016 (arXiv 1602.07868), section 5.3. With no arguments it trains on scikit-learn's
digits.

On a CPU:
    wnseq run draw
    wnseq run draw --data.dataset binarized_mnist --data.batch_size 100 --model.glimpses 10 --model.read_size 0
        --model.write_size 0 --model.hidden_size 256 --model.latent_size 100 --model.learning_rate 1e-3
On a GPU, the sizes of Gregor et al.:
    wnseq run draw --data.dataset binarized_mnist --data.batch_size 100 --model.glimpses 64 --model.read_size 2
        --model.hidden_size 256 --model.latent_size 100 --model.learning_rate 1e-3
Fine-tuning:
    wnseq run draw --model.init_from CHECKPOINT --model.learning_rate 5e-4
Sampling, from a checkpoint alone:
    wnseq run draw predict --ckpt_path CHECKPOINT --model.sampling.number 100

Expect a bound of 18.2 nats an image on the test part, 0.41 bits per dim, after 90 seconds of one CPU core.

Deviations from the paper:
1. The LSTMs have no peepholes, which the code that the paper started from has.
2. By default the data are digits of 8 x 8, for which the nets are smaller, the start is orthogonal with rows of norm 1,
   and the step falls along a cosine. --model.start normal --model.schedule constant --data.fixed_order true is the
   paper's, as far as its code tells.
3. Filters are normalised exactly; the code of the time added 1e-4 to their sums, so that a window far outside the image
   sees nothing, and here its edge.
4. Grey images are cut at one half, or with --model.binarize sample binarised at random, afresh in each training step;
   the binarised MNIST of the paper's code is fixed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

import wnseq
from wnseq.data.images import ImageDataModule
from wnseq.distributions import bernoulli_log_likelihood, bits_per_dim, gaussian_kl
from wnseq.training import plots
from wnseq.training.batches import check_finite, check_image_shape, get_tensor
from wnseq.training.callbacks import UnusedParameters, build_network_first
from wnseq.training.cli.recipe import run
from wnseq.training.cli.sampling import ImageSamplingCLI
from wnseq.training.evaluation import EvaluationTotals, ExampleGenerators, evaluation_stage, is_fitting
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint
from wnseq.training.hparams import check_arguments
from wnseq.training.images import ImageSpec, build_for_images, first_images, restore_for_images
from wnseq.training.run_info import checkpoint_info, print_header
from wnseq.training.sample_files import save_arrays, save_images
from wnseq.training.schedules import schedule_steps, use_found_learning_rate

State = tuple[Tensor, Tensor]


@dataclass
class Sampling:
    """How images are drawn from the model.

    Args:
        number: Images to draw.
        seed: Seed of the draw.
        output: Path of the files that ``predict`` writes, without their endings .png, .gif and .npz.
    """

    number: int = 50
    seed: int = 0
    output: str = "samples"

    def __post_init__(self) -> None:
        """Check the values."""
        check_arguments(Sampling, vars(self), "sampling.", number="at least 1")


class Draw(CheckedLoading, LightningModule):
    """DRAW and how it is trained.

    Args:
        norm: ``weight`` for weight normalisation of LSTMs and linear maps, ``none`` for torch's own, ``layer`` for
            LSTMs with layer normalisation.
        glimpses: T, steps in which an image is drawn.
        hidden_size: Features of the state of encoder and decoder.
        latent_size: Latents of each glimpse.
        read_size: n, filters of the reading window along each axis; 0 reads the whole image.
        write_size: n, filters of the writing window along each axis; 0 writes on the whole canvas.
        start: ``normal`` with standard deviation 0.01 and biases of 0, or ``orthogonal`` with rows of norm 1, each gate
            by itself, and biases of 0 except those of the writing window: its filters are half a stride wide, and a
            patch of ones adds about 1 to the canvas; with ``normal`` it adds much less.
        g_start: ``norm`` starts g at ‖v‖, the function that a plain net has, and ``one`` at 1. After an orthogonal
            start they are the same.
        binarize: How grey pixels become binary: ``threshold`` cuts at one half; ``sample`` draws with the grey as the
            probability, afresh in each training step and by a fixed draw in evaluation.
        learning_rate: Adam's step size.
        schedule: ``cosine`` to zero, or ``constant``.
        init_from: Checkpoint to start from: one of this recipe, whose hyper-parameters then hold where none are given,
            or a plain torch state dict with the same names.
        sampling: How ``predict`` and the end of a run draw images.

    Shape:
        - batches: ``ImageBatch``, or a tensor or tuple that begins with images ``(N, 1, H, W)`` from 0 to 1

    Raises:
        ValueError: An argument is out of its range, a checkpoint does not fit, or images do not.
    """

    evaluation_may_change = ("glimpses", "binarize")

    @fill_from_checkpoint
    def __init__(
        self,
        norm: Literal["weight", "none", "layer"] = "weight",
        glimpses: int = 6,
        hidden_size: int = 128,
        latent_size: int = 10,
        read_size: int = 5,
        write_size: int = 5,
        start: Literal["orthogonal", "normal"] = "orthogonal",
        g_start: Literal["norm", "one"] = "norm",
        binarize: Literal["threshold", "sample"] = "threshold",
        learning_rate: float = 5e-3,
        schedule: Literal["cosine", "constant"] = "cosine",
        init_from: str | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - shown by --help
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["init_from", "sampling"])
        ranges = dict.fromkeys(("glimpses", "hidden_size", "latent_size"), "at least 1")
        ranges |= {"read_size": "at least 0", "write_size": "at least 0", "learning_rate": "greater than 0"}
        check_arguments(Draw, {**self.hparams, "sampling": sampling}, **ranges)
        if g_start == "one" and norm != "weight":
            raise ValueError(f"g_start must be norm where the norm is not weight, got {g_start}")
        self.sampling, self.init_from = replace(sampling), init_from
        self.network: Network | None = None
        self.kl_per_glimpse: list[float] = []  # nats, of the last evaluation
        self.totals = EvaluationTotals()
        self.generators = ExampleGenerators()

    def build(self, images: ImageSpec) -> None:
        """Make and initialise the network for images."""
        h, self.images = self.hparams, images
        channels, height, width = images.shape
        if channels != 1:
            raise ValueError(f"{images.name} has {channels} channels, and this recipe draws in one: --data.channels 1")
        self.network = Network(h.norm, height, width, h.hidden_size, h.latent_size, h.read_size, h.write_size)
        initialise(self.network, h.start, h.g_start, h.hidden_size)

    def build_from_data(self) -> None:
        """Make the network for the images of the Trainer, if there is none, and start it from ``init_from``."""
        sizes = ("norm", "hidden_size", "latent_size", "read_size", "write_size")
        build_for_images(self, "images", sizes)

    def configure_callbacks(self) -> list[Callback]:
        """Make the network before the callbacks of the Trainer look at it."""
        build_network_first(self.trainer)
        return [UnusedParameters()]

    def on_fit_start(self) -> None:
        """Print what is trained on what."""
        h = self.hparams
        windows = f"read {h.read_size or 'all'}, write {h.write_size or 'all'}"
        use_found_learning_rate(self)
        print_header(self, f"{h.glimpses} glimpses, {windows}, norm {h.norm}")

    def configure_optimizers(self) -> Any:
        """Set up Adam and its schedule."""
        h = self.hparams
        optimizer = torch.optim.Adam(self.network.parameters(), lr=h.learning_rate)
        return schedule_steps(optimizer, self.trainer, h.schedule)

    def binary(self, images: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Binarise ``(N, 1, H, W)``: ``(N, H, W)`` of zeros and ones; ``uniform`` decides where grey is sampled."""
        check_image_shape(images, (1, self.network.height, self.network.width))
        low, high = map(float, images.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"pixels must be from 0 to 1, got {low:.3g} to {high:.3g}: give --data.normalize unit")
        grey = images[:, 0]
        if self.hparams.binarize == "threshold":
            return (grey > 0.5).to(grey.dtype)
        return ((torch.rand_like(grey) if uniform is None else uniform.to(grey)) < grey).to(grey.dtype)

    def noise(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """Return standard normal noise, ``(T, N, Z)``; with a generator the same on every device."""
        shape = (self.hparams.glimpses, number, self.hparams.latent_size)
        device = self.device if generator is None else "cpu"
        return torch.randn(shape, generator=generator, device=device).to(self.device)

    def evaluated(self, images: Tensor, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Return binary images, ``(N, H, W)``, and noise, ``(T, N, Z)``, both drawn by the images' generators."""
        uniform = torch.stack([torch.rand(images.shape[2:], generator=each) for each in generators])
        noise = torch.cat([self.noise(1, each) for each in generators], 1)
        return self.binary(images, uniform), noise

    def _step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Bound binary images: −log p(x|z) of each, ``(N,)``, and its KL at each glimpse, ``(T, N)``, in nats."""
        drawing = self.network(noise, images)
        return -bernoulli_log_likelihood(images, drawing.canvases[-1]).sum((1, 2)), drawing.kl

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Compute the mean bound of one batch."""
        images = self.binary(get_tensor(batch, "images"))
        reconstruction, kl = self._step(images, self.noise(len(images)))
        options = {"batch_size": len(images), "sync_dist": True}
        loss = (reconstruction + kl.sum(0)).mean()
        self.log("train/nats_per_image", loss, prog_bar=True, **options)
        self.log("train/kl_nats", kl.sum(0).mean(), **options)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the evaluation before, which may have been interrupted."""
        self.totals.reset()
        self.generators.reset()

    def validation_step(self, batch: Any, index: int) -> None:
        """Add one batch to the totals of the validation or the test."""
        images = get_tensor(batch, "images")
        reconstruction, kl = self._step(*self.evaluated(images, self.generators.take(len(images), self.trainer)))
        self.totals.add(images=len(images), reconstruction=reconstruction.sum(), kl=kl.sum(1))

    def on_validation_epoch_end(self) -> None:
        """Log the bound and its parts, and the KL at each glimpse."""
        stage, sums = evaluation_stage(self.trainer), self.totals.reduce(self.trainer)
        reconstruction = sums["reconstruction"] / sums["images"]
        self.kl_per_glimpse = [kl / sums["images"] for kl in sums["kl"]]
        nats = reconstruction + sum(self.kl_per_glimpse)
        values = {
            "nats_per_image": nats,
            "kl_nats": sum(self.kl_per_glimpse),
            "reconstruction_nats": reconstruction,
            "bits_per_dim": bits_per_dim(nats, self.network.height * self.network.width),
        }
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=True)
        glimpses = {f"{stage}/kl_nats_{t:02d}": kl for t, kl in enumerate(self.kl_per_glimpse, 1)}
        for logger in self.loggers:  # not on the screen: there may be 64
            logger.log_metrics(glimpses, self.global_step - is_fitting(self.trainer))  # as Lightning does

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Any, index: int) -> None:
        """Draw images into files."""
        if self.trainer.is_global_zero:
            print(*write_samples(self, self.sampling.output), sep="\n")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone."""
        checkpoint["wnseq"] = checkpoint_info(self, "draw", **self.images.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint."""
        restore_for_images(self, checkpoint, "draw")


class LayerNormLSTMCell(nn.Module):
    """An LSTM cell with layer normalisation.

    i, f, g, o = σ, σ, tanh, σ of LN(W_ih x) + LN(W_hh h), one LN over all four; c' = f ⊙ c + i ⊙ g;
    h' = o ⊙ tanh(LN(c'))

    Source:
        Ba, Kiros & Hinton 2016, arXiv 1607.06450, equations 20 to 22.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.ih = nn.Linear(input_size, 4 * hidden_size, bias=False)
        self.hh = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.norm_ih = nn.LayerNorm(4 * hidden_size)
        self.norm_hh = nn.LayerNorm(4 * hidden_size, bias=False)  # one bias is enough
        self.norm_c = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, state: State) -> State:
        """Return the next state."""
        h, c = state
        i, f, g, o = (self.norm_ih(self.ih(x)) + self.norm_hh(self.hh(h))).chunk(4, -1)  # (N, H) each
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * self.norm_c(c).tanh(), c


CELLS = {"weight": wnseq.WNLSTMCell, "none": nn.LSTMCell, "layer": LayerNormLSTMCell}


def filterbank(centre: Tensor, stride: Tensor, log_variance: Tensor, size: int, length: int) -> Tensor:
    """Return the n = ``size`` Gaussian filters of an axis of A = ``length`` pixels, ``(N, n, A)``.

    F[i, a] = exp(−(a − μ_i)²/2σ²) / Z_i, Σ_a F[i, a] = 1, μ_i = g + (i − n/2 − ½) δ; i = 1…n, a = 1…A

    The centre g, the stride δ (both in pixels) and log σ² are ``(N,)``.

    Source:
        Gregor et al. 2015, equations 19, 20, 25 and 26.
    """
    steps = torch.arange(size, device=centre.device) + (1 - size) / 2
    means = centre[:, None] + steps * stride[:, None]  # (N, n)
    distances = torch.arange(1, length + 1, device=centre.device) - means[..., None]  # (N, n, A)
    return (-0.5 * distances.square() * (-log_variance).exp()[:, None, None]).softmax(-1)


class Window(NamedTuple):
    """A grid of Gaussian filters on images."""

    rows: Tensor  # F_Y, (N, n, H)
    columns: Tensor  # F_X, (N, n, W)
    intensity: Tensor  # γ, (N, 1, 1)
    box: Tensor  # left, top, right and bottom of the outermost centres, σ around, in pixels from the corner, (N, 4)

    def read(self, images: Tensor) -> Tensor:
        """Filter images: γ F_Y x F_Xᵀ, ``(N, H, W)`` to ``(N, n, n)``."""
        return self.intensity * (self.rows @ images @ self.columns.mT)

    def write(self, patches: Tensor) -> Tensor:
        """Spread patches over images: F_Yᵀ w F_X / γ, ``(N, n, n)`` to ``(N, H, W)``."""
        return self.rows.mT @ patches @ self.columns / self.intensity


def window(parameters: Tensor, size: int, height: int, width: int) -> Window:
    """Return the window of each image, given g̃_X, g̃_Y, log σ², log δ̃, log γ, ``(N, 5)``.

    g_X = (W + 1)/2 · (g̃_X + 1), g_Y = (H + 1)/2 · (g̃_Y + 1), δ = (max(H, W) − 1)/(n − 1) · δ̃

    Source:
        Gregor et al. 2015, equations 21 to 24.
    """
    x, y, log_variance, log_stride, log_intensity = parameters.unbind(1)
    x, y = (width + 1) / 2 * (x + 1), (height + 1) / 2 * (y + 1)
    stride = (max(height, width) - 1) / max(size - 1, 1) * log_stride.exp()
    rows = filterbank(y, stride, log_variance, size, height)
    columns = filterbank(x, stride, log_variance, size, width)
    reach = (size - 1) / 2 * stride.detach() + (log_variance.detach() / 2).exp()
    middle = torch.stack((x, y), 1).detach() - 0.5
    box = torch.cat((middle - reach[:, None], middle + reach[:, None]), 1)
    return Window(rows, columns, log_intensity.exp()[:, None, None], box)


class Drawing(NamedTuple):
    """What was drawn, glimpse by glimpse."""

    canvases: list[Tensor]  # logits of the pixels after each glimpse, (N, H, W)
    written: list[Tensor] | None  # box that was written, (N, 4); None without a window
    read: list[Tensor] | None  # box that was read, (N, 4); None without a window, or where nothing was read
    kl: Tensor | None  # KL(Q(z_t) ‖ P(z_t)) in nats, (T, N); None where the latents were given


class Network(nn.Module):
    """The encoder, which reads, and the decoder, which writes."""

    def __init__(
        self, norm: str, height: int, width: int, hidden_size: int, latent_size: int, read_size: int, write_size: int
    ) -> None:
        super().__init__()
        for name, size in (("read_size", read_size), ("write_size", write_size)):
            if size > min(height, width):
                raise ValueError(
                    f"{name} must be at most {min(height, width)}, the shorter side of images of {height} x {width}, "
                    f"or 0 for the whole image without attention; got {size}"
                )
        self.height, self.width = height, width
        self.read_size, self.write_size = read_size, write_size
        seen = 2 * (read_size**2 or height * width)
        linear = wnseq.WNLinear if norm == "weight" else nn.Linear
        self.encoder = CELLS[norm](seen + hidden_size, hidden_size)
        self.posterior = linear(hidden_size, 2 * latent_size)
        self.decoder = CELLS[norm](latent_size, hidden_size)
        self.read_window = linear(hidden_size, 5) if read_size else None
        self.write_window = linear(hidden_size, 5) if write_size else None
        self.write_patch = linear(hidden_size, write_size**2 or height * width)
        self.canvas = nn.Parameter(torch.zeros(height, width))
        self.encoder_state = nn.Parameter(torch.zeros(2, hidden_size))
        self.decoder_state = nn.Parameter(torch.zeros(2, hidden_size))

    def bind(self) -> dict[str, Callable[..., Any]]:
        """Compose every weight once, for the glimpses of one batch."""
        parts = self.named_children()
        return {name: part.bind() if hasattr(part, "bind") else part for name, part in parts}

    def forward(self, noise: Tensor, images: Tensor | None = None) -> Drawing:
        """Redraw binary images ``(N, H, W)`` by normal noise ``(T, N, Z)``; without images the noise is the latents."""
        number, size = noise.shape[1], (self.height, self.width)
        use = self.bind()
        canvas = self.canvas.expand(number, -1, -1)
        encoder, decoder = (tuple(s.expand(number, -1) for s in of) for of in (self.encoder_state, self.decoder_state))
        canvases, read, written, divergences = [], [], [], []
        for latent in noise:
            if images is not None:
                seen = [images, images - canvas.sigmoid()]
                if self.read_size:
                    eye = window(use["read_window"](decoder[0]), self.read_size, *size)
                    seen = [eye.read(image) for image in seen]  # (N, n, n) each
                    read.append(eye.box)
                encoder = use["encoder"](torch.cat([*(s.flatten(1) for s in seen), decoder[0]], 1), encoder)
                mean, log_deviation = use["posterior"](encoder[0]).chunk(2, 1)  # (N, Z) each
                divergences.append(gaussian_kl(mean, log_deviation).sum(1))
                latent = mean + log_deviation.exp() * latent
            decoder = use["decoder"](latent, decoder)
            patch = use["write_patch"](decoder[0])
            if self.write_size:
                pen = window(use["write_window"](decoder[0]), self.write_size, *size)
                canvas = canvas + pen.write(patch.unflatten(1, (self.write_size, self.write_size)))
                written.append(pen.box)
            else:
                canvas = canvas + patch.unflatten(1, size)
            canvases.append(canvas)  # (N, H, W)
        return Drawing(canvases, written or None, read or None, torch.stack(divergences) if divergences else None)


@torch.no_grad()
def initialise(network: Network, start: str, g_start: str, hidden_size: int) -> None:
    """Draw the weights of a network in place; from one seed, the same with every norm.

    ``start`` and ``g_start`` are those of :class:`Draw`. Each block of ``hidden_size`` rows, one gate, is orthogonal.
    """
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            continue
        parameters = dict(module.named_parameters(recurse=False))
        normalised = getattr(module, "weight_names", ())
        for name in normalised or [name for name in parameters if name.startswith("weight")]:
            drawn = torch.empty_like(getattr(module, name).detach())
            if start == "normal":
                nn.init.normal_(drawn, 0, 0.01)
            else:
                for block in drawn.split(hidden_size):
                    nn.init.orthogonal_(block)
                drawn /= drawn.norm(dim=1, keepdim=True)
            if not normalised:
                parameters[name].copy_(drawn)
                continue
            setattr(module, name, drawn)
            if g_start == "one":
                module.v_and_g(name)[1].fill_(1.0)
        for name, parameter in parameters.items():
            if name.startswith("bias"):
                parameter.zero_()
    if start == "orthogonal" and network.write_size:
        stride = (max(network.height, network.width) - 1) / max(network.write_size - 1, 1)
        network.write_window.bias[2] = 2 * math.log(stride / 2)
        network.write_window.bias[4] = -2 * math.log(stride)


@torch.no_grad()
def write_samples(model: Draw, output: str | Path) -> list[Path]:
    """Draw images into a grid, an animation and arrays; ``output`` is their path without endings.

    The ``.npz`` holds ``probabilities`` ``(N, 1, H, W)`` of the pixels and ``latents`` ``(T, N, Z)``.
    """
    latents = model.noise(model.sampling.number, torch.Generator().manual_seed(model.sampling.seed))
    drawing = model.network(latents)
    check_finite(drawing.canvases[-1], "the logits of the pixels")
    shown = torch.stack(drawing.canvases).sigmoid()  # (T, N, H, W)
    output = Path(output).expanduser()
    arrays = save_arrays(Path(f"{output}.npz"), probabilities=shown[-1][:, None], latents=latents)
    files = save_images(shown[-1][:, None], Path(f"{output}.png"), "samples")
    if files:
        boxes = None if drawing.written is None else as_array(drawing.written)[:, :20]
        files.append(plots.save_animation(as_array(shown)[:, :20], boxes, Path(f"{output}.gif"), columns=10))
    return [*files, arrays]


@torch.no_grad()
def write_redrawing(model: Draw, images: Tensor, figure: Path) -> Path:
    """Animate how images ``(N, 1, H, W)`` are redrawn: above what is read and where, below what is written."""
    x, noise = model.evaluated(images, ExampleGenerators().take(len(images)))
    drawing = model.network(noise, x)
    canvases = as_array([torch.cat((x, canvas.sigmoid())) for canvas in drawing.canvases])
    none = np.full((len(canvases), len(x), 4), np.nan)
    boxes = [none if found is None else as_array(found) for found in (drawing.read, drawing.written)]
    return plots.save_animation(canvases, np.concatenate(boxes, 1), figure, columns=len(x))


def as_array(glimpses: list[Tensor] | Tensor) -> np.ndarray:
    """Return what there is for each glimpse as an array, ``(T, N, …)``."""
    stacked = glimpses if isinstance(glimpses, Tensor) else torch.stack(glimpses)
    return stacked.float().cpu().numpy()


class DrawCLI(ImageSamplingCLI):
    """The command line of this recipe."""

    def draw(self, folder: Path) -> list[Path]:
        """Draw samples, and show how test images are redrawn."""
        files = write_samples(self.model, folder / "samples")
        if len(files) > 1:
            images = first_images(self.datamodule, 10).images.to(self.model.device)
            files.append(write_redrawing(self.model, images, folder / "redrawn.gif"))
        return files

    def report(self) -> None:
        """Print the KL at each glimpse, and draw."""
        print("\nKL at each glimpse, in nats: " + " ".join(f"{value:.2f}" for value in self.model.kl_per_glimpse))
        super().report()


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the final metrics."""
    return run(
        Draw,
        ImageDataModule,
        recipe="draw",
        args=args,
        monitor="val/nats_per_image",
        cli_class=DrawCLI,
        defaults={
            "trainer.max_epochs": 100,
            "trainer.gradient_clip_val": 10.0,
            "data.batch_size": 50,
            "data.normalize": "unit",
        },
    )


if __name__ == "__main__":
    main()
