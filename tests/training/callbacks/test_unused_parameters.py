"""The warning about parameters that training leaves as they are."""

import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wnseq.training.callbacks import UnusedParameters

pytestmark = pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")


class Model(LightningModule):
    """A linear map, and layers that are added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.ModuleDict({"map": nn.Linear(2, 1)})
        self.outside = nn.Linear(1, 1)
        self.outside.requires_grad_(False)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.outside(self.network["map"](batch)).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=0.1)


def fit(model: Model, **options: Any) -> None:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_steps=4, callbacks=[UnusedParameters()], logger=False, accelerator="cpu", **{**quiet, **options}
    )
    trainer.fit(model, DataLoader(torch.randn(8, 2)))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_layer_without_a_gradient_is_named_once(accumulate: int) -> None:
    model = Model()
    model.network["extra"] = nn.Linear(1, 1)
    with pytest.warns(
        UserWarning, match=r"2 parameters have no gradient.*: network.extra.weight, network.extra.bias$"
    ) as told:
        fit(model, accumulate_grad_batches=accumulate)
    assert sum("no gradient" in str(warning.message) for warning in told) == 1


def test_a_layer_in_no_optimizer_is_named() -> None:
    model = Model()
    model.outside.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"2 parameters are in no optimizer.*: outside.weight, outside.bias$"):
        fit(model)


def test_long_lists_are_cut() -> None:
    model = Model()
    model.network.update({str(number): nn.Linear(1, 1, bias=False) for number in range(7)})
    with pytest.warns(UserWarning, match=r"7 parameters have no gradient.* network.4.weight and 2 more$"):
        fit(model)


def test_nothing_is_said_of_what_is_trained_or_frozen() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* parameters (have|are)")
        fit(Model())
