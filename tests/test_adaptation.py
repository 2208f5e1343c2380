"""The continuous cache and dynamic evaluation against loops in float64, written from the equations."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import wnseq
from wnseq.adaptation import ContinuousCache, DynamicEvaluation, gradient_rms

VOCABULARY, STREAMS, HIDDEN = 7, 3, 4


class Model(nn.Module):
    """A language model with a softmax that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(VOCABULARY, HIDDEN)
        self.rnn = wnseq.WNLSTM(HIDDEN, HIDDEN)
        self.decoder = nn.Linear(HIDDEN, VOCABULARY)
        self.decoder.weight = self.encoder.weight

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, state = self.rnn(self.encoder(tokens), state)
        return self.decoder(hidden), state


def text(length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCABULARY, (length + 1, STREAMS), generator=torch.Generator().manual_seed(seed))
    return tokens[:-1], tokens[1:]


def with_cache(hidden: Tensor, targets: Tensor, nats: Tensor, window: int, theta: float, share: float) -> Tensor:
    """One probability after the other, from the sum over the positions before it."""
    costs = nats.clone()
    for n in range(targets.shape[1]):
        for t in range(len(targets)):
            weights = [0.0] * VOCABULARY
            for i in range(max(0, t - window), t):
                if targets[i, n] >= 0:
                    weights[int(targets[i, n])] += math.exp(theta * float(hidden[t, n] @ hidden[i, n]))
            if sum(weights) and targets[t, n] >= 0:
                cached = weights[int(targets[t, n])] / sum(weights)
                costs[t, n] = -math.log((1 - share) * math.exp(-nats[t, n].item()) + share * cached)
    return costs


@pytest.mark.parametrize(("window", "pieces"), [(4, [11]), (4, [1, 2, 8]), (4, [5, 6]), (50, [3, 8]), (1, [4, 7])])
def test_the_cache_is_the_sum_of_its_equation_however_the_text_is_cut(window: int, pieces: list[int]) -> None:
    torch.manual_seed(0)
    hidden, nats = torch.randn(11, STREAMS, HIDDEN).double(), torch.rand(11, STREAMS).double() + 0.1
    targets = text(11)[1]
    targets[3, 1] = targets[-1] = targets[0, 2] = -100
    expected = with_cache(hidden, targets, nats, window, 0.7, 0.3)
    cache = ContinuousCache(window, 0.7, 0.3)
    for _ in range(2):  # a reset forgets all
        cache.reset()
        parts = [part.split(pieces) for part in (hidden, targets, nats)]
        found = torch.cat([cache.nats(*part) for part in zip(*parts, strict=True)])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_several_shares_are_tried_at_once() -> None:
    hidden, targets, nats = torch.randn(7, STREAMS, HIDDEN), text(7)[1], torch.rand(7, STREAMS)
    several, shares = ContinuousCache(3, 0.7, 0.5), (0.1, 0.3, 0.6)
    found = torch.cat(
        [several.nats(*part, shares) for part in zip(*(x.split(4) for x in (hidden, targets, nats)), strict=True)], 1
    )
    expected = [ContinuousCache(3, 0.7, share).nats(hidden, targets, nats) for share in shares]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_sharpest_cache_is_that_of_the_nearest_position() -> None:
    hidden = torch.tensor([1.0, 2.0, -3.0, 1.5]).view(4, 1, 1)
    nats = ContinuousCache(9, 3e38, 0.5).nats(hidden, torch.tensor([[3], [5], [6], [5]]), torch.full((4, 1), 1.0))
    expected = [0.0, 0.0, 0.0, 0.5]  # after 1.5, the largest product is with 2.0, which 5 followed
    torch.testing.assert_close(nats[1:, 0].neg().exp(), 0.5 * math.exp(-1) + torch.tensor(expected[1:]))


