"""The step size of batches of drawn lengths."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from wnseq.training.length_rates import RateByLength


class Stepped:
    """In the place of LightningModule: an optimizer_step that notes the step size."""

    def __init__(self, random_bptt: bool) -> None:
        self.trainer = SimpleNamespace(datamodule=SimpleNamespace(random_bptt=random_bptt, bptt=20))
        self.rates: list[float] = []

    def optimizer_step(self, epoch: int, index: int, optimizer: Any, closure: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        closure()


class Model(RateByLength, Stepped):
    pass


@pytest.mark.parametrize("drawn", [True, False])
def test_a_step_has_the_mean_length_of_its_batches(drawn: bool) -> None:
    model, sgd = Model(drawn), torch.optim.SGD([torch.zeros(1)], lr=2.0)
    model.on_train_start()
    model.on_train_batch_start(SimpleNamespace(inputs=torch.zeros(99, 1)), 0)
    model.on_train_start()  # of another fit, the first having been stopped between two steps
    for lengths in ([30], [10, 20], [20, 20, 35], [20]):
        for k, length in enumerate(lengths):
            model.on_train_batch_start(SimpleNamespace(inputs=torch.zeros(length, 1)), k)
        model.optimizer_step(0, 0, sgd, lambda: None)
    assert model.rates == ([3.0, 1.5, 2.5, 2.0] if drawn else [2.0] * 4)
    assert sgd.param_groups[0]["lr"] == 2.0


def test_lightning_sees_its_own_signature() -> None:
    wrapped: Any = RateByLength.optimizer_step
    assert wrapped.__wrapped__ is LightningModule.optimizer_step
