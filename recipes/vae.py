"""Variational auto-encoder of residual convolutions, with a Gaussian or an inverse autoregressive flow posterior.

The network, the optimiser and the average of the weights of Salimans & Kingma 2016 (arXiv 1602.07868), section 5.2,
with the posterior of Kingma et al. 2016 (arXiv 1606.04934). With no arguments it trains on scikit-learn's digits.

On a CPU:
    wnseq run vae
    wnseq run vae --data.dataset mnist --model.likelihood bernoulli --model.width 0.5 --trainer.max_epochs 5
On a GPU, the paper's own size:
    wnseq run vae --data.dataset mnist --model.likelihood bernoulli --data.batch_size 100 --trainer.max_epochs 300
    wnseq run vae --data.dataset cifar10 --data.batch_size 100 --trainer.max_epochs 450
Fine-tuning:
    wnseq run vae --model.init_from CHECKPOINT --model.learning_rate 5e-4
Sampling, from a checkpoint alone, to samples.png and samples.npz:
    wnseq run vae predict --ckpt_path CHECKPOINT --model.sampling.number 50

Expect a bound of 85.5 nats an image on the test images and samples in which most digits can be told, after 60 epochs:
83 seconds of one CPU core.

Deviations from the paper:
1. By default the data are digits of 8 x 8 pixels and 17 values, under a discretised logistic likelihood.
2. The paper gives neither the size of the latent space nor the flow: they are 32, and two steps of one hidden layer.
3. The directions are torch's draw; g and b are set from the first training batch, with a deviation of 1, but 0.1 where
   a residual branch ends, for the posterior's parameters and for those of the pixels. The plain network starts as the
   same function.
4. The average of the weights has a shorter memory at first, about a ninth of the steps taken, until that is ten epochs.
5. The checkpoint with the smallest bound on the validation images is tested; the paper shows the test images' bound.
6. On CIFAR-10 it has one stochastic layer; the paper has several.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

import wnseq
from wnseq import distributions
from wnseq.data.images import ImageBatch, ImageDataModule
from wnseq.init import data_init
from wnseq.training.batches import check_finite, check_image_multiple, check_image_shape, check_pixels, get_tensor
from wnseq.training.callbacks import PolyakAverage, UnusedParameters, all_gather_object, build_network_first
from wnseq.training.cli.recipe import run
from wnseq.training.cli.sampling import ImageSamplingCLI
from wnseq.training.evaluation import ExampleGenerators, evaluation_stage
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint
from wnseq.training.hparams import check_arguments
from wnseq.training.images import ImageSpec, build_for_images, first_images, restore_for_images
from wnseq.training.initialisation import BatchInitialised
from wnseq.training.run_info import checkpoint_info, print_header
from wnseq.training.sample_files import save_images, save_samples


@dataclass
class Sampling:
    """How images are drawn from the model.

    Args:
        number: Images to draw.
        temperature: Factor of the prior's deviation; less than 1 gives fewer and plainer kinds of images.
        seed: Seed of the draw.
        output: Path of the two files that ``predict`` writes, without their endings .png and .npz.
    """

    number: int = 100
    temperature: float = 1.0
    seed: int = 0
    output: str = "samples"

    def __post_init__(self) -> None:
        """Check the values."""
        check_arguments(Sampling, vars(self), "sampling.", number="at least 1", temperature="at least 0")


class VAE(CheckedLoading, LightningModule):
    """A variational auto-encoder and how it is trained.

    Args:
        norm: ``weight`` for weight normalisation, ``none`` for torch's own layers.
        posterior: ``gaussian``, diagonal; ``iaf`` for that and inverse autoregressive flow behind it.
        likelihood: Of a pixel: ``logistic``, discretised, for any number of values; ``bernoulli`` for zeros and ones.
            Grey images are then sampled with the grey as the probability: afresh in each training step, by a fixed
            draw in validation and test.
        width: Factor of the 16, 32 and 32 channels of the three groups.
        hidden_size: Units of the fully connected layers.
        latent_size: Elements of z.
        iaf_steps: Steps of the flow, with posterior iaf.
        iaf_size: Hidden units of each step.
        learning_rate: Adamax's step size.
        polyak_epochs: Epochs over which the weights are averaged for evaluation; 0 for no average.
        importance_samples: Samples of z an image from which ``test`` estimates log p(x).
        sampling: How ``predict`` and the end of a run draw images.
        init_from: Checkpoint to start from: one of this recipe, whose hyper-parameters then hold where none are given,
            or a plain torch state dict with the same names.

    Shape:
        - batches: ``ImageBatch``, or a tensor or tuple that begins with pixels ``(N, C, H, W)``, whole numbers

    Raises:
        ValueError: An argument is out of its range, images do not fit, or a checkpoint does not fit.
    """

    resume_may_change = ("polyak_epochs", "importance_samples")  # what takes effect in a resumed run
    evaluation_may_change = ("importance_samples",)

    @fill_from_checkpoint
    def __init__(
        self,
        norm: Literal["weight", "none"] = "weight",
        posterior: Literal["gaussian", "iaf"] = "iaf",
        likelihood: Literal["logistic", "bernoulli"] = "logistic",
        width: float = 1.0,
        hidden_size: int = 450,
        latent_size: int = 32,
        iaf_steps: int = 2,
        iaf_size: int = 320,
        learning_rate: float = 2e-3,
        polyak_epochs: float = 10.0,
        importance_samples: int = 100,
        sampling: Sampling = Sampling(),  # noqa: B008 - shown by --help
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["init_from", "sampling"])
        positive = ("hidden_size", "latent_size", "iaf_steps", "iaf_size", "importance_samples")
        ranges = dict.fromkeys(positive, "at least 1") | {"polyak_epochs": "at least 0"}
        ranges |= {"width": "greater than 0", "learning_rate": "greater than 0"}
        check_arguments(VAE, {**self.hparams, "sampling": sampling}, **ranges)
        self.sampling, self.init_from = replace(sampling), init_from
        self.network: Network | None = None
        self.generators = ExampleGenerators()
        self._estimates: list[Tensor] = []  # of log p(x), a row an image, a column a number of samples

    def build(self, images: ImageSpec) -> None:
        """Make the network for images. It models two values of a pixel where zeros and ones are drawn from them."""
        h, self.images = self.hparams, images
        flow = [h.iaf_size] * h.iaf_steps if h.posterior == "iaf" else []
        modelled = 2 if h.likelihood == "bernoulli" else images.num_values
        self.network = Network(h.norm, images.shape, modelled, h.width, h.hidden_size, h.latent_size, flow)

    def build_from_data(self) -> None:
        """Make the network for the images of the Trainer, if there is none, and start it from ``init_from``."""
        build_for_images(self, "pixels", self.hparams)

    def configure_callbacks(self) -> list[Callback]:
        """Make the network before the callbacks of the Trainer look at it; average the weights in training."""
        build_network_first(self.trainer)
        epochs = self.hparams.polyak_epochs if self.trainer.state.fn == "fit" else 0
        return [UnusedParameters(), *([PolyakAverage(epochs, "epochs")] if epochs else [])]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Set up Adamax."""
        return torch.optim.Adamax(self.network.parameters(), lr=self.hparams.learning_rate)

    def forward(self, z: Tensor) -> Tensor:
        """Decode z, ``(N, D)``, to the probability of a one, or the median of a pixel from 0 to 1, ``(N, C, H, W)``."""
        centre, *_ = self.network.decode(z)
        return centre.sigmoid() if self.network.bernoulli else (centre.clamp(-1, 1) + 1) / 2

    def on_fit_start(self) -> None:
        """Print what is trained on what."""
        h, net = self.hparams, self.network
        kind = "Bernoulli" if net.bernoulli else "discretised logistic"
        sampled = net.num_values < self.images.num_values
        pixels = "sampled from the grey in each training step" if sampled else "as they are"
        print_header(self, f"norm {h.norm}, posterior {h.posterior}, {kind} pixels, {pixels}")

    def on_train_batch_start(self, batch: ImageBatch, index: int) -> None:
        """Initialise from the first batch, unless the weights are initialised or loaded."""
        if index == 0 and not self.network.is_initialised:
            pixels = get_tensor(batch, "pixels")
            x, noise = self.evaluated(pixels, ExampleGenerators().take(len(pixels)), 1)
            initialise_from_batch(self.network, x, noise[0])

    def observe(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        """Return what is modelled: the pixels, or zeros and ones where ``uniform`` numbers are below the grey."""
        check_image_shape(pixels, self.network.shape)
        check_pixels(pixels, self.images.num_values)
        if self.network.num_values == self.images.num_values:
            return pixels
        return (uniform * (self.images.num_values - 1) < pixels).to(pixels.dtype)

    def evaluated(self, pixels: Tensor, generators: list[torch.Generator], samples: int) -> tuple[Tensor, Tensor]:
        """Return what is modelled of images, ``(N, C, H, W)``, and noise, ``(samples, N, D)``, by their generators."""
        shape, latent = self.network.shape, self.network.latent
        uniform = torch.stack([torch.rand(shape, generator=each) for each in generators])
        drawn = [[torch.randn(latent, generator=each) for _ in range(samples)] for each in generators]
        noise = torch.stack([torch.stack(each) for each in drawn], 1)  # one by one: more of them change none before
        return self.observe(pixels, uniform.to(self.device)), noise.to(self.device)

    def _step(self, x: Tensor, noise: Tensor, stage: str) -> Tensor:
        """Compute the mean bound of a batch; log it and its parts."""
        reconstruction, kl = (part.mean() for part in self.network(x, noise))
        bound = reconstruction + kl
        for name, nats in (("bound", bound), ("kl", kl), ("reconstruction", reconstruction)):
            self._log(f"{stage}/{name}", nats.detach(), len(x))
        return bound

    def _log(self, name: str, nats: Tensor, images: int) -> None:
        """Log a mean over images in nats per image and in bits per dimension."""
        bits = distributions.bits_per_dim(nats, math.prod(self.network.shape))
        values = {f"{name}_nats_per_image": nats, f"{name}_bits_per_dim": bits}
        self.log_dict(values, batch_size=images, sync_dist=True)

    def training_step(self, batch: ImageBatch, index: int) -> Tensor:
        """Compute the mean bound of one batch."""
        pixels = get_tensor(batch, "pixels")
        x = self.observe(pixels, torch.rand(pixels.shape, device=self.device))
        return self._step(x, torch.randn(len(x), self.network.latent, device=self.device), "train")

    def on_validation_epoch_start(self) -> None:
        """Start again at the first image."""
        self.generators.reset()
        self._estimates = []

    def validation_step(self, batch: ImageBatch, index: int, samples: int = 1) -> tuple[Tensor, Tensor]:
        """Log the bound of one batch; return what is modelled, and the noise of so many samples of z an image."""
        pixels = get_tensor(batch, "pixels")
        x, noise = self.evaluated(pixels, self.generators.take(len(pixels), self.trainer), samples)
        self._step(x, noise[0], evaluation_stage(self.trainer))
        return x, noise

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, batch: ImageBatch, index: int) -> None:
        """Log the bound of one batch, and importance-weighted estimates of log p(x)."""
        x, noise = self.validation_step(batch, index, self.hparams.importance_samples)
        estimates = importance_weighted(log_weights(self.network, x, noise), self.numbers).T
        self._log("test/importance_weighted", -estimates[:, -1].mean(), len(x))
        self._estimates.append(estimates.cpu())

    @property
    def numbers(self) -> list[int]:
        """Numbers of samples at which the test estimates log p(x): 1, 10, 100, …, and all."""
        most = self.hparams.importance_samples
        return [*(10**power for power in range(9) if 10**power < most), most]

    def on_test_epoch_end(self) -> None:
        """Print how the estimate rises with the number of samples."""
        estimates = torch.cat(all_gather_object(self.trainer, torch.cat(self._estimates))).double()
        self.print(f"\nlog p(x) of {len(estimates):,} images, estimated by importance-weighted samples of z:")
        rises = estimates.diff(dim=1, prepend=estimates[:, :1])
        for number, column, rise in zip(self.numbers, estimates.T, rises.T, strict=True):
            error = f" ± {rise.std() / math.sqrt(len(rise)):.3f}" if len(rise) > 1 else ""
            self.print(f"  {number:6,d}: {column.mean():.3f} nats, a rise of {rise.mean():.3f}{error}")

    def predict_step(self, batch: Any, index: int) -> None:
        """Draw images into two files."""
        if self.trainer.is_global_zero:
            print(*write_samples(self, self.sampling.output), sep="\n")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone."""
        checkpoint["wnseq"] = checkpoint_info(self, "vae", **self.images.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint."""
        restore_for_images(self, checkpoint, "vae")


