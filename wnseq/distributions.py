"""What a generative model's bound is made of: log-densities and divergences, element by element, and bits per dim."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.errors import ShapeError


def gaussian_kl(
    mean: Tensor, log_deviation: Tensor, prior_mean: Tensor | float = 0.0, prior_log_deviation: Tensor | float = 0.0
) -> Tensor:
    """Compute the divergence of one Gaussian from another, by default from the standard normal.

    KL(N(m, σ²) ‖ N(m₀, σ₀²)) = ½ [(σ/σ₀)² − 1 + ((m − m₀)/σ₀)²] − log(σ/σ₀)

    Args:
        mean: Mean m.
        log_deviation: log σ.
        prior_mean: Mean m₀.
        prior_log_deviation: log σ₀.

    Shape:
        - all broadcast with each other; sum over the axes of one example for a diagonal Gaussian

    Returns:
        Nats for each element, at least 0 up to rounding.

    Example:
        >>> gaussian_kl(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0]))
        tensor([0.0000, 0.5000])
    """
    ratio = log_deviation - prior_log_deviation
    shift = (mean - prior_mean) * torch.exp(-torch.as_tensor(prior_log_deviation))
    return 0.5 * (torch.expm1(2 * ratio) + shift.square()) - ratio


def gaussian_log_density(x: Tensor, mean: Tensor | float = 0.0, log_deviation: Tensor | float = 0.0) -> Tensor:
    """Compute the log-density of a Gaussian, by default of the standard normal.

    log N(x; m, σ²) = −½ ((x − m)/σ)² − log σ − ½ log 2π

    Args:
        x: Where.
        mean: Mean m.
        log_deviation: log σ.

    Shape:
        - all broadcast with each other

    Returns:
        Nats for each element.

    Example:
        >>> gaussian_log_density(torch.tensor(0.0))
        tensor(-0.9189)
    """
    standard = (x - mean) * torch.exp(-torch.as_tensor(log_deviation))
    return -0.5 * standard.square() - log_deviation - 0.5 * math.log(2 * math.pi)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """Compute the log-likelihood of zeros and ones under Bernoulli variables with given logits.

    log p(x) = x log σ(l) + (1 − x) log σ(−l)

    Args:
        x: Zeros and ones. A value between them, as a grey pixel, gives the expectation over x ~ Bernoulli(value); this
            is no likelihood of the grey value.
        logits: l.

    Shape:
        - both broadcast with each other

    Returns:
        Nats for each element.

    Example:
        >>> bernoulli_log_likelihood(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 100.0]))
        tensor([  -0.6931, -100.0000])
    """
    return F.logsigmoid(logits) - (1 - x.to(logits.dtype)) * logits


def discretized_logistic_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int = 256) -> Tensor:
    """Compute the log-probability of whole numbers under a logistic distribution, integrated over each number's bin.

    P(x) = F((x̃ + h − m)/s) − F((x̃ − h − m)/s), F(a) = 1/(1 + e^−a), x̃ = 2x/(L−1) − 1, h = 1/(L−1);
    the first bin reaches to −∞ and the last to ∞, so that the probabilities of the levels sum to one

    Args:
        x: Whole numbers from 0 to L − 1.
        mean: m, in units in which the levels run from −1 to 1.
        log_scale: log s, in the same units; the values and gradients are finite in float32 from −70 to 70.
        levels: L.

    Shape:
        - all broadcast with each other

    Returns:
        Nats for each element.

    Raises:
        ValueError: There are fewer than two levels.

    Note:
        PixelCNN++ writes the difference as it stands, and puts the density times the width where it rounds to zero.
        Here it is taken apart, F(a) − F(b) = F(a) F(−b) (1 − e^(b−a)), each factor of which has an exact logarithm.

    Example:
        >>> discretized_logistic_log_likelihood(torch.tensor([0, 1]), torch.zeros(2), torch.zeros(2), levels=2)
        tensor([-0.6931, -0.6931])

    Source:
        Kingma et al. 2016, arXiv 1606.04934; Salimans et al. 2017, arXiv 1701.05517, section 2.1.
    """
    if levels < 2:
        raise ValueError(f"discretized_logistic_log_likelihood: levels must be at least 2, got {levels}")
    half = 1 / (levels - 1)
    sharpness = torch.exp(-log_scale)
    distance = 2 * half * x.to(mean.dtype) - 1 - mean
    below = F.logsigmoid((distance + half) * sharpness)  # log F at the bin's upper end
    above = F.logsigmoid((half - distance) * sharpness)  # log (1 − F) at its lower end
    inside = below + above + torch.log(-torch.expm1(-2 * half * sharpness))
    return torch.where(x == 0, below, torch.where(x == levels - 1, above, inside))


def bits_per_dim(nats: Tensor | float, dimensions: int) -> Tensor | float:
    """Convert nats per example to bits per dimension: nats / (D log 2).

    Args:
        nats: Negative log-likelihood of one example, or a bound on it.
        dimensions: D, the numbers in one example: C · H · W for an image.

    Returns:
        Bits per dimension.

    Raises:
        ValueError: There is no dimension.

    Example:
        >>> bits_per_dim(8 * math.log(2), 4)
        2.0
    """
    if dimensions < 1:
        raise ValueError(f"bits_per_dim: dimensions must be at least 1, got {dimensions}")
    return nats / (dimensions * math.log(2))


SMALLEST = -7.0  # log-scale, as published: a scale of 0.12 of a bin of 256 levels
HALF = {torch.float16, torch.bfloat16}


def logistic_mixture_channels(channels: int, components: int) -> int:
    """Count the parameters of a pixel.

    P = K (1 + 2C + C(C − 1)/2): for each component a logit, a mean and a log-scale for each channel, and a coefficient
    for each pair of channels

    Args:
        channels: C, of the image.
        components: K, of the mixture.

    Returns:
        The channels that a layer must have whose output are the parameters.

    Raises:
        ValueError: There is no channel or no component.

    Example:
        >>> logistic_mixture_channels(1, 10), logistic_mixture_channels(3, 10)
        (30, 100)
    """
    if channels < 1 or components < 1:
        raise ValueError(
            "logistic_mixture_channels: channels and components must be at least 1, "
            f"got {channels} channels and {components} components"
        )
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


def logistic_mixture_log_likelihood(x: Tensor, parameters: Tensor, levels: int = 256) -> Tensor:
    """Compute the log-probability of pixels under a mixture of discretised logistics, all channels of one together.

    log P(x) = log Σ_k π_k Π_c P(x_c; m_kc + Σ_{d<c} tanh(a_kcd) x̃_d, s_kc), P of
    :func:`wnseq.distributions.discretized_logistic_log_likelihood`, x̃ = 2x/(L−1) − 1

    Args:
        x: Whole numbers from 0 to L − 1; not checked.
        parameters: Blocks of K channels, one for each component: the logits of π, the means m of channel 0, 1, …, the
            log-scales of channel 0, 1, … (no less than −7), the coefficients a of the pairs (1, 0), (2, 0), (2, 1), ….
            Means and scales are in units in which the levels run from −1 to 1. Half types are computed in float32.
        levels: L.

    Shape:
        - x: ``(N, C, *)``, with ``*`` such as ``H, W``
        - parameters: ``(N, P, *)``, with P from :func:`logistic_mixture_channels`; K follows from P
        - output: ``(N, *)``

    Returns:
        Nats for each pixel.

    Raises:
        ShapeError: P is no multiple of what a component takes, or x and the parameters are of different images.
        ValueError: There are fewer than two levels.

    Note:
        The published code puts the density where a bin's probability is small; here the logarithm is exact.

    Example:
        >>> x, parameters = torch.zeros(1, 3, 4, 4), torch.zeros(1, 100, 4, 4)
        >>> logistic_mixture_log_likelihood(x, parameters, levels=2).shape
        torch.Size([1, 4, 4])

    Source:
        Salimans et al. 2017, arXiv 1701.05517, sections 2.1 and 2.2, equation 3.
    """
    name = "logistic_mixture_log_likelihood"
    channels = x.shape[1] if x.ndim > 1 else 0
    blocks = _blocks(parameters, channels, levels, name)
    if x.shape[:1] + x.shape[2:] != parameters.shape[:1] + parameters.shape[2:]:
        raise ShapeError(
            f"{name}: x and parameters must agree but for their second axis, got {tuple(x.shape)} and "
            f"{tuple(parameters.shape)}"
        )
    x = x.unsqueeze(2)  # (N, C, 1, *)
    mean, log_scale, coefficients = _of_components(blocks[:, 1:], channels)  # (N, C, K, *)
    if channels > 1:
        centre = _centre(x, levels, mean.dtype)
        shifts = [(coefficients[:, _pairs(channel)] * centre[:, :channel]).sum(1) for channel in range(1, channels)]
        mean = torch.cat([mean[:, :1], mean[:, 1:] + torch.stack(shifts, 1)], 1)
    each = discretized_logistic_log_likelihood(x, mean, log_scale, levels).sum(1)  # (N, C, K, *) → (N, K, *)
    return (blocks[:, 0].log_softmax(1) + each).logsumexp(1)


@torch.no_grad()
def logistic_mixture_sample(parameters: Tensor, uniform: Tensor, channels: int, levels: int = 256) -> Tensor:
    """Draw pixels from a mixture of discretised logistics, from given noise.

    k by the inverse of its distribution function; then, channel by channel, the level nearest to
    m_kc + Σ_{d<c} tanh(a_kcd) x̃_d + s_kc log(u/(1 − u)), in units of levels

    Args:
        parameters: As :func:`logistic_mixture_log_likelihood` has them.
        uniform: Independent numbers from 0 to 1: the first chooses the component, the others are u of each channel.
        channels: C.
        levels: L.

    Shape:
        - parameters: ``(N, P, *)``: a whole image, ``(N, P, H, W)``, or one pixel of each, ``(N, P)``
        - uniform: ``(N, 1 + C, *)``
        - output: ``(N, C, *)``

    Returns:
        Whole numbers from 0 to L − 1, int64, with the probabilities of :func:`logistic_mixture_log_likelihood`.

    Raises:
        ShapeError: P is no multiple of what a component takes, or uniform is of another shape.
        ValueError: There are fewer than two levels, or no channel.

    Note:
        The published code rounds after all channels are drawn, so that a later channel follows an unrounded value of
        an earlier one, which is not what the likelihood scores. Here it follows the level drawn.

    Example:
        >>> parameters, uniform = torch.zeros(2, 100), torch.rand(2, 4)
        >>> logistic_mixture_sample(parameters, uniform, channels=3).shape
        torch.Size([2, 3])
    """
    name = "logistic_mixture_sample"
    blocks = _blocks(parameters, channels, levels, name)
    expected = (len(parameters), 1 + channels, *parameters.shape[2:])
    if uniform.shape != expected:
        raise ShapeError(
            f"{name}: uniform must have the shape {expected}, a number for the component and one for each of "
            f"{channels} channels, got {tuple(uniform.shape)}"
        )
    uniform = uniform.to(blocks.dtype)
    ends = blocks[:, 0].softmax(1).cumsum(1)[:, :-1]  # that of the last component is 1, whatever rounding says
    component = (uniform[:, :1] >= ends).sum(1, keepdim=True).unsqueeze(1)  # (N, 1, 1, *)
    place = component.expand(-1, blocks.shape[1] - 1, *component.shape[2:])
    mean, log_scale, coefficients = _of_components(blocks[:, 1:].gather(2, place).squeeze(2), channels)  # (N, C, *)
    value = mean + log_scale.exp() * uniform[:, 1:].logit()
    drawn: list[Tensor] = []
    for channel in range(channels):
        at = value[:, channel]
        if channel:
            before = _centre(torch.stack(drawn, 1), levels, at.dtype)
            at = at + (coefficients[:, _pairs(channel)] * before).sum(1)
        drawn.append(((at + 1) * (0.5 * (levels - 1))).round().clamp(0, levels - 1))
    return torch.stack(drawn, 1).long()


def _pairs(channel: int) -> slice:
    """Say where the coefficients of one channel stand: those of the channels before it take 0 + 1 + … places."""
    first = channel * (channel - 1) // 2
    return slice(first, first + channel)


def _centre(x: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) * (2 / (levels - 1)) - 1


def _blocks(parameters: Tensor, channels: int, levels: int, name: str) -> Tensor:
    """Check parameters and put the components on an axis of their own: ``(N, P/K, K, *)``."""
    if levels < 2:
        raise ValueError(f"{name}: levels must be at least 2, got {levels}")
    if channels < 1:
        raise ShapeError(f"{name}: images must have at least 1 channel, on their second axis, got {channels}")
    each = logistic_mixture_channels(channels, 1)
    given = parameters.shape[1] if parameters.ndim > 1 else 0
    if given < each or given % each:
        raise ShapeError(
            f"{name}: for images of {channels} channels the second axis of parameters must be a multiple of {each}, as "
            f"logistic_mixture_channels counts them, got {given} in {tuple(parameters.shape)}"
        )
    wide = parameters.float() if parameters.dtype in HALF else parameters
    return wide.view(len(wide), each, given // each, *wide.shape[2:])


def _of_components(blocks: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take apart what follows the logits, along the second axis: means, log-scales and coefficients."""
    mean, log_scale, coefficients = blocks[:, :channels], blocks[:, channels : 2 * channels], blocks[:, 2 * channels :]
    return mean, log_scale.clamp(min=SMALLEST), coefficients.tanh()
