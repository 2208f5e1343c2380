"""The discretised mixture of logistics by which PixelCNN++ scores and draws a pixel, its channels jointly."""

import torch
from torch import Tensor

from wnseq.likelihood import discretized_logistic_log_likelihood
from wnseq.weight_norm import ShapeError

__all__ = ["logistic_mixture_channels", "logistic_mixture_log_likelihood", "logistic_mixture_sample"]

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
    :func:`wnseq.likelihood.discretized_logistic_log_likelihood`, x̃ = 2x/(L−1) − 1

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
