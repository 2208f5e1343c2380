"""Totals over batches and ranks, and the random numbers of examples."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wnseq.training.evaluation import EvaluationTotals, ExampleGenerators, ReturnTotals, evaluation_stage


def ranks(*others: dict[str, Any], rank: int = 0) -> Any:
    """A Trainer whose other ranks have accumulated these sums."""
    sums = [{name: torch.as_tensor(value).double() for name, value in other.items()} for other in others]

    def broadcast(value: Any, src: int) -> Any:
        return value if src == rank else sums[src - (src > rank)]

    size = len(others) + 1
    strategy = SimpleNamespace(broadcast=broadcast)
    return SimpleNamespace(world_size=size, global_rank=rank, interrupted=False, strategy=strategy)


def test_sums_are_exact_and_over_all_ranks() -> None:
    totals = EvaluationTotals()
    totals.add(nats=torch.tensor(2.0**24), images=2, kl=torch.tensor([1.0, 2.0]))
    totals.add(nats=torch.tensor(1.0), images=3, kl=torch.tensor([0.5, 0.5]))
    assert totals.reduce(ranks()) == {"nats": 2.0**24 + 1, "images": 5.0, "kl": [1.5, 2.5]}
    two = totals.reduce(ranks({"nats": 4.0, "images": 1, "kl": [1.0, 1.0]}))
    assert two == {"nats": 2.0**24 + 5, "images": 6.0, "kl": [2.5, 3.5]}


def test_a_rank_without_a_batch_counts_nothing() -> None:
    assert EvaluationTotals().reduce(ranks({"images": 3})) == {"images": 3.0}
    totals = EvaluationTotals()
    totals.add(images=2)
    assert totals.reduce(ranks({})) == {"images": 2.0}


def test_reset_forgets_an_interrupted_evaluation() -> None:
    totals = EvaluationTotals()
    totals.add(images=2, nats=1.0)
    totals.reset()
    totals.add(images=5)
    assert totals.reduce(ranks()) == {"images": 5.0}


def test_no_graph_is_kept() -> None:
    totals = EvaluationTotals()
    totals.add(nats=torch.ones(1, requires_grad=True).sum())
    assert totals.reduce(ranks()) == {"nats": 1.0}


def draws(batches: list[int], trainer: Any = None) -> list[float]:
    generators = ExampleGenerators()
    return [float(torch.rand(1, generator=each)) for number in batches for each in generators.take(number, trainer)]


def test_an_example_draws_the_same_in_batches_of_any_size() -> None:
    assert draws([5, 1]) == draws([2, 2, 2]) == draws([6])
    assert len(set(draws([6]))) == 6
    generators = ExampleGenerators()
    first = [each.initial_seed() for each in generators.take(2)]
    assert [each.initial_seed() for each in generators.take(2)] != first
    generators.reset()
    assert [each.initial_seed() for each in generators.take(2)] == first


def test_two_ranks_draw_what_one_draws_where_they_share_each_batch() -> None:
    two = [draws([2, 2], ranks({}, rank=rank)) for rank in range(2)]
    assert [value for pair in zip(*two, strict=True) for value in pair] == draws([8])


@pytest.mark.parametrize(("testing", "stage"), [(True, "test"), (False, "val")])
def test_the_stage_names_the_metrics(testing: bool, stage: str) -> None:
    assert evaluation_stage(SimpleNamespace(testing=testing)) == stage  # type: ignore[arg-type]


def test_returns_of_episodes_are_metrics_of_the_stage() -> None:
    totals, draw = ReturnTotals(), np.random.default_rng(0)
    returns, steps = draw.normal(100, 1, 50), draw.integers(1, 9, 50)
    for part in (slice(0, 20), slice(20, 50)):
        totals.add_episodes(returns[part], steps[part])
    trainer = ranks()
    trainer.testing = True
    names = ("test/mean_return", "test/return_deviation", "test/mean_steps")
    expected = dict(zip(names, (returns.mean(), returns.std(), steps.mean()), strict=True))
    assert totals.metrics(trainer) == pytest.approx(expected)
    totals.reset()
    totals.add_episodes(np.full(3, 0.1), np.ones(3))  # rounding would make the variance negative
    assert totals.metrics(trainer)["test/return_deviation"] == pytest.approx(0.0, abs=1e-8)
