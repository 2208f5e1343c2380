"""A language model that adapts while it is evaluated, against loops in float64, and what it says of its choice."""

import copy
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import wnseq
from wnseq.adaptation import ContinuousCache, gradient_rms
from wnseq.training.adaptation import AdaptedModel, Evaluation, _best, _descend, adapted_model

VOCABULARY, STREAMS, HIDDEN, LENGTH = 7, 3, 4, 18


class Model(nn.Module):
    def __init__(self, recurrent: type[nn.Module] = wnseq.WNLSTM) -> None:
        super().__init__()
        self.encoder, self.rnn = nn.Embedding(VOCABULARY, HIDDEN), recurrent(HIDDEN, HIDDEN)
        self.decoder = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        hidden, state = self.rnn(self.encoder(tokens), state)
        return self.decoder(hidden), state


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().double().eval()


def text() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCABULARY, (LENGTH + 1, STREAMS), generator=torch.Generator().manual_seed(0))
    targets = tokens[1:].clone()
    targets[-1, 1:] = -100
    return tokens[:-1], targets


def rms(model: nn.Module) -> dict[str, Tensor]:
    inputs, targets = text()
    return gradient_rms(model, [cross_entropy(model(inputs)[0].flatten(0, 1), targets.flatten())])


def expected(model: nn.Module, how: Evaluation, segment: int) -> float:
    """Read the text segment by segment; the cache over all hidden states, the steps on a copy of the model."""
    twin, scale = copy.deepcopy(model), rms(model)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    mean = torch.cat([value.flatten() for value in scale.values()]).mean()
    state, hidden, nats = None, [], []
    for x, y in zip(*(part.split(segment) for part in text()), strict=True):
        h, state = twin.rnn(twin.encoder(x), state)
        state = tuple(part.detach() for part in state)
        costs = cross_entropy(twin.decoder(h).flatten(0, 1), y.flatten(), reduction="none").view_as(y)
        hidden.append(h.detach())
        nats.append(costs.detach())
        if how.dynamic_rate:
            twin.zero_grad()
            (costs.sum() / (y >= 0).sum()).backward()
            with torch.no_grad():
                for name, value in twin.named_parameters():
                    pull = (how.dynamic_decay * scale[name] / mean).clamp(max=1)
                    step = how.dynamic_rate * value.grad / (scale[name] + how.dynamic_epsilon * mean)
                    value += pull * (start[name] - value) - step
    costs = torch.cat(nats)
    if how.cache_window:
        cache = ContinuousCache(how.cache_window, how.cache_theta, how.cache_lambda)
        costs = cache.nats(torch.cat(hidden), text()[1], costs)
    return float(costs.sum())


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        Evaluation(cache_window=4, cache_theta=0.7, cache_lambda=0.4),
        Evaluation(dynamic_rate=0.05, dynamic_decay=0.05, dynamic_bptt=3),
        Evaluation(cache_window=4, cache_theta=0.7, cache_lambda=0.4, dynamic_rate=0.05, dynamic_bptt=3),
    ],
    ids=["cache", "dynamic", "both"],
)
def test_a_text_read_in_batches_is_read_as_in_the_equations(model: Model, how: Evaluation, inference: bool) -> None:
    before = copy.deepcopy(model.state_dict())
    adapted = AdaptedModel(model, model.rnn, how, rms(model))
    wanted, static = expected(model, how, 3), expected(model, Evaluation(), LENGTH)
    with torch.inference_mode(inference):
        for _ in range(2):  # without a state a new text begins
            total, state = 0.0, None
            for x, y in zip(*(part.split(6) for part in text()), strict=True):
                nats, state = adapted.nats(x.clone(), y.clone(), state)
                total += nats.item()
            assert total == pytest.approx(wanted, rel=1e-12)
    assert total != pytest.approx(static, rel=1e-3)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_interrupted_evaluation_leaves_the_trained_weights(model: Model) -> None:
    before, scale = copy.deepcopy(model.state_dict()), rms(model)
    adapted = AdaptedModel(model, model.rnn, Evaluation(cache_window=4, dynamic_rate=0.1, dynamic_bptt=3), scale)
    calls = []

    def stop(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    handle = model.decoder.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        adapted.nats(*text(), None)
    handle.remove()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not model.rnn._forward_hooks
    assert adapted.dynamic and not torch.equal(adapted.dynamic.weights["decoder.bias"], model.decoder.bias)


def test_a_grid_costs_what_each_of_its_caches_costs(model: Model) -> None:
    how = Evaluation(cache_window=4, dynamic_rate=0.05, dynamic_bptt=3)
    grid = (0.5, 2.0), (0.1, 0.2, 0.4)
    nats, _ = AdaptedModel(model, model.rnn, how, rms(model), grid).nats(*text(), None)
    single = [replace(how, cache_theta=theta, cache_lambda=share) for theta, share in itertools.product(*grid)]
    assert nats.tolist() == pytest.approx([expected(model, each, 3) for each in single], rel=1e-12)


def test_a_gru_is_read_too() -> None:
    torch.manual_seed(0)
    model = Model(wnseq.WNGRU).eval()
    how = Evaluation(cache_window=4, dynamic_rate=0.05)
    nats, state = AdaptedModel(model, model.rnn, how, rms(model)).nats(*text(), None)
    assert nats.isfinite() and isinstance(state, Tensor)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"cache_window": -1}, "evaluation.cache_window must be at least 0, got -1"),
        ({"cache_lambda": 1.0}, "evaluation.cache_lambda must be greater than 0 and less than 1, got 1"),
        ({"dynamic_bptt": 0}, "evaluation.dynamic_bptt must be at least 1, got 0"),
        ({"dynamic_epsilon": 0.0}, "evaluation.dynamic_epsilon must be greater than 0, got 0"),
        ({"cache_lambda": 0.2}, "evaluation.cache_lambda does nothing without evaluation.cache_window: set it, too"),
        ({"cache_window": 4, "rms_batches": 3}, "evaluation.rms_batches does nothing without evaluation.dynamic_rate"),
        ({"tune": True}, "evaluation.tune needs something to choose: set evaluation.cache_window or dynamic_rate"),
    ],
)
def test_bad_options_are_refused(how: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Evaluation(**how)


def test_what_cannot_be_adapted_says_why(model: Model) -> None:
    def prepare(how: Evaluation, **trainer: Any) -> AdaptedModel:
        trainer = {"world_size": 1, "testing": True, "datamodule": None, **trainer}
        lightning: Any = SimpleNamespace(trainer=SimpleNamespace(**trainer))
        return adapted_model(lightning, model, model.rnn, how)

    with pytest.raises(ValueError, match=r"adapts the weights of one process, got 2: --trainer\.devices 1"):
        prepare(Evaluation(dynamic_rate=0.1), world_size=2)
    with pytest.raises(ValueError, match="for a test: use the command test"):
        prepare(Evaluation(cache_window=4, tune=True), testing=False)
    for how in (Evaluation(dynamic_rate=0.1), Evaluation(cache_window=4, tune=True)):
        with pytest.raises(ValueError, match="give the Trainer a TextDataModule instead of loaders"):
            prepare(how)
    with pytest.raises(ValueError, match="needs the scale of the gradients on training data: use the command test"):
        AdaptedModel(model, model.rnn, Evaluation(dynamic_rate=0.1))


@pytest.mark.parametrize(
    "least, tried",
    [
        (1.0, [1.0, 0.5, 2.0]),
        (0.25, [1.0, 0.5, 0.25, 0.125]),  # on beyond the neighbour, and not to the other side
        (4.0, [1.0, 0.5, 2.0, 4.0, 8.0]),
    ],
)
def test_a_rate_is_halved_or_doubled_to_the_least_cost(least: float, tried: list[float]) -> None:
    def cost(how: Evaluation) -> float:
        return abs(math.log2(how.dynamic_rate / least))

    start = Evaluation(dynamic_rate=1.0, dynamic_decay=0.5)
    measured = _descend(cost, start, "dynamic_rate", None)
    assert measured == [(how, cost(how)) for how in (replace(start, dynamic_rate=rate) for rate in tried)]


def test_a_choice_ends_where_it_saves_nothing_or_diverges() -> None:
    asked = []

    def cost(how: Evaluation) -> float:
        asked.append(how.dynamic_decay)
        return {0.5: 2 - 9e-4, 2.0: math.nan}[how.dynamic_decay]

    start = Evaluation(dynamic_rate=0.1, dynamic_decay=1.0)
    measured = _descend(cost, start, "dynamic_decay", 2.0)
    assert asked == [0.5, 2.0] and [value for _, value in measured[:2]] == [2.0, 2 - 9e-4]
    how, least = _best(SimpleNamespace(print=print), measured)  # type: ignore[arg-type]
    assert (how.dynamic_decay, least) == (0.5, 2 - 9e-4)
