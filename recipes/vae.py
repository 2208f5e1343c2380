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
1. By default the data are digits of 8 x 8 pixels and 17 levels, under a discretised logistic likelihood.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

import wnseq
from wnseq import distributions
from wnseq.data.images import ImageBatch, ImageDataModule
from wnseq.init import data_init
from wnseq.training import checkpoint_files, plots
from wnseq.training.callbacks import PolyakAverage, Throughput, all_gather_object
from wnseq.training.cli.recipe import RecipeCLI, run

LINEAR = {"weight": wnseq.WNLinear, "none": nn.Linear}
CONV = {"weight": wnseq.WNConv2d, "none": nn.Conv2d}
UP = {"weight": wnseq.WNConvTranspose2d, "none": nn.ConvTranspose2d}
MAPS = (16, 32, 32)  # of the three groups
SMALL = 0.1  # deviation, at the start, of what is to begin near zero
DECODED_AT_ONCE = 1000  # images, in the importance-weighted estimate


class Block(nn.Module):
    """A residual block: x + conv(elu(conv(elu(x))))."""

    def __init__(self, norm: str, maps: int) -> None:
        super().__init__()
        self.first = CONV[norm](maps, maps, 3, padding=1)
        self.second = CONV[norm](maps, maps, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        return x + self.second(F.elu(self.first(F.elu(x))))


class _Masked:
    """What masked linear maps share: w∘M in the place of w. What the mask hides starts at zero and gets no gradient."""

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

    Args:
        norm: ``weight`` or ``none``.
        latent: D, elements of z.
        hidden: Units of the hidden layer.
        context: Features of the context.

    Shape:
        - z: ``(*, N, D)``
        - context: ``(N, context)``
        - outputs: ``(*, N, D)`` and ``(*, N)``

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
        """Take the step; return z' and the logarithm of the Jacobian's determinant."""
        hidden = F.elu(self.input(z) + self.context(context))
        m, s = (self.output(hidden) + self.direct(context)).to(z).chunk(2, -1)  # (*, N, 2D) → (*, N, D) twice
        s = s + 2  # near the identity at the start
        gate = s.sigmoid()
        return gate * z + (1 - gate) * m, F.logsigmoid(s).sum(-1)


class Posterior(NamedTuple):
    """What the encoder says of z, before the flow.

    Shape:
        - mean, log_deviation: ``(N, D)``
        - context: ``(N, context)``
    """

    mean: Tensor
    log_deviation: Tensor
    context: Tensor


class Network(nn.Module):
    """Encoder, flow and decoder, for images whose height and width are multiples of 4.

    Args:
        norm: ``weight`` or ``none``.
        shape: Channels, height and width.
        levels: Values that a pixel can have; with two the likelihood is Bernoulli, else discretised logistic.
        width: Factor of the 16, 32 and 32 maps.
        hidden: Units of the two fully connected layers.
        latent: D, elements of z.
        flow: Hidden units of each step of the flow; none leaves the posterior Gaussian.
    """

    def __init__(
        self, norm: str, shape: Any, levels: int, width: float, hidden: int, latent: int, flow: Sequence[int]
    ) -> None:
        super().__init__()
        channels, height, pixels = self.shape = tuple(shape)
        if height % 4 or pixels % 4:
            fits = 4 * math.ceil(max(height, pixels) / 4)
            raise ValueError(
                f"images must be multiples of 4 high and wide, got {height} x {pixels}: --data.size {fits}"
            )
        self.levels, self.latent, self.bernoulli = levels, latent, levels == 2
        first, second, third = (max(1, round(width * maps)) for maps in MAPS)
        smallest = (third, height // 4, pixels // 4)
        conv, up, linear = CONV[norm], UP[norm], LINEAR[norm]

        def blocks(maps: int) -> list[nn.Module]:
            return [Block(norm, maps) for _ in range(2)]

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
        """Map levels, ``(N, C, H, W)``, to the parameters of the posterior."""
        context = self.encoder(2 * x.to(self.posterior.bias) / (self.levels - 1) - 1)
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
        parameters = self.pixels(self.decoder(z.flatten(0, -2))).to(z)  # (N, C or 2C, H, W)
        return parameters.unflatten(0, z.shape[:-1]).chunk(1 if self.bernoulli else 2, -3)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Compute log p(x | z), ``(*, N)``, of levels, ``(N, C, H, W)``, for z, ``(*, N, D)``."""
        if self.bernoulli:
            return distributions.bernoulli_log_likelihood(x, *self.decode(z)).flatten(-3).sum(-1)
        return (
            distributions.discretized_logistic_log_likelihood(x, *self.decode(z), num_values=self.levels)
            .flatten(-3)
            .sum(-1)
        )

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


@torch.no_grad()
def log_weights(network: Network, x: Tensor, noise: Tensor) -> Tensor:
    """Compute log p(x, z) − log q(z | x) for many z an image, a few at a time.

    Args:
        network: The network.
        x: Levels, ``(N, C, H, W)``.
        noise: Standard normal, ``(K, N, D)``.

    Returns:
        The logarithms of the importance weights, ``(K, N)``. Their mean is the bound.
    """
    posterior = network.encode(x)
    parts = []
    for some in noise.split(max(1, DECODED_AT_ONCE // len(x))):
        z, log_q = network.draw(posterior, some)
        parts.append(network.log_likelihood(x, z) + distributions.gaussian_log_density(z).sum(-1) - log_q)
    return torch.cat(parts)


def importance_weighted(weights: Tensor, samples: Sequence[int]) -> Tensor:
    """Estimate log p(x) ≥ E log 1/k Σ w by the first k importance weights, for several k.

    Args:
        weights: Their logarithms, ``(K, N)``.
        samples: The k, each at most K.

    Returns:
        The estimates, ``(len(samples), N)``. In expectation they rise with k.

    Source:
        Burda, Grosse & Salakhutdinov 2016, arXiv 1509.00519.
    """
    return torch.stack([weights[:k].logsumexp(0) - math.log(k) for k in samples])


def start(network: Network, twin: Network, x: Tensor, noise: Tensor) -> None:
    """Set g and b from a batch, in place; what is not weight-normalised gets the result.

    Args:
        network: Network to start.
        twin: A weight-normalised one of the same sizes.
        x: Levels, ``(N, C, H, W)``.
        noise: Standard normal, ``(N, D)``.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3; also for nets without weight normalisation.
    """
    twin.load_state_dict(network.state_dict())
    small = ("*.second", "posterior", "pixels", *(("*.output", "*.direct") if network.flow else ()))
    data_init(twin, (x, noise), dict.fromkeys(small, SMALL))
    form = "wnseq" if isinstance(network.pixels, wnseq.WNConv2d) else "plain"
    network.load_state_dict(wnseq.state_dict_as(twin, form))


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
        if self.number < 1:
            raise ValueError(f"sampling.number must be at least 1, got {self.number}")
        if self.temperature < 0:
            raise ValueError(f"sampling.temperature must not be negative, got {self.temperature}")


class VAE(LightningModule):
    """A variational auto-encoder and how it is trained.

    Args:
        norm: ``weight`` for weight normalisation, ``none`` for torch's own layers.
        posterior: ``gaussian``, diagonal; ``iaf`` for that and inverse autoregressive flow behind it.
        likelihood: Of a pixel: ``logistic``, discretised, for any number of levels; ``bernoulli`` for zeros and ones,
            which of grey images are drawn with the grey as the probability, anew in each training step, and once and
            for all in validation and test.
        width: Factor of the 16, 32 and 32 maps of the three groups.
        hidden_size: Units of the fully connected layers.
        latent_size: Elements of z.
        iaf_steps: Steps of the flow, with posterior iaf.
        iaf_size: Hidden units of each step.
        learning_rate: Adamax's step size.
        polyak_epochs: Epochs over which the weights are averaged for evaluation; 0 for no average.
        importance_samples: Samples of z an image from which ``test`` estimates log p(x).
        sampling: How ``predict`` and the end of a run draw images.
        init_from: Checkpoint to start from: one of this recipe, or a plain torch state dict with the same names.

    Shape:
        - batches: ``ImageBatch``, of which the levels are used, ``(N, C, H, W)``

    Raises:
        ValueError: An argument is out of its range, images do not fit, or a checkpoint does not fit.
    """

    def __init__(
        self,
        norm: Literal["weight", "none"] = "weight",
        posterior: Literal["gaussian", "iaf"] = "iaf",
        distributions: Literal["logistic", "bernoulli"] = "logistic",
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
        for name, value in self.hparams.items():
            if isinstance(value, int | float) and (value < 0 or (value == 0 and name != "polyak_epochs")):
                raise ValueError(f"{name} must be greater than 0, got {value}")
        self.sampling = sampling
        self.init_from = init_from
        self.network: Network | None = None
        self.levels = 0  # of the images; zeros and ones may be drawn from them
        self.fresh = False  # whether the start is still to be set
        self._estimates: list[Tensor] = []  # of log p(x), a row an image, a column a number of samples
        self._seen = 0  # images of the running evaluation

    def make(self, norm: str, shape: Sequence[int]) -> Network:
        """Make a network of any norm for images of one shape."""
        h = self.hparams
        flow = [h.iaf_size] * h.iaf_steps if h.posterior == "iaf" else []
        levels = 2 if h.likelihood == "bernoulli" else self.levels
        return Network(norm, shape, levels, h.width, h.hidden_size, h.latent_size, flow)

    def build(self, shape: Sequence[int], levels: int) -> None:
        """Make the network for images of one shape, ``(C, H, W)``, and number of levels."""
        self.levels, self.fresh = levels, True
        self.network = self.make(self.hparams.norm, tuple(shape))

    def configure_model(self) -> None:
        """Make the network once the data is known, and start it from ``init_from``."""
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, ImageDataModule) and (data.whiten or data.normalize != "symmetric"):
            raise ValueError("the likelihood is that of the levels themselves: leave out --data.normalize and whiten")
        if self.network is not None or not isinstance(data, ImageDataModule):
            return
        self.build(data.preprocess.enlarge(data.images.parts["train"].pixels[:1]).shape[1:], data.images.num_values)
        if self.init_from is not None:
            path = Path(self.init_from)
            checkpoint_files.load_weights(self.network, path, checkpoint_files.load(path), self.hparams)
            self.fresh = False

    def configure_callbacks(self) -> list[Callback]:
        """Average the weights in training."""
        epochs = self.hparams.polyak_epochs if self.trainer.state.fn == "fit" else 0
        return [PolyakAverage(epochs, "epochs")] if epochs else []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Set up Adamax."""
        if self.network is None:
            raise ValueError("there is no network yet: fit with an ImageDataModule, or call build first")
        return torch.optim.Adamax(self.network.parameters(), lr=self.hparams.learning_rate)

    def forward(self, z: Tensor) -> Tensor:
        """Decode z, ``(N, D)``: what the pixels are around, from 0 to 1, ``(N, C, H, W)``.

        The probability of a one, or the median of the logistic distribution.
        """
        centre, *_ = self.network.decode(z)
        return centre.sigmoid() if self.network.bernoulli else (centre.clamp(-1, 1) + 1) / 2

    def on_fit_start(self) -> None:
        """Say what is trained on what."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageDataModule):
            self.print(data.describe())
            for logger in self.loggers:
                logger.log_hyperparams({"dataset": data.dataset, "images_sha256": data.images.sha256})
        h, size = self.hparams, sum(parameter.numel() for parameter in self.parameters())
        kind = "Bernoulli" if self.network.bernoulli else "discretised logistic"
        pixels = (
            "drawn anew from the grey in each training step" if self.network.levels < self.levels else "as they are"
        )
        self.print(f"model: norm {h.norm}, posterior {h.posterior}, {size:,} parameters; {kind} pixels, {pixels}\n")

    def on_train_batch_start(self, batch: ImageBatch, index: int) -> None:
        """Set the start from the first batch, unless the weights come from a checkpoint."""
        if self.fresh and self.trainer.ckpt_path is None:
            x, noise = self.fixed(batch, 0, 1)
            start(self.network, self.make("weight", self.network.shape).to(self.device), x, noise[0])
        self.fresh = False

    def observe(self, levels: Tensor, uniform: Tensor) -> Tensor:
        """Take what is modelled of images: their levels, or zeros and ones drawn with the grey as the probability.

        Args:
            levels: ``(N, C, H, W)``.
            uniform: Numbers from 0 to 1, of the same shape, that decide.

        Raises:
            ShapeError: The images are not of the shape that the network is for.
            ValueError: A pixel is none of the levels.
        """
        if levels.ndim != 4 or tuple(levels.shape[1:]) != self.network.shape:
            expected, got = (None, *self.network.shape), tuple(levels.shape)
            raise wnseq.ShapeError(f"images must have the shape {expected}, which the network is for, got {got}")
        top, least, most = self.levels - 1, float(levels.min()), float(levels.max())
        if least < 0 or most > top or bool((levels != levels.round()).any()):
            raise ValueError(f"pixels must be whole numbers from 0 to {top}, unscaled, got {least:g} to {most:g}")
        return levels if self.network.levels == self.levels else (uniform * top < levels).to(levels.dtype)

    def fixed(self, batch: ImageBatch, first: int, samples: int) -> tuple[Tensor, Tensor]:
        """Take images of an evaluation and their noise, the same in every epoch and in batches of any size.

        Args:
            batch: The batch.
            first: Number of its first image.
            samples: K, draws of z an image.

        Returns:
            What is modelled of the images, ``(N, C, H, W)``, and noise, ``(K, N, D)``.
        """
        sources = [torch.Generator().manual_seed(first + place) for place in range(len(batch.pixels))]
        uniform = torch.stack([torch.rand(self.network.shape, generator=source) for source in sources])
        noise = torch.stack([torch.randn(samples, self.network.latent, generator=source) for source in sources], 1)
        return self.observe(batch.pixels, uniform.to(self.device)), noise.to(self.device)

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
        """Take the mean bound of one batch."""
        x = self.observe(batch.pixels, torch.rand(batch.pixels.shape, device=self.device))
        return self._step(x, torch.randn(len(x), self.network.latent, device=self.device), "train")

    def _evaluate(self, batch: ImageBatch, index: int, stage: str, samples: int) -> tuple[Tensor, Tensor]:
        """Log the bound of one batch; return what is modelled, and the noise."""
        first = self._seen if index else 0
        self._seen = first + len(batch.pixels)
        x, noise = self.fixed(batch, first + 1_000_003 * self.global_rank, samples)  # apart from other processes'
        self._step(x, noise[0], stage)
        return x, noise

    def validation_step(self, batch: ImageBatch, index: int) -> None:
        """Add one batch to the validation."""
        self._evaluate(batch, index, "val", 1)

    def test_step(self, batch: ImageBatch, index: int) -> None:
        """Add one batch to the test, with importance-weighted estimates of log p(x)."""
        x, noise = self._evaluate(batch, index, "test", self.hparams.importance_samples)
        estimates = importance_weighted(log_weights(self.network, x, noise), self.numbers).T
        self._log("test/importance_weighted", -estimates[:, -1].mean(), len(x))
        self._estimates = [*(self._estimates if index else []), estimates.cpu()]

    @property
    def numbers(self) -> list[int]:
        """Numbers of samples at which ``test`` estimates log p(x): 1, 10, 100, …, and all."""
        most = self.hparams.importance_samples
        return [*(10**power for power in range(9) if 10**power < most), most]

    def on_test_epoch_end(self) -> None:
        """Show how the estimate rises, the samples of a number being the first of those of the next."""
        estimates = torch.cat(all_gather_object(self.trainer, torch.cat(self._estimates))).double()
        self.print(f"\nlog p(x) of {len(estimates):,} images, estimated by importance-weighted samples of z:")
        rises = estimates.diff(dim=1, prepend=estimates[:, :1])
        for number, column, rise in zip(self.numbers, estimates.T, rises.T, strict=True):
            error = rise.std() / math.sqrt(len(rise))
            self.print(f"  {number:6,d}: {column.mean():.3f} nats, a rise of {rise.mean():.3f} ± {error:.3f}")

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
            "recipe": "vae",
            "shape": list(self.network.shape),
            "levels": self.levels,
            "data": {name: getattr(data, name) for name in ("dataset", "size", "val_size")} if given else {},
            "images_sha256": data.images.sha256 if given else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint."""
        if self.network is None:
            self.build(checkpoint["wnseq"]["shape"], checkpoint["wnseq"]["levels"])
        self.fresh = False


class Samples(NamedTuple):
    """Images drawn from a model.

    Args:
        z: What was drawn from the prior, times the temperature.
        centres: What the pixels are around, from 0 to 1: see :meth:`VAE.forward`.
        levels: The images, drawn pixel by pixel.

    Shape:
        - z: ``(N, D)``
        - centres: ``(N, C, H, W)``
        - levels: ``(N, C, H, W)``, uint8
    """

    z: Tensor
    centres: Tensor
    levels: Tensor


@torch.no_grad()
def sample(model: VAE, sampling: Sampling) -> Samples:
    """Draw images.

    Args:
        model: A model with its network.
        sampling: How many and how.
    """
    source, network = torch.Generator().manual_seed(sampling.seed), model.network
    z = sampling.temperature * torch.randn(sampling.number, network.latent, generator=source)
    centre, *scale = (part.cpu() for part in network.decode(z.to(model.device)))
    uniform = torch.rand(centre.shape, generator=source)
    if network.bernoulli:
        levels = uniform < centre.sigmoid()
    else:
        drawn = centre + scale[0].exp() * torch.logit(uniform, eps=1e-6)
        levels = ((drawn + 1) / 2 * (network.levels - 1)).round().clamp(0, network.levels - 1)
    return Samples(z, model(z.to(model.device)).cpu(), levels.to(torch.uint8))


def generate(checkpoint: str | Path, **sampling: Any) -> Samples:
    """Draw images from a checkpoint alone.

    Args:
        checkpoint: Path of a checkpoint of this recipe.
        sampling: Fields of :class:`Sampling`.
    """
    return sample(VAE.load_from_checkpoint(checkpoint, map_location="cpu"), Sampling(**sampling))


def write_samples(model: VAE, sampling: Sampling, path: Path) -> list[Path]:
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
    return [*draw_grid(drawn.centres, Path(f"{path}.png"), "samples"), Path(f"{path}.npz")]


def draw_grid(images: Tensor, figure: Path, title: str) -> list[Path]:
    """Draw images, ten a row; return the file, if there is one."""
    return [figure] if plots.plot_images(images.cpu().numpy(), [""] * len(images), figure, title=title) else []


@torch.no_grad()
def middle(model: VAE, x: Tensor) -> Tensor:
    """Encode levels, ``(N, C, H, W)``, to the middle of their posterior, ``(N, D)``."""
    return model.network.draw(model.network.encode(x), torch.zeros(len(x), model.network.latent, device=x.device))[0]


@torch.no_grad()
def walk(model: VAE, x: Tensor) -> Tensor:
    """Go from each of a few images to the next, in ten straight steps through latent space.

    Args:
        model: A model with its network.
        x: Levels, ``(N, C, H, W)``.

    Returns:
        What the pixels are around, ``(10 · (N − 1), C, H, W)``.
    """
    z, along = middle(model, x), torch.linspace(0, 1, 10, device=x.device).view(-1, 1)
    return model(torch.cat([here.lerp(there, along) for here, there in itertools.pairwise(z)]))


class VAECLI(RecipeCLI):
    """The command line of this recipe."""

    def callbacks(self) -> list[Callback]:
        """Count images."""
        return [Throughput("images", lambda batch: len(batch.pixels))]

    def predict(self, model: VAE, ckpt_path: str, **kwargs: Any) -> None:
        """Draw images from the checkpoint; no data is read."""
        self.trainer.predict(model, range(1), ckpt_path=ckpt_path)

    def report(self) -> None:
        """Draw samples, reconstructions and a walk through latent space."""
        if self.run_dir is None:
            return
        model = self.model.eval()
        files = write_samples(model, model.sampling, self.run_dir / "samples")
        batch = next(iter(self.datamodule.test_dataloader()))
        x, _ = model.fixed(batch._replace(pixels=batch.pixels[:20].to(model.device)), 0, 1)
        with torch.no_grad():
            given, made = x.float() / (model.network.levels - 1), model(middle(model, x))
        rows = [part for pair in zip(given.split(10), made.split(10), strict=True) for part in pair]
        files += draw_grid(torch.cat(rows), self.run_dir / "reconstructions.png", "test images, reconstructed below")
        files += draw_grid(walk(model, x[:7]), self.run_dir / "walk.png", "from one test image to the next")
        print("\n" + "\n".join(map(str, files)))


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
