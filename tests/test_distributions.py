"""Likelihoods: held against the equations in float64, torch.distributions, and the limits of float32."""

import math

import pytest
import reference
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Bernoulli, Normal, SigmoidTransform, TransformedDistribution, Uniform
from torch.distributions import kl_divergence as torch_kl

from wnseq.distributions import (
    bernoulli_log_likelihood,
    bits_per_dim,
    discretized_logistic_log_likelihood,
    gaussian_kl,
    gaussian_log_density,
)


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64)


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_the_divergence_of_two_gaussians() -> None:
    m, a, m0, a0 = draw(4, 20)
    close(gaussian_kl(m, a, m0, a0), reference.gaussian_kl(m, a, m0, a0))
    close(gaussian_kl(m, a, m0, a0), torch_kl(Normal(m, a.exp()), Normal(m0, a0.exp())))
    zero = torch.zeros_like(m)
    close(gaussian_kl(m, a), reference.gaussian_kl(m, a, zero, zero))
    close(gaussian_kl(m, a), torch_kl(Normal(m, a.exp()), Normal(zero, zero.exp())))


def test_a_small_divergence_is_not_lost_in_rounding() -> None:
    a = torch.full((1,), 1e-3)
    torch.testing.assert_close(gaussian_kl(torch.zeros(1), a), torch.full((1,), 1e-6), rtol=1e-3, atol=0)


def test_the_density_of_a_gaussian() -> None:
    x, m, a = draw(3, 20, scale=0.5)
    close(gaussian_log_density(x, m, a), reference.gaussian_log_density(x, m, a))
    close(gaussian_log_density(x, m, a), Normal(m, a.exp()).log_prob(x))
    close(gaussian_log_density(x), Normal(0.0, 1.0).log_prob(x))


def test_zeros_and_ones() -> None:
    logits, x = draw(3, 20, scale=3), (draw(20) > 0).double()
    close(bernoulli_log_likelihood(x, logits), reference.bernoulli_log_likelihood(x, logits))
    close(bernoulli_log_likelihood(x, logits), Bernoulli(logits=logits).log_prob(x.expand_as(logits)))


@pytest.mark.parametrize("num_values", [2, 17, 256])
def test_whole_numbers_under_a_logistic_distribution(num_values: int) -> None:
    for mean, log_scale in draw(8, 2):
        every_value = torch.arange(num_values)
        values = discretized_logistic_log_likelihood(every_value, mean, log_scale, num_values)
        probabilities = reference.discretized_logistic(mean, log_scale, num_values)
        torch.testing.assert_close(values.exp(), probabilities, rtol=1e-10, atol=1e-14)
        close(values.exp().sum(), torch.ones_like(mean))


def test_whole_numbers_as_torch_has_them() -> None:
    mean, log_scale = draw(2, 50, scale=0.5)
    logistic = TransformedDistribution(
        Uniform(torch.zeros(50).double(), torch.ones(50).double()),
        [SigmoidTransform().inv, AffineTransform(mean, log_scale.exp())],
    )
    x = torch.randint(1, 255, (50,))
    centre, half = 2 * x.double() / 255 - 1, 1 / 255
    expected = logistic.cdf(centre + half) - logistic.cdf(centre - half)
    torch.testing.assert_close(discretized_logistic_log_likelihood(x, mean, log_scale).exp(), expected)


@pytest.mark.parametrize("log_scale", [-70.0, -20.0, -7.0, 0.0, 20.0, 70.0])
def test_single_precision_holds_at_the_edges_and_at_any_scale(log_scale: float) -> None:
    x = torch.tensor([0, 0, 1, 128, 254, 255, 255])
    mean = torch.tensor([-3.0, 3.0, -0.5, 0.004, 0.99, 1.0, -1.0])
    values, slopes = [], []
    for dtype in (torch.float32, torch.float64):
        inputs = mean.to(dtype).requires_grad_(), torch.full_like(mean, log_scale, dtype=dtype).requires_grad_()
        value = discretized_logistic_log_likelihood(x, *inputs)
        values.append(value.detach().double())
        slopes.append([slope.double() for slope in torch.autograd.grad(value.sum(), inputs)])
    assert values[0].isfinite().all() and all(slope.isfinite().all() for slope in slopes[0])
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-4)
    for single, double in zip(*slopes, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3)


def test_gradients() -> None:
    m, a, m0, a0 = (value.requires_grad_() for value in draw(4, 5))
    x, numbers = (draw(5) > 0).double(), torch.tensor([0, 1, 7, 14, 15])
    assert torch.autograd.gradcheck(gaussian_kl, (m, a, m0, a0))
    assert torch.autograd.gradcheck(gaussian_log_density, (m, m0, a))
    assert torch.autograd.gradcheck(lambda logits: bernoulli_log_likelihood(x, logits), m)
    assert torch.autograd.gradcheck(lambda m, a: discretized_logistic_log_likelihood(numbers, m, a, 16), (m, a))


def test_bits_per_dim() -> None:
    assert bits_per_dim(784 * math.log(2), 784) == pytest.approx(1)
    close(bits_per_dim(draw(3) * 0 + math.log(256), 1), torch.full((3,), 8.0, dtype=torch.float64))


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_values must be at least 2, got 1"):
        discretized_logistic_log_likelihood(torch.zeros(1), torch.zeros(1), torch.zeros(1), 1)
    with pytest.raises(ValueError, match="dimensions must be at least 1, got 0"):
        bits_per_dim(1.0, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_of_a_discretized_logistic_sum_to_one(dtype: torch.dtype) -> None:
    mean, log_scale = torch.linspace(-0.9, 0.9, 7).to(dtype), torch.tensor(-6.0, dtype=dtype)
    each = discretized_logistic_log_likelihood(torch.arange(256).unsqueeze(1), mean, log_scale)
    assert each.dtype == torch.float32
    torch.testing.assert_close(each.exp().sum(0), torch.ones(7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_have_the_values_of_float32(dtype: torch.dtype) -> None:
    x, mean, log_std = (value.to(dtype) for value in draw(3, 200, scale=0.5))
    zeros_and_ones = (x > 0).to(dtype)
    for compute, arguments in (
        (gaussian_kl, (mean, log_std)),
        (gaussian_kl, (mean, log_std, x, mean)),
        (gaussian_log_density, (x, mean, log_std)),
        (bernoulli_log_likelihood, (zeros_and_ones, mean)),
    ):
        assert torch.equal(compute(*arguments), compute(*(value.float() for value in arguments)))