def test_all_probabilities_of_the_mixture_are_those_of_each_target() -> None:
    torch.manual_seed(0)
    hidden, targets = torch.randn(6, STREAMS, HIDDEN).double(), text(6)[1]
    targets[1, 0] = -100
    probabilities = torch.rand(STREAMS, VOCABULARY).double().softmax(1)
    drawing, asked = ContinuousCache(3, 0.7, 0.3), ContinuousCache(3, 0.7, 0.3)
    assert drawing.mix(probabilities) is probabilities
    tokens = torch.cat([torch.zeros_like(targets[:1]), targets[:5]])  # the token before each hidden state
    drawing.read(tokens[:1], hidden[:1])
    torch.testing.assert_close(drawing.mix(probabilities), probabilities)  # empty: nothing has followed yet
    drawing.read(tokens[1:4], hidden[1:4])
    for t in (4, 5):
        drawing.read(tokens[t : t + 1], hidden[t : t + 1])
    mixed = drawing.mix(probabilities)
    torch.testing.assert_close(mixed.sum(1), torch.ones(STREAMS).double(), rtol=1e-12, atol=0)
    nats = asked.nats(hidden, targets, -probabilities.log().gather(1, targets.t().clamp_min(0)).t())
    torch.testing.assert_close(nats[5].neg().exp(), mixed.gather(1, targets[5:].t())[:, 0], rtol=1e-12, atol=0)


def test_autocast_does_not_round_the_scores() -> None:
    hidden, targets, nats = 20 * torch.randn(9, STREAMS, HIDDEN), text(9)[1], torch.rand(9, STREAMS)
    expected = ContinuousCache(5, 1.0, 0.5).nats(hidden, targets, nats)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ContinuousCache(5, 1.0, 0.5).nats(hidden, targets, nats), expected)


@pytest.mark.parametrize("values", [(0, 1.0, 0.5), (1, -1.0, 0.5), (1, math.inf, 0.5), (1, 1.0, 0.0), (1, 1.0, 1.0)])
def test_a_bad_cache_is_refused(values: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="window must be at least 1, theta finite and at least 0, and weight between"):
        ContinuousCache(*values)


def test_other_streams_need_a_reset() -> None:
    cache = ContinuousCache(5, 1.0, 0.5)
    cache.nats(torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3))
    with pytest.raises(ValueError, match="holds 3 streams of 4 features, got 2 of 4; call reset"):
        cache.nats(torch.randn(2, 2, 4), torch.zeros(2, 2, dtype=torch.long), torch.ones(2, 2))
    cache.reset()
    cache.read(torch.zeros(2, 3, dtype=torch.long), torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match="holds 3 streams of 4 features, got 2 of 4; call reset"):
        cache.read(torch.zeros(2, 2, dtype=torch.long), torch.randn(2, 2, 4))


def losses(model: nn.Module, inputs: Tensor, targets: Tensor, length: int) -> list[Tensor]:
    state, found = None, []
    for x, y in zip(inputs.split(length), targets.split(length), strict=True):
        logits, state = model(x, state)
        state = (state[0].detach(), state[1].detach())
        found.append(cross_entropy(logits.flatten(0, 1), y.flatten()))
    return found


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().double().eval()


