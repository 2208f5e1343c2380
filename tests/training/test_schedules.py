"""The length of a run, and step sizes along it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import LambdaLR

from wnseq.training.schedules import (
    one_cycle,
    scaled_rates,
    schedule_steps,
    step_plateau,
    total_steps,
    use_found_learning_rate,
)


def test_the_steps_of_a_run() -> None:
    assert total_steps(SimpleNamespace(estimated_stepping_batches=12)) == 12  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the schedule needs --trainer\.max_epochs or --trainer\.max_steps"):
        total_steps(SimpleNamespace(estimated_stepping_batches=float("inf")))  # type: ignore[arg-type]


def optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(schedule: LambdaLR, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def scheduled(kind: Any, steps: int, run: float) -> list[float]:
    return rates(schedule_steps(optimizer(2.0), trainer(run), kind)["lr_scheduler"]["scheduler"], steps)


def test_a_cosine_falls_to_zero_and_stays_there() -> None:
    assert scheduled("cosine", 6, 4) == pytest.approx([2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0, 0])


def test_a_schedule_of_ones_own_is_a_function_of_the_share_that_is_done() -> None:
    for total in (3, 7, 11):  # to the bit: the recipes' numbers rest on it
        assert scheduled(lambda done: min(1.0, 2 - 2 * done), 9, total) == [
            2.0 * min(1.0, 2 - 2 * step / total) for step in range(9)
        ]
    with pytest.raises(ValueError, match=r"the schedule needs --trainer\.max_epochs"):
        schedule_steps(optimizer(2.0), trainer(float("inf")), lambda done: 1 - done)


@pytest.mark.parametrize("kind", ["cosine", "one_cycle", lambda done: 1 - done])
def test_a_schedule_ends_with_the_run_if_its_length_changes_before_the_first_step(kind: Any) -> None:
    run = trainer(4)
    schedule = schedule_steps(optimizer(2.0), run, kind)["lr_scheduler"]["scheduler"]
    run.estimated_stepping_batches = 8  # as Lightning's BatchSizeFinder does
    assert rates(schedule, 9) == scheduled(kind, 9, 8)


def test_one_cycle_rises_for_three_tenths_and_falls_to_nearly_nothing() -> None:
    found = [one_cycle(progress) for progress in (0, 0.15, 0.3, 0.65, 1, 1.5)]
    assert found == pytest.approx([0.04, 0.52, 1, 0.500002, 4e-6, 4e-6])


def trainer(steps: float, **more: Any) -> Any:
    return SimpleNamespace(estimated_stepping_batches=steps, enable_validation=False, **more)


def test_one_cycle_rises_over_three_tenths_of_the_run_and_falls_to_almost_nothing() -> None:
    found = rates(schedule_steps(optimizer(2.0), trainer(20), "one_cycle")["lr_scheduler"]["scheduler"], 22)
    assert [found[k] for k in (0, 3, 6, 13, 20, 21)] == pytest.approx([0.08, 1.04, 2, 1 + 4e-6, 8e-6, 8e-6])
    assert found[:7] == sorted(found[:7]) and found[6:] == sorted(found[6:], reverse=True)


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_a_warm_up_comes_before_the_schedule(kind: Any) -> None:
    found = rates(schedule_steps(optimizer(2.0), trainer(7), kind, warmup=3)["lr_scheduler"]["scheduler"], 7)
    falling = [1 + 0.5**0.5, 1, 1 - 0.5**0.5] if kind == "cosine" else [2, 2, 2]
    assert found == pytest.approx([0.5, 1, 1.5, 2, *falling])


def test_a_schedule_that_cannot_be_made_says_why() -> None:
    for kind in ("plateau", "one_cycle"):
        with pytest.raises(ValueError, match=f"warmup must be 0 with the schedule {kind}, which has .*, got 2"):
            schedule_steps(optimizer(2.0), trainer(7), kind, warmup=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the schedule plateau needs a validation"):
        schedule_steps(optimizer(2.0), trainer(7), "plateau")
    for kind in ("cosine", "one_cycle"):
        with pytest.raises(ValueError, match=r"the schedule needs --trainer\.max_epochs"):
            schedule_steps(optimizer(2.0), trainer(float("inf")), kind)  # type: ignore[arg-type]


def test_rates_are_scaled_for_one_step_whatever_happens_in_it() -> None:
    sgd = optimizer(2.0)
    with pytest.raises(KeyboardInterrupt), scaled_rates(sgd, 0.25):
        assert sgd.param_groups[0]["lr"] == 0.5
        raise KeyboardInterrupt
    assert sgd.param_groups[0]["lr"] == 2.0


@pytest.mark.parametrize(("stage", "checks", "factor"), [("fit", False, 0.5), ("fit", True, 1.0), ("test", False, 1.0)])
def test_the_plateau_is_stepped_by_the_validations_of_a_fit_alone(stage: str, checks: bool, factor: float) -> None:
    sgd = optimizer(2.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, factor=0.5, patience=0)
    state = SimpleNamespace(fn=TrainerFn.FITTING if stage == "fit" else TrainerFn.TESTING)
    model: Any = SimpleNamespace(trainer=SimpleNamespace(state=state, sanity_checking=checks))
    model.lr_schedulers = lambda: schedule
    for loss in (1.0, 2.0):
        step_plateau(model, loss)
    assert sgd.param_groups[0]["lr"] == 2.0 * factor
    model.lr_schedulers = lambda: None  # the schedule constant
    step_plateau(model, 3.0)


def test_a_learning_rate_that_was_found_starts_the_schedules() -> None:
    sgd = optimizer(2.0)
    schedule = LambdaLR(sgd, lambda step: (step + 1) / 4)
    without = SimpleNamespace(scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer(2.0)))
    trainer = SimpleNamespace(lr_scheduler_configs=[SimpleNamespace(scheduler=schedule), without])
    model: Any = SimpleNamespace(hparams={"learning_rate": 0.4}, trainer=trainer)
    sgd.param_groups[0]["lr"] = 0.4  # as Lightning sets it
    use_found_learning_rate(model)
    assert rates(schedule, 3) == pytest.approx([0.1, 0.2, 0.3])


def test_smaller_step_sizes_keep_their_share_of_the_one_that_was_found() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (2.0, 0.5)]
    sgd = torch.optim.SGD(groups, lr=2.0)
    schedule = LambdaLR(sgd, lambda step: (step + 1) / 4)
    trainer = SimpleNamespace(lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)])
    use_found_learning_rate(SimpleNamespace(hparams={"learning_rate": 0.4}, trainer=trainer))  # type: ignore[arg-type]
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.1, 0.025])
    sgd.step()
    schedule.step()
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.2, 0.05])
