"""The mixture of logistics: held against the equations in float64, against sums over all values, and its own draws."""

import itertools
import math

import pytest
import reference
import torch
from torch import Tensor

import wnseq
from wnseq.distributions import (
    discretized_logistic_log_likelihood,
    logistic_mixture_channels,
    logistic_mixture_log_likelihood,
    logistic_mixture_sample,
)


def draw(channels: int, components: int, *shape: int, number: int = 2, scale: float = 1.0) -> Tensor:
    size = logistic_mixture_channels(channels, components)
    return scale * torch.randn(number, size, *shape, dtype=torch.float64)


def every(channels: int, num_values: int) -> Tensor:
    """Every pixel there can be, ``(num_values ** channels, channels)``."""
    return torch.tensor(list(itertools.product(range(num_values), repeat=channels)))


def probabilities(parameters: Tensor, channels: int, num_values: int) -> Tensor:
    """Those of every pixel there can be, for the parameters ``(P,)`` of one pixel."""
    x = every(channels, num_values)
    return logistic_mixture_log_likelihood(x, parameters.expand(len(x), -1), num_values).exp()


@pytest.mark.parametrize("num_values", [2, 17, 256])
@pytest.mark.parametrize(("channels", "components"), [(1, 1), (1, 3), (2, 3), (3, 1), (3, 10)])
def test_it_is_what_the_equations_say(channels: int, components: int, num_values: int) -> None:
    parameters = draw(channels, components, 1, 3, scale=0.4)  # far in the tails the reference cancels
    x = torch.randint(num_values, (2, channels, 1, 3))
    values = logistic_mixture_log_likelihood(x, parameters, num_values)
    assert values.shape == (2, 1, 3)
    for n, i, j in itertools.product(range(2), range(1), range(3)):
        expected = reference.logistic_mixture(x[n, :, i, j], parameters[n, :, i, j], num_values)
        torch.testing.assert_close(values[n, i, j], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("channels", "num_values"), [(1, 2), (1, 17), (1, 256), (2, 16), (3, 4)])
def test_the_probabilities_of_all_values_sum_to_one(channels: int, num_values: int) -> None:
    for parameters in draw(channels, 5, number=4, scale=2):
        total = probabilities(parameters, channels, num_values).sum()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)
        total = probabilities(parameters.float(), channels, num_values).sum()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-5, atol=0)


def test_one_component_of_one_channel_is_the_discretised_logistic() -> None:
    parameters, x = draw(1, 1, number=256), torch.arange(256)
    _, mean, log_scale = parameters.unbind(1)
    expected = discretized_logistic_log_likelihood(x, mean, log_scale)
    torch.testing.assert_close(logistic_mixture_log_likelihood(x[:, None], parameters), expected)


def test_the_components_share_their_index_among_the_channels() -> None:
    low, high, narrow = -0.9, 0.9, -5.0
    blocks = torch.tensor([[0, 0], *[[low, high]] * 3, *[[narrow, narrow]] * 3, *[[0, 0]] * 3], dtype=torch.float64)
    alike, mixed = probabilities(blocks.flatten(), 3, 2)[[0, 1]]
    assert alike == pytest.approx(0.5) and mixed < 1e-10


