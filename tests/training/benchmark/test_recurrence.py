"""A forward and backward: what is computed and timed."""

import pytest
import torch
from torch import nn

import wnseq
from wnseq.training.benchmark import RecurrentTask

STATE = (torch.full((1, 2, 4), 0.1), torch.full((1, 2, 4), -0.2))


@pytest.fixture
def training() -> RecurrentTask:
    return RecurrentTask(torch.randn(3, 2, 4), STATE, torch.randn(3, 2, 4))


def test_the_gradient_of_a_weight_is_that_of_the_composed_weight(training: RecurrentTask) -> None:
    plain = nn.LSTM(4, 4)
    normalised = wnseq.weight_normalize(plain)
    with torch.no_grad():
        normalised.weight_hh_l0_v.mul_(torch.rand(16, 1) + 0.5)  # the same weight, and g is no longer the norm of v
    normalised.accept_v_and_g()
    found = training.compute(normalised)
    torch.testing.assert_close(found, training.compute(plain))
    assert {"output", "final state 1", "gradient of the input", "gradient of weight_hh_l0"} <= set(found)


def test_nothing_is_left_of_a_run(training: RecurrentTask) -> None:
    plain = nn.GRU(4, 4)
    task = training._replace(state=STATE[0])
    torch.testing.assert_close(task.compute(plain), task.compute(plain), rtol=0, atol=0)
    run = task.timed(plain)
    forward, backward, both = run()
    assert forward > 0 and backward > 0 and both == forward + backward
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert run() and all(parameter.grad is None for parameter in plain.parameters())


def test_inference_has_one_phase_and_no_gradients(training: RecurrentTask) -> None:
    task, seen = training._replace(gradient=None), []

    def call(x: torch.Tensor, state: object) -> tuple[torch.Tensor, object]:
        seen.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), x.requires_grad))
        return x, state

    assert set(task.compute(call)) == {"output", "final state 0", "final state 1"}
    (seconds,) = task._replace(autocast=True).timed(call)()
    assert seconds > 0 and seen == [(True, False, False), (True, True, False)]
