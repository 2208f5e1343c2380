"""What a generative model's bound is made of: log-densities and divergences, element by element, and bits per dim."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "bernoulli_log_likelihood",
    "bits_per_dim",
    "discretized_logistic_log_likelihood",
    "gaussian_kl",
    "gaussian_log_density",
]


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