def test_a_type_of_whole_numbers_does_not_matter() -> None:
    parameters, x = draw(3, 4, 2, 2).float(), torch.randint(256, (2, 3, 2, 2))
    expected = logistic_mixture_log_likelihood(x, parameters)
    for dtype in (torch.uint8, torch.float32, torch.float64):
        assert torch.equal(logistic_mixture_log_likelihood(x.to(dtype), parameters), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    parameters, x, uniform = draw(3, 4, 2, 2).to(dtype), torch.randint(256, (2, 3, 2, 2)), torch.rand(2, 4, 2, 2)
    assert torch.equal(
        logistic_mixture_log_likelihood(x, parameters), logistic_mixture_log_likelihood(x, parameters.float())
    )
    assert torch.equal(
        logistic_mixture_sample(parameters, uniform, 3), logistic_mixture_sample(parameters.float(), uniform, 3)
    )


@pytest.mark.parametrize("x", [0, 1, 128, 254, 255])
@pytest.mark.parametrize("log_scale", [-1000.0, -7.0, 0.0, 10.0, 60.0])
@pytest.mark.parametrize("mean", [-1e4, -1.0, 0.004, 1.0, 1e4])
def test_single_precision_holds_at_the_edges_at_any_scale_and_far_away(x: int, log_scale: float, mean: float) -> None:
    blocks = torch.tensor([[0.0, -50.0], *[[mean, -mean]] * 3, *[[log_scale, log_scale]] * 3, *[[100.0, -1.0]] * 3])
    pixel, values, slopes = torch.full((1, 3), x), [], []
    for dtype in (torch.float32, torch.float64):
        parameters = blocks.flatten().unsqueeze(0).to(dtype).requires_grad_()
        value = logistic_mixture_log_likelihood(pixel, parameters)
        values.append(value.detach().double())
        slopes.append(torch.autograd.grad(value.sum(), parameters)[0].double())
    assert values[0].isfinite().all() and slopes[0].isfinite().all()
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_gradients(channels: int) -> None:
    parameters = draw(channels, 3, 2).requires_grad_()
    x = torch.randint(16, (2, channels, 2))
    assert torch.autograd.gradcheck(lambda p: logistic_mixture_log_likelihood(x, p, 16), parameters)
    assert torch.autograd.gradgradcheck(lambda p: logistic_mixture_log_likelihood(x, p, 16), parameters)


@pytest.mark.parametrize(("channels", "num_values"), [(1, 17), (2, 5), (3, 4)])
def test_draws_are_as_frequent_as_they_are_probable(channels: int, num_values: int) -> None:
    number = 100_000
    for parameters in draw(channels, 3):
        expected = number * probabilities(parameters, channels, num_values)
        uniform = torch.rand(number, 1 + channels, dtype=torch.float64)
        drawn = logistic_mixture_sample(parameters.expand(number, -1), uniform, channels, num_values)
        places = (drawn * num_values ** torch.arange(channels - 1, -1, -1)).sum(1)
        counts = places.bincount(minlength=num_values**channels).double()
        common = expected >= 10
        rest, expected_rest = counts[~common].sum(), expected[~common].sum()
        statistic = ((counts - expected).square() / expected)[common].sum()
        degrees = int(common.sum()) - 1
        assert degrees >= 4
        assert statistic < degrees + 5 * math.sqrt(2 * degrees)  # five deviations
        assert abs(rest - expected_rest) <= 5 * math.sqrt(expected_rest) + 1


@pytest.mark.parametrize("num_values", [2, 256])
def test_evenly_spaced_noise_draws_each_value_by_its_share(num_values: int) -> None:
    number = 20_000
    even = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    for parameters in draw(1, 1, number=5):
        uniform = torch.stack([torch.zeros_like(even), even], 1)
        drawn = logistic_mixture_sample(parameters.expand(number, -1), uniform, 1, num_values)
        shares = drawn[:, 0].bincount(minlength=num_values).double() / number
        torch.testing.assert_close(shares, probabilities(parameters, 1, num_values), rtol=0, atol=1.01 / number)


def test_evenly_spaced_noise_draws_each_component_by_its_share() -> None:
    number, logits = 10_000, torch.tensor([-1.0, 2.0, -80.0, 1.0]).double()
    parameters = torch.stack([logits, torch.linspace(-1, 1, 4), torch.full((4,), -7.0)]).flatten().double()
    uniform = torch.stack([torch.linspace(0, 1, number), torch.full((number,), 0.5)], 1).double()
    drawn = logistic_mixture_sample(parameters.expand(number, -1), uniform, 1, 4)
    shares = drawn[:, 0].bincount(minlength=4).double() / number
    torch.testing.assert_close(shares, logits.softmax(0), rtol=0, atol=1.01 / number)


def test_a_later_channel_follows_the_value_drawn() -> None:
    blocks = torch.tensor([0.0, 0.3, 0.0, -7.0, -7.0, 100.0])  # the second channel's mean is what the first was
    drawn = logistic_mixture_sample(blocks.expand(1, -1), torch.full((1, 3), 0.5), 2, num_values=3)
    assert drawn.tolist() == [[1, 1]]  # 0.3 is drawn as the value 1, at 0, and not as 0.3, which is as near to 2
    blocks[1] = 0.6
    assert logistic_mixture_sample(blocks.expand(1, -1), torch.full((1, 3), 0.5), 2, num_values=3).tolist() == [[2, 2]]
    assert logistic_mixture_sample(blocks.expand(1, -1), torch.full((1, 3), 0.5), 2, num_values=4).tolist() == [[2, 2]]


def test_one_pixel_is_drawn_as_it_is_in_its_image() -> None:
    parameters, uniform = draw(3, 5, 2, 3), torch.rand(2, 4, 2, 3)
    whole = logistic_mixture_sample(parameters, uniform, 3)
    assert whole.shape == (2, 3, 2, 3) and whole.dtype == torch.int64
    for i, j in itertools.product(range(2), range(3)):
        pixel = logistic_mixture_sample(parameters[..., i, j], uniform[..., i, j], 3)
        assert torch.equal(pixel, whole[..., i, j])


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_ends_of_the_noise_draw_values_too(noise: float) -> None:
    drawn = logistic_mixture_sample(draw(3, 5).float(), torch.full((2, 4), noise), 3)
    assert (drawn == 255 * noise).all()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: logistic_mixture_channels(0, 5), ValueError, "at least 1, got 0 channels and 5 components"),
        (lambda: logistic_mixture_channels(3, 0), ValueError, "at least 1, got 3 channels and 0 components"),
        (
            lambda: logistic_mixture_log_likelihood(torch.zeros(1, 1), torch.zeros(1, 3), 1),
            ValueError,
            "logistic_mixture_log_likelihood: num_values must be at least 2, got 1",
        ),
        (
            lambda: logistic_mixture_log_likelihood(torch.zeros(4), torch.zeros(4, 3)),
            wnseq.ShapeError,
            "images must have at least 1 channel, on their second axis, got 0",
        ),
        (
            lambda: logistic_mixture_log_likelihood(torch.zeros(2, 3, 4, 4), torch.zeros(2, 30, 4, 5)),
            wnseq.ShapeError,
            r"must agree but for their second axis, got \(2, 3, 4, 4\) and \(2, 30, 4, 5\)",
        ),
        (
            lambda: logistic_mixture_log_likelihood(torch.zeros(2, 3, 4, 4), torch.zeros(2, 33, 4, 4)),
            wnseq.ShapeError,
            r"images of 3 channels the second axis of parameters must be a multiple of 10, .* got 33 in \(2, 33, 4, 4",
        ),
        (
            lambda: logistic_mixture_sample(torch.zeros(3), torch.zeros(3, 2), 1),
            wnseq.ShapeError,
            r"logistic_mixture_sample: .* must be a multiple of 3, .* got 0 in \(3,\)",
        ),
        (
            lambda: logistic_mixture_sample(torch.zeros(2, 100), torch.zeros(2, 3), 3),
            wnseq.ShapeError,
            r"uniform must have the shape \(2, 4\), a number for the component and one for each of 3 channels, got "
            r"\(2, 3\)",
        ),
        (lambda: logistic_mixture_sample(torch.zeros(2, 30), torch.zeros(2, 4), 3, 0), ValueError, "at least 2, got 0"),
        (lambda: logistic_mixture_sample(torch.zeros(2, 30), torch.zeros(2, 1), 0), ValueError, "at least 1 channel"),
    ],
)
def test_errors(call, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
