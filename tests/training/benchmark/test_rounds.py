"""Times taken in turn: what is run how often, the statistics, and the check of what is computed."""

import time

import pytest
import torch

from wnseq.training import benchmark


def test_each_variant_is_run_once_a_round_in_changing_order() -> None:
    seen: list[str] = []

    def call(name: str, seconds: float) -> benchmark.TimedCall:
        return lambda: (seen.append(name), (seconds, 2 * seconds))[1]

    times = benchmark.time_rounds({"a": call("a", 1.0), "b": call("b", 3.0)}, pairs=20, least=0)
    assert times == {"a": [(1.0, 2.0)] * 20, "b": [(3.0, 6.0)] * 20}
    rounds = [tuple(seen[k : k + 2]) for k in range(len(seen) - 40, len(seen), 2)]
    assert set(rounds) == {("a", "b"), ("b", "a")}


def test_what_is_over_soon_is_run_more_often() -> None:
    calls = {"a": lambda: (0.001,), "b": lambda: (next(seconds_of_b),)}
    seconds_of_b = iter([0.0] * 3 + [1.0, 2.0, 3.0] * 2)  # three to warm up
    assert benchmark.time_rounds(calls, pairs=2, least=0.003) == {"a": [(0.001,)] * 2, "b": [(2.0,)] * 2}


def test_medians_and_quartiles_are_of_times_and_of_ratios_within_a_round() -> None:
    times = {"a": [(1.0, 1.0), (2.0, 1.0), (4.0, 1.0)], "b": [(2.0, 1.0), (2.0, 2.0), (2.0, 3.0)]}
    a_up, b_up, a_down, b_down = benchmark.summarise(times, ("up", "down"))
    assert (a_up["ms"], a_up["ms_lower"], a_up["ms_upper"], a_up["ratio"]) == (2000, 1500, 3000, 1)
    assert (b_up["ratio_lower"], b_up["ratio"], b_up["ratio_upper"]) == (0.75, 1.0, 1.5)
    assert (b_down["variant"], b_down["phase"], b_down["pairs"], b_down["ratio"]) == ("b", "down", 3, 2)
    assert a_down["ms"] == 1000


def check(output: float) -> float:
    found, expected = {"output": torch.tensor([1.0, output]), "more": torch.ones(1)}, torch.tensor([1.0, -4.0])
    return benchmark.check_same("b", found, {"more": torch.ones(1), "output": expected}, baseline="a", tolerance=0.1)


def test_a_variant_that_computes_something_else_is_named() -> None:
    assert check(-4.2) == pytest.approx(0.05)
    with pytest.raises(
        ValueError, match=r"b computes something else than a: its output is off by 0\.15 of the largest"
    ):
        check(-4.6)
    with pytest.raises(ValueError, match=r"off by nan of the largest value, and rounding explains at most 0\.1"):
        check(torch.nan)


def test_a_call_is_timed() -> None:
    (seconds,) = benchmark.timed(lambda: time.sleep(0.01))()
    assert seconds >= 0.01


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), benchmark.torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
