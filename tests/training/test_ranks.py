"""What the ranks of a Trainer exchange."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from wnseq.training import ranks


class Process(SimpleNamespace):
    """The first of two processes, as the callbacks see their Trainer; the other brings some numbers."""

    def __init__(self, interrupted: bool = False, others: tuple[float, ...] = (0, 0)) -> None:
        self.asked = 0
        strategy = SimpleNamespace(
            broadcast=lambda value, src: (src, value), reduce=self.reduce, root_device=torch.device("cpu")
        )
        super().__init__(world_size=2, interrupted=interrupted, strategy=strategy, others=others)

    def reduce(self, own: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "max"
        self.asked += 1
        return torch.maximum(own, torch.tensor(self.others))


def test_values_come_from_all_processes_but_not_after_an_exception_of_one() -> None:
    assert ranks.all_gather_object(Process(), "mine") == [(0, "mine"), (1, "mine")]  # type: ignore[arg-type]
    stopped: Any = Process(interrupted=True)
    assert ranks.all_gather_object(stopped, "mine") is None
    for exception, expected in ((ValueError(), None), (SIGTERMException(), [(0, "mine"), (1, "mine")])):
        try:
            raise exception
        except BaseException:
            assert ranks.all_gather_object(stopped, "mine") == expected


def test_lists_are_joined_in_the_order_of_the_ranks() -> None:
    assert ranks.join_lists(Process(), ["a"]) == [0, ["a"], 1, ["a"]]  # each rank's list is its number and the value


def test_ranks_of_other_seeds_draw_the_same() -> None:
    drawn, cpu = [], torch.device("cpu")
    for own in (1, 2):
        torch.manual_seed(own)
        alone = torch.get_rng_state()
        trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(broadcast=lambda seed: 7))
        with ranks.same_draws(trainer, cpu):  # type: ignore[arg-type]
            drawn.append((torch.initial_seed(), torch.randn(3).tolist()))
        assert torch.equal(torch.get_rng_state(), alone)
        with ranks.same_draws(SimpleNamespace(world_size=1), cpu):  # type: ignore[arg-type]
            torch.randn(3)
        assert not torch.equal(torch.get_rng_state(), alone)
    assert drawn[0] == drawn[1] and drawn[0][0] == 7


def test_the_ranks_ask_about_twice_a_second_and_each_at_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for slower in (0.001, 0.2, 3.0):
        now, process, agreement = [0.0], Process(others=(0, slower)), ranks.RankAgreement()
        monkeypatch.setattr(ranks.time, "monotonic", lambda now=now: now[0])
        agreement.begin(process)  # type: ignore[arg-type]
        for _ in range(400):
            now[0] += 0.0001  # this rank's own time
            agreement.largest(process, 0)  # type: ignore[arg-type]
        asked.append(process.asked)
    assert asked == [9, 200, 400]  # at first at each, then after 2, 4, 8 and so on


def test_a_number_of_another_rank_is_found_at_the_next_question() -> None:
    process: Any = Process()
    agreement = ranks.RankAgreement()
    agreement.begin(process)
    assert agreement.largest(process, 0) == 0
    process.others = (15, 0.0)
    assert [agreement.largest(process, 0) for _ in range(2)] == [0, 15]
    assert agreement.value == 15


def test_no_rank_asks_after_the_last_batch_of_the_one_that_has_the_fewest() -> None:
    process: Any = Process(others=(-3.0, 10.0))  # the other has 3 batches, this one 7
    agreement = ranks.RankAgreement()
    agreement.begin(process, 7)
    process.others = (15, 10.0)
    assert [agreement.largest(process, 0) for _ in range(7)] == [15, 15, 15, 0, 0, 0, 0]


def test_one_process_asks_nobody() -> None:
    agreement = ranks.RankAgreement()
    process: Any = SimpleNamespace(world_size=1)
    agreement.begin(process, 3)
    assert [agreement.largest(process, number) for number in (0, 2)] == [0, 2]