def plain_rms(model: nn.Module) -> dict[str, Tensor]:
    squares = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for loss in losses(model, *text(20, seed=1), 4):
        model.zero_grad()
        loss.backward()
        for name, value in model.named_parameters():
            squares[name] += value.grad**2 / 5
    return {name: value.sqrt() for name, value in squares.items()}


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.9])
def test_dynamic_evaluation_is_its_equation(model: Model, decay: float) -> None:
    """By a copy of the model whose weights are changed one entry after the other; in the largest decay R is clipped."""
    rms = gradient_rms(model, iter(losses(model, *text(20, seed=1), 4)))
    torch.testing.assert_close(rms, plain_rms(model), rtol=1e-12, atol=0)
    start = copy.deepcopy(model.state_dict())
    twin = copy.deepcopy(model)
    entries = torch.cat([value.flatten() for value in rms.values()])
    clipped, state, expected = 0, None, []
    for x, y in zip(*(part.split(3) for part in text(9)), strict=True):
        twin.zero_grad()
        logits, state = twin(x, state)
        loss = cross_entropy(logits.flatten(0, 1), y.flatten())
        state = (state[0].detach(), state[1].detach())
        loss.backward()
        expected.append(loss.item())
        with torch.no_grad():
            for name, value in twin.named_parameters():
                flat, gradient = value.view(-1), value.grad.view(-1)
                for k in range(len(flat)):
                    root = float(rms[name].view(-1)[k])
                    pull = decay * root / float(entries.mean())
                    clipped += pull > 1
                    towards = float(start[name].view(-1)[k]) - float(flat[k])
                    flat[k] += (
                        -0.02 * float(gradient[k]) / (root + 0.5 * float(entries.mean())) + min(pull, 1) * towards
                    )
    assert (clipped > 0) == (decay == 0.9)
    adapted = DynamicEvaluation(model, rms, rate=0.02, decay=decay, epsilon=0.5)
    for _ in range(2):  # a reset forgets all
        adapted.reset()
        state, found = None, []
        for x, y in zip(*(part.split(3) for part in text(9)), strict=True):
            logits, state = adapted(x, state)
            state = (state[0].detach(), state[1].detach())
            loss = cross_entropy(logits.flatten(0, 1), y.flatten())
            adapted.update(loss)
            found.append(loss.item())
        assert found == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(adapted.weights, dict(twin.named_parameters()), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(model.state_dict(), start, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_scale_of_many_small_gradients_is_exact_in_half_types(dtype: torch.dtype) -> None:
    module = nn.Linear(2, 1).to(dtype)
    inputs = torch.rand(600, 1, 2).to(dtype)
    found = gradient_rms(module, (module(x).sum() for x in inputs))
    exact = inputs.double().square().mean(0).sqrt()
    torch.testing.assert_close(found["weight"].double(), exact, rtol=1e-5, atol=0)
    adapted = DynamicEvaluation(module, found, rate=0.1, decay=0.1)
    adapted.update(adapted(inputs[0]).sum())
    assert adapted.weights["weight"].dtype == dtype and not torch.equal(adapted.weights["weight"], module.weight)


def test_a_step_inside_autocast_counts_at_once(model: Model) -> None:
    """Autocast keeps the bfloat16 copies of weights until its end: a step in between must be seen by the next call."""
    model.float()
    rms = gradient_rms(model, losses(model, *text(20), 4))
    x, y = text(4)
    found = []
    for together in (True, False):
        adapted, costs = DynamicEvaluation(model, rms, rate=0.1, decay=0.0), []

        def step(adapted: DynamicEvaluation = adapted, costs: list[float] = costs) -> None:
            loss = cross_entropy(adapted(x)[0].flatten(0, 1).float(), y.flatten())
            adapted.update(loss)
            costs.append(loss.item())

        with torch.autocast("cpu", torch.bfloat16, enabled=together):
            for _ in range(3):
                with torch.autocast("cpu", torch.bfloat16):
                    step()
        found.append(costs)
    assert found[0] == found[1] and len(set(found[0])) == 3


def test_sparse_gradients_count_as_dense_ones() -> None:
    dense = nn.Embedding(4, 3)
    sparse = nn.Embedding(4, 3, sparse=True, _weight=dense.weight.detach().clone())
    results = []
    for module in (dense, sparse):
        rms = gradient_rms(module, (module(torch.tensor([k, 1])).square().sum() for k in range(3)))
        adapted = DynamicEvaluation(module, rms, rate=0.1, decay=0.1)
        adapted.update(adapted(torch.tensor([2])).square().sum())
        results.append((rms["weight"], adapted.weights["weight"].detach()))
    torch.testing.assert_close(results[1], results[0])
    assert not torch.equal(results[0][1], dense.weight)


def test_what_is_frozen_is_not_adapted(model: Model) -> None:
    model.encoder.weight.requires_grad_(False)
    rms = gradient_rms(model, losses(model, *text(20), 4))
    assert "encoder.weight" not in rms and "decoder.bias" in rms
    assert rms.keys() == DynamicEvaluation(model, rms, 0.1, 0.1).weights.keys()


def test_what_cannot_be_adapted_says_why(model: Model) -> None:
    rms = gradient_rms(model, losses(model, *text(20), 4))
    with pytest.raises(ValueError, match="rate must be finite and at least 0, got -1"):
        DynamicEvaluation(model, rms, -1, 0.0)
    with pytest.raises(ValueError, match="epsilon must be finite and greater than 0, got 0"):
        DynamicEvaluation(model, rms, 1, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"one entry for each parameter, and decoder\.bias is not in both; measure it"):
        DynamicEvaluation(model, {name: value for name, value in rms.items() if name != "decoder.bias"}, 1, 0.0)
    with pytest.raises(ValueError, match="rms must have an entry greater than 0"):
        DynamicEvaluation(model, {name: torch.zeros_like(value) for name, value in rms.items()}, 1, 0.0)
    with pytest.raises(ValueError, match="must have at least one loss of training data, got none"):
        gradient_rms(model, [])
    with pytest.raises(RuntimeError, match=r"does not require grad.*torch\.inference_mode\(False\)"):
        DynamicEvaluation(model, rms, 1, 0.0).update(torch.tensor(1.0))
