"""Further steps of an optimiser inside one step of Lightning."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wnseq.training.inner_steps import check_inner_steps, take_step

STEPS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


class Fit(LightningModule):
    """A linear model of rows, of which it takes some at each step of Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def training_step(self, rows: Tensor) -> Tensor:
        """Step for all rows but the last."""
        losses = (self.layer(row).square().sum() for row in rows)
        for _ in rows[:-1]:
            take_step(self, next(losses))
        return next(losses)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), 0.1)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_inner_steps_are_those_of_the_trainer(clip: float | None) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                             "enable_model_summary": False, "accelerator": "cpu"}  # fmt: skip
    found = []
    for size in (1, 4):
        model = Fit()
        loader = DataLoader(STEPS, batch_size=size)  # type: ignore[arg-type, var-annotated]
        Trainer(max_epochs=1, gradient_clip_val=clip, **quiet).fit(model, loader)
        found.append(model.layer.weight.detach())
    assert torch.equal(*found)
    assert not torch.equal(found[0], torch.ones(1, 3))


def test_a_trainer_with_steps_of_its_own_is_refused() -> None:
    for options, text in (
        ({"accumulate_grad_batches": 2, "precision": "32-true"}, "accumulate_grad_batches must be 1, got 2"),
        ({"accumulate_grad_batches": 1, "precision": "16-mixed"}, "precision must not be 16-mixed, which scales the"),
    ):
        trainer: Any = SimpleNamespace(**options)
        with pytest.raises(ValueError, match=text):
            check_inner_steps(trainer)
