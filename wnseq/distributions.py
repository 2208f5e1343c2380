"""Log-densities, divergences and samples of what generative models are made of, in nats for each element.

Half types are computed in float32.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.errors import ShapeError

__all__ = [
    "bernoulli_log_likelihood",
    "bits_per_dim",
    "discretized_logistic_log_likelihood",
    "gaussian_kl",
    "gaussian_log_density",
    "logistic_mixture_channels",
    "logistic_mixture_log_likelihood",
    "logistic_mixture_sample",
]

_MIN_LOG_SCALE = -7.0  # as published: a scale of 0.12 of the bin of one of 256 values


def gaussian_kl(
    mean: Tensor, log_std: Tensor, prior_mean: Tensor | float = 0.0, prior_log_std: Tensor | float = 0.0
) -> Tensor:
    """Compute the divergence of one Gaussian from another, by default the standard normal.

    KL(N(m, σ²) ‖ N(m₀, σ₀²)) = ½ [(σ/σ₀)² − 1 + ((m − m₀)/σ₀)²] − log(σ/σ₀)
    """
    mean, log_std, prior_mean, prior_log_std = map(_at_least_float32, (mean, log_std, prior_mean, prior_log_std))
    ratio = log_std - prior_log_std
    shift = (mean - prior_mean) * torch.exp(-torch.as_tensor(prior_log_std))
    return 0.5 * (torch.expm1(2 * ratio) + shift.square()) - ratio


def gaussian_log_density(x: Tensor, mean: Tensor | float = 0.0, log_std: Tensor | float = 0.0) -> Tensor:
    """Compute log N(x; m, σ²) = −½ ((x − m)/σ)² − log σ − ½ log 2π, by default of the standard normal."""
    x, mean, log_std = map(_at_least_float32, (x, mean, log_std))
    standard = (x - mean) * torch.exp(-torch.as_tensor(log_std))
    return -0.5 * standard.square() - log_std - 0.5 * math.log(2 * math.pi)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """Compute the log-likelihood of zeros and ones.

    log p(x) = x log σ(l) + (1 − x) log σ(−l)

    A value of x between them gives the expectation over x ~ Bernoulli(value), which is no likelihood of the value.
    """
    logits = _at_least_float32(logits)
    return F.logsigmoid(logits) - (1 - x.to(logits.dtype)) * logits


def discretized_logistic_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor, num_values: int = 256) -> Tensor:
    """Compute the log-probability of whole numbers under a logistic distribution, integrated over each number's bin.

    P(x) = F((x̃ + h − m)/s) − F((x̃ − h − m)/s), F(a) = 1/(1 + e^−a), x̃ = 2x/(V−1) − 1, h = 1/(V−1);
    the first bin reaches to −∞ and the last to ∞

    Args:
        x: Whole numbers from 0 to V − 1.
        mean: m, on a scale where x̃ is from −1 to 1.
        log_scale: log s, on the same scale. Values and gradients are finite in float32 from −70 to 70.
        num_values: V.

    Note:
        PixelCNN++ computes the difference, and the density times the width if that rounds to zero. Here it is the
        product F(a) F(−b) (1 − e^(b−a)), each factor of which has an exact logarithm.

    Source:
        Kingma et al. 2016, arXiv 1606.04934; Salimans et al. 2017, arXiv 1701.05517, section 2.1.
    """
    _check_num_values(num_values, "discretized_logistic_log_likelihood")
    half, mean, log_scale = 1 / (num_values - 1), _at_least_float32(mean), _at_least_float32(log_scale)
    sharpness = torch.exp(-log_scale)
    distance = 2 * half * x.to(mean.dtype) - 1 - mean
    below = F.logsigmoid((distance + half) * sharpness)  # log F at the bin's upper end
    above = F.logsigmoid((half - distance) * sharpness)  # log (1 − F) at its lower end
    inside = below + above + torch.log(-torch.expm1(-2 * half * sharpness))
    return torch.where(x == 0, below, torch.where(x == num_values - 1, above, inside))


def _at_least_float32(x: Any) -> Any:
    return x.to(torch.promote_types(x.dtype, torch.float32)) if isinstance(x, Tensor) else x


def logistic_mixture_channels(channels: int, components: int) -> int:
    """Return the number of parameters of a pixel, which a network's last layer has as channels.

    P = K (1 + 2C + C(C − 1)/2): for each of K components a logit, a mean and a log-scale for each of C channels, and a
    coefficient for each pair of channels
    """
    if channels < 1 or components < 1:
        raise ValueError(
            "logistic_mixture_channels: channels and components must be at least 1, "
            f"got {channels} channels and {components} components"
        )
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


def logistic_mixture_log_likelihood(x: Tensor, parameters: Tensor, num_values: int = 256) -> Tensor:
    """Compute the log-probability of pixels, all channels together, under a mixture of discretised logistics.

    log P(x) = log Σ_k π_k Π_c P(x_c; m_kc + Σ_{d<c} tanh(a_kcd) x̃_d, s_kc), P and x̃ as of
    :func:`discretized_logistic_log_likelihood`

    Args:
        x: Whole numbers from 0 to V − 1; not checked.
        parameters: Blocks of K channels, one for each component: the logits of π; m of channel 0, 1, …; log s of
            channel 0, 1, …, at least −7; a of (1, 0), (2, 0), (2, 1), …. Half types are computed in float32.
        num_values: V.

    Shape:
        - x: ``(N, C, *)``, with ``*`` such as ``H, W``
        - parameters: ``(N, P, *)``, with P from :func:`logistic_mixture_channels`
        - output: ``(N, *)``

    Raises:
        ShapeError: P does not fit C, or x and the parameters are of different images.

    Source:
        Salimans et al. 2017, arXiv 1701.05517, sections 2.1 and 2.2, equation 3.
    """
    name = "logistic_mixture_log_likelihood"
    channels = x.shape[1] if x.ndim > 1 else 0
    blocks = _blocks(parameters, channels, num_values, name)
    if x.shape[:1] + x.shape[2:] != parameters.shape[:1] + parameters.shape[2:]:
        raise ShapeError(
            f"{name}: x and parameters must agree but for their second axis, got {tuple(x.shape)} and "
            f"{tuple(parameters.shape)}"
        )
    x = x.unsqueeze(2)  # (N, C, 1, *)
    mean, log_scale, coefficients = _split(blocks[:, 1:], channels)  # (N, C, K, *)
    if channels > 1:
        centre = _centre(x, num_values, mean.dtype)
        shifts = [(coefficients[:, _pairs(channel)] * centre[:, :channel]).sum(1) for channel in range(1, channels)]
        mean = torch.cat([mean[:, :1], mean[:, 1:] + torch.stack(shifts, 1)], 1)
    each = discretized_logistic_log_likelihood(x, mean, log_scale, num_values).sum(1)  # (N, C, K, *) → (N, K, *)
    return (blocks[:, 0].log_softmax(1) + each).logsumexp(1)


@torch.no_grad()
def logistic_mixture_sample(parameters: Tensor, uniform: Tensor, channels: int, num_values: int = 256) -> Tensor:
    """Sample pixels from a mixture of discretised logistics, given the noise.

    k by the inverse of its distribution function; then, channel by channel, the value whose x̃ is nearest to
    m_kc + Σ_{d<c} tanh(a_kcd) x̃_d + s_kc log(u/(1 − u))

    Args:
        parameters: As of :func:`logistic_mixture_log_likelihood`.
        uniform: Independent numbers from 0 to 1: the first chooses the component, the others are u of each channel.
        channels: C.
        num_values: V.

    Shape:
        - parameters: ``(N, P, *)``: whole images, ``(N, P, H, W)``, or one pixel of each, ``(N, P)``
        - uniform: ``(N, 1 + C, *)``
        - output: ``(N, C, *)``, int64

    Raises:
        ShapeError: P does not fit C, or uniform has another shape.

    Note:
        The published code rounds after all channels are sampled, so that a later channel follows an unrounded value of
        an earlier one, which the likelihood does not score. Here it follows the sampled value.
    """
    name = "logistic_mixture_sample"
    blocks = _blocks(parameters, channels, num_values, name)
    expected = (len(parameters), 1 + channels, *parameters.shape[2:])
    if uniform.shape != expected:
        raise ShapeError(
            f"{name}: uniform must have the shape {expected}, a number for the component and one for each of "
            f"{channels} channels, got {tuple(uniform.shape)}"
        )
    uniform = uniform.to(blocks.dtype)
    ends = blocks[:, 0].softmax(1).cumsum(1)[:, :-1]  # without the last component's, which is 1 despite rounding
    component = (uniform[:, :1] >= ends).sum(1, keepdim=True).unsqueeze(1)  # (N, 1, 1, *)
    index = component.expand(-1, blocks.shape[1] - 1, *component.shape[2:])
    mean, log_scale, coefficients = _split(blocks[:, 1:].gather(2, index).squeeze(2), channels)  # (N, C, *)
    value = mean + log_scale.exp() * uniform[:, 1:].logit()
    sampled: list[Tensor] = []
    for channel in range(channels):
        at = value[:, channel]
        if channel:
            before = _centre(torch.stack(sampled, 1), num_values, at.dtype)
            at = at + (coefficients[:, _pairs(channel)] * before).sum(1)
        sampled.append(((at + 1) * (0.5 * (num_values - 1))).round().clamp(0, num_values - 1))
    return torch.stack(sampled, 1).long()


def bits_per_dim(nats: Tensor | float, dimensions: int) -> Tensor | float:
    """Convert the nats of one example to bits per dimension, nats / (D log 2); D is C · H · W for an image."""
    if dimensions < 1:
        raise ValueError(f"bits_per_dim: dimensions must be at least 1, got {dimensions}")
    return nats / (dimensions * math.log(2))


def _check_num_values(num_values: int, name: str) -> None:
    if num_values < 2:
        raise ValueError(f"{name}: num_values must be at least 2, got {num_values}")


def _blocks(parameters: Tensor, channels: int, num_values: int, name: str) -> Tensor:
    """Check parameters and move the components to an axis of their own, ``(N, P/K, K, *)``."""
    _check_num_values(num_values, name)
    if channels < 1:
        raise ShapeError(f"{name}: images must have at least 1 channel, on their second axis, got {channels}")
    each = logistic_mixture_channels(channels, 1)
    given = parameters.shape[1] if parameters.ndim > 1 else 0
    if given < each or given % each:
        raise ShapeError(
            f"{name}: for images of {channels} channels the second axis of parameters must be a multiple of {each}, as "
            f"logistic_mixture_channels counts them, got {given} in {tuple(parameters.shape)}"
        )
    wide: Tensor = _at_least_float32(parameters)
    return wide.view(len(wide), each, given // each, *wide.shape[2:])


def _split(blocks: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split the blocks after the logits into means, log-scales and coefficients."""
    mean, log_scale, coefficients = blocks[:, :channels], blocks[:, channels : 2 * channels], blocks[:, 2 * channels :]
    return mean, log_scale.clamp(min=_MIN_LOG_SCALE), coefficients.tanh()


def _pairs(channel: int) -> slice:
    """Return where the coefficients of one channel are: those of the channels before it take 0 + 1 + … entries."""
    first = channel * (channel - 1) // 2
    return slice(first, first + channel)


def _centre(x: Tensor, num_values: int, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) * (2 / (num_values - 1)) - 1