LINEAR = {"weight": wnseq.WNLinear, "none": nn.Linear}
CONV = {"weight": wnseq.WNConv2d, "none": nn.Conv2d}
UP = {"weight": wnseq.WNConvTranspose2d, "none": nn.ConvTranspose2d}
CHANNELS = (16, 32, 32)  # of the three groups
SMALL = 0.1  # initial deviation of what starts near zero
MAX_DECODED = 1000  # images, in the importance-weighted estimate


class Block(nn.Module):
    """A residual block: x + conv(elu(conv(elu(x))))."""

    def __init__(self, norm: str, channels: int) -> None:
        super().__init__()
        self.first = CONV[norm](channels, channels, 3, padding=1)
        self.second = CONV[norm](channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        return x + self.second(F.elu(self.first(F.elu(x))))


class _Masked:
    """Base of masked linear maps: w∘M instead of w. What the mask hides starts at zero and gets no gradient."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)
        self.load_state_dict({"weight": (self.weight * mask).detach(), "bias": self.bias.detach()})

    def forward(self, input: Tensor) -> Tensor:
        """Map the last axis."""
        return F.linear(input, self.weight * self.mask, self.bias)


class MaskedWNLinear(_Masked, wnseq.WNLinear):
    """A weight-normalised linear map without some of its connections."""


class MaskedLinear(_Masked, nn.Linear):
    """A plain one."""


MASKED = {"weight": MaskedWNLinear, "none": MaskedLinear}


class IAFStep(nn.Module):
    """One step of inverse autoregressive flow, gated: z' = σ∘z + (1 − σ)∘m; σ and m of an element see those before it.

    log |dz'/dz| = Σ log σ

    Shape:
        - z and z': ``(*, N, D)``; context: ``(N, context)``; logarithm of the determinant: ``(*, N)``

    Source:
        Kingma et al. 2016, arXiv 1606.04934, algorithm 1; the masks of Germain et al. 2015, arXiv 1502.03509.
    """

    def __init__(self, norm: str, latent: int, hidden: int, context: int) -> None:
        super().__init__()
        element = torch.arange(latent)
        last = torch.arange(hidden) % max(1, latent - 1)  # the last element that a hidden unit sees
        self.input = MASKED[norm]((last[:, None] >= element).float())
        self.output = MASKED[norm]((element.repeat(2)[:, None] > last).float())  # of m, then of σ
        self.context = LINEAR[norm](context, hidden)
        self.direct = LINEAR[norm](context, 2 * latent)  # the first element has no other way to the context

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return z' and the logarithm of the Jacobian's determinant."""
        hidden = F.elu(self.input(z.to(context)) + self.context(context))
        m, s = (self.output(hidden) + self.direct(context)).to(z).chunk(2, -1)  # (*, N, 2D) → (*, N, D) twice
        s = s + 2  # near the identity at the start
        gate = s.sigmoid()
        return gate * z + (1 - gate) * m, F.logsigmoid(s).sum(-1)


class Posterior(NamedTuple):
    """Parameters of z before the flow, and the flow's context."""

    mean: Tensor  # (N, D)
    log_deviation: Tensor  # (N, D)
    context: Tensor  # (N, context)


class Network(BatchInitialised):
    """Encoder, flow and decoder, for images ``shape``, ``(C, H, W)``, whose height and width are multiples of 4.

    Pixels of two values are Bernoulli, else discretised logistic. ``flow`` has the hidden units of each step.
    """

    def __init__(
        self, norm: str, shape: Any, num_values: int, width: float, hidden: int, latent: int, flow: Sequence[int]
    ) -> None:
        super().__init__()
        channels, height, pixels = self.shape = tuple(shape)
        check_image_multiple(height, pixels, 4)
        self.num_values, self.latent, self.bernoulli = num_values, latent, num_values == 2
        first, second, third = (max(1, round(width * number)) for number in CHANNELS)
        smallest = (third, height // 4, pixels // 4)
        conv, up, linear = CONV[norm], UP[norm], LINEAR[norm]

        def blocks(channels: int) -> list[nn.Module]:
            return [Block(norm, channels) for _ in range(2)]

        self.encoder = nn.Sequential(
            conv(channels, first, 3, padding=1),  # (N, 16, H, W)
            *blocks(first),
            conv(first, second, 3, stride=2, padding=1),  # (N, 32, H/2, W/2)
            *blocks(second),
            conv(second, third, 3, stride=2, padding=1),  # (N, 32, H/4, W/4)
            *blocks(third),
            nn.ELU(),
            nn.Flatten(),
            linear(math.prod(smallest), hidden),  # (N, 450)
            nn.ELU(),
        )
        self.posterior = linear(hidden, 2 * latent)
        self.flow = nn.ModuleList(IAFStep(norm, latent, size, hidden) for size in flow)
        self.decoder = nn.Sequential(
            linear(latent, hidden),
            nn.ELU(),
            linear(hidden, math.prod(smallest)),
            nn.Unflatten(1, smallest),  # (N, 32, H/4, W/4)
            *blocks(third),
            up(third, second, 4, stride=2, padding=1),  # (N, 32, H/2, W/2)
            *blocks(second),
            up(second, first, 4, stride=2, padding=1),  # (N, 16, H, W)
            *blocks(first),
            nn.ELU(),
        )
        self.pixels = conv(first, channels * (1 if self.bernoulli else 2), 3, padding=1)

    def encode(self, x: Tensor) -> Posterior:
        """Map pixels, ``(N, C, H, W)``, to the parameters of the posterior."""
        context = self.encoder(2 * x.to(self.posterior.bias) / (self.num_values - 1) - 1)
        return Posterior(*self.posterior(context).to(self.posterior.bias).chunk(2, 1), context)

    def draw(self, posterior: Posterior, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Turn standard normal noise, ``(*, N, D)``, into z, ``(*, N, D)``, and log q(z | x), ``(*, N)``."""
        log_q = (distributions.gaussian_log_density(noise) - posterior.log_deviation).sum(-1)
        z = posterior.mean + posterior.log_deviation.exp() * noise
        for number, step in enumerate(self.flow):
            z, log_determinant = step(z.flip(-1) if number else z, posterior.context)  # in turn from both ends
            log_q = log_q - log_determinant
        return z, log_q

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        """Map z, ``(*, D)``, to the pixels' logits, or means and log-scales, each ``(*, C, H, W)``."""
        parameters = self.pixels(self.decoder(z.flatten(0, -2).to(self.pixels.bias))).to(z)  # (N, C or 2C, H, W)
        return parameters.unflatten(0, z.shape[:-1]).chunk(1 if self.bernoulli else 2, -3)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Compute log p(x | z), ``(*, N)``, of pixels, ``(N, C, H, W)``, for z, ``(*, N, D)``."""
        if self.bernoulli:
            pixels = distributions.bernoulli_log_likelihood(x, *self.decode(z))
        else:
            pixels = distributions.discretized_logistic_log_likelihood(x, *self.decode(z), num_values=self.num_values)
        return pixels.flatten(-3).sum(-1)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both parts of the bound, each ``(N,)``: −log p(x | z) and the divergence of q(z | x) from p(z).

        The divergence is exact for a Gaussian posterior, and that of the one z drawn for the flow.
        """
        posterior = self.encode(x)
        z, log_q = self.draw(posterior, noise)
        mean, log_deviation, _ = posterior
        exact = distributions.gaussian_kl(mean, log_deviation).sum(-1)
        kl = log_q - distributions.gaussian_log_density(z).sum(-1) if self.flow else exact
        return -self.log_likelihood(x, z), kl


def initialise_from_batch(network: Network, x: Tensor, noise: Tensor) -> None:
    """Set g and b from pixels ``(N, C, H, W)`` and noise ``(N, D)``; a plain network gets the same function.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3; also for nets without weight normalisation.
    """
    small = ("*.second", "posterior", "pixels", *(("*.output", "*.direct") if network.flow else ()))
    data_init(network, (x, noise), dict.fromkeys(small, SMALL))
    network.mark_initialised()


@torch.no_grad()
def log_weights(network: Network, x: Tensor, noise: Tensor) -> Tensor:
    """Compute log p(x, z) − log q(z | x), ``(K, N)``, by noise ``(K, N, D)``; their mean is the bound."""
    posterior = network.encode(x)
    parts = []
    for some in noise.split(max(1, MAX_DECODED // len(x))):
        z, log_q = network.draw(posterior, some)
        parts.append(network.log_likelihood(x, z) + distributions.gaussian_log_density(z).sum(-1) - log_q)
    return torch.cat(parts)


def importance_weighted(weights: Tensor, samples: Sequence[int]) -> Tensor:
    """Estimate log p(x) ≥ E log 1/k Σ w by the first k of K importance weights, for each k of ``samples``.

    The logarithms of the weights are ``(K, N)``, the estimates ``(len(samples), N)``: in expectation they rise with k.

    Source:
        Burda, Grosse & Salakhutdinov 2016, arXiv 1509.00519.
    """
    return torch.stack([weights[:k].logsumexp(0) - math.log(k) for k in samples])


class Samples(NamedTuple):
    """Images drawn from a model."""

    z: Tensor  # latents, drawn from the prior times the temperature, (N, D)
    centres: Tensor  # what the pixels are around, from 0 to 1, (N, C, H, W)
    pixels: Tensor  # the images, sampled pixel by pixel, (N, C, H, W), uint8


@torch.no_grad()
def sample(model: VAE, sampling: Sampling) -> Samples:
    """Draw images."""
    source, network = torch.Generator().manual_seed(sampling.seed), model.network
    z = sampling.temperature * torch.randn(sampling.number, network.latent, generator=source)
    centre, *scale = (part.cpu() for part in network.decode(z.to(model.device)))
    check_finite(torch.stack([centre, *scale]), "the parameters of the pixels")
    uniform = torch.rand(centre.shape, generator=source)
    if network.bernoulli:
        pixels = uniform < centre.sigmoid()
    else:
        drawn = centre + scale[0].exp() * torch.logit(uniform, eps=1e-6)
        pixels = ((drawn + 1) / 2 * (network.num_values - 1)).round().clamp(0, network.num_values - 1)
    return Samples(z, model(z.to(model.device)).cpu(), pixels.to(torch.uint8))


def generate(checkpoint: str | Path, **sampling: Any) -> Samples:
    """Draw images from a checkpoint alone; ``sampling`` are fields of :class:`Sampling`."""
    return sample(VAE.load_from_checkpoint(checkpoint, map_location="cpu"), Sampling(**sampling))


def write_samples(model: VAE, output: str | Path) -> list[Path]:
    """Draw images into two files; see :func:`wnseq.training.sample_files.save_samples`."""
    drawn = sample(model, model.sampling)
    return save_samples(output, drawn.centres, **drawn._asdict())


@torch.no_grad()
def middle(model: VAE, x: Tensor) -> Tensor:
    """Encode pixels, ``(N, C, H, W)``, to the middle of their posterior, ``(N, D)``."""
    return model.network.draw(model.network.encode(x), torch.zeros(len(x), model.network.latent, device=x.device))[0]


@torch.no_grad()
def walk(model: VAE, x: Tensor) -> Tensor:
    """Decode ten straight steps through latent space from each of a few images to the next, from their pixels."""
    z, along = middle(model, x), torch.linspace(0, 1, 10, device=x.device).view(-1, 1)
    return model(torch.cat([here.lerp(there, along) for here, there in itertools.pairwise(z)]))


class VAECLI(ImageSamplingCLI):
    """The command line of this recipe."""

    def draw(self, folder: Path) -> list[Path]:
        """Draw samples, reconstructions and a walk through latent space."""
        model = self.model
        pixels = first_images(self.datamodule, 20).pixels.to(model.device)
        x, _ = model.evaluated(pixels, ExampleGenerators().take(len(pixels)), 1)
        with torch.no_grad():
            given, made = x.float() / (model.network.num_values - 1), model(middle(model, x))
        rows = [part for pair in zip(given.split(10), made.split(10), strict=True) for part in pair]
        files = write_samples(model, folder / "samples")
        files += save_images(torch.cat(rows), folder / "reconstructions.png", "test images, reconstructed below")
        if len(x) > 1:
            files += save_images(walk(model, x[:7]), folder / "walk.png", "from one test image to the next")
        return files


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the final metrics."""
    return run(
        VAE,
        ImageDataModule,
        recipe="vae",
        args=args,
        monitor="val/bound_nats_per_image",
        cli_class=VAECLI,
        defaults={"trainer.max_epochs": 60, "data.batch_size": 50},
    )


if __name__ == "__main__":
    main()
