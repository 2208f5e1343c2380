"""A run that ends inside an epoch, or at its end, and is resumed: each batch once, to the bit."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from wnseq.training import Checkpoint, ResumeEpoch, RngState

EPOCHS, BATCHES = 3, 4
QUIET = {
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .train_dataloader. does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Stop(Callback):
    """Ends the training after the first batches of an epoch, as max_time and EarlyStopping do."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = batch_idx + 1 == self.batches


def fit(toy: ModuleType, callbacks: Sequence[Callback] = (), ckpt_path: str | None = None, **options: Any) -> Any:
    """Train; return the batches by epoch and index, and the weights. It leaves last.ckpt and best.ckpt."""
    seen: list[tuple[int, int]] = []

    class Record(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append((trainer.current_epoch, batch_idx))

    class Model(toy.ToyModel):  # type: ignore[name-defined, misc]
        def validation_step(self, window: Any, index: int) -> None:  # draws nothing: a stop may add a validation
            self._step(window, "val")

    torch.manual_seed(0)
    saving = [
        Checkpoint(".", filename="best", monitor="val/loss", save_on_train_epoch_end=False),
        Checkpoint(".", filename="last", enable_version_counter=False),
    ]
    own = [RngState(), ResumeEpoch(), Record(), *callbacks, *saving]
    trainer = Trainer(**QUIET, **{"max_epochs": EPOCHS, **options}, callbacks=own)
    model = Model()
    trainer.fit(model, toy.ToyData(windows=BATCHES), ckpt_path=ckpt_path)
    return seen, model.state_dict()


@pytest.fixture(scope="module")
def whole(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        return fit(toy)


@pytest.mark.parametrize("again", [{}, {"max_steps": 100}], ids=["by epochs", "by steps"])
@pytest.mark.parametrize(
    ("first", "callbacks"),
    [
        ({"max_steps": 2}, []),
        ({"max_steps": BATCHES}, []),
        ({"max_steps": BATCHES + 1}, []),
        ({"max_epochs": 2}, []),
        ({}, [Stop(3)]),
        ({"max_steps": 2, "val_check_interval": 2}, []),
    ],
    ids=["inside", "at the end", "inside the second", "epochs", "a callback", "after a validation inside"],
)
def test_a_resumed_run_sees_each_batch_once(
    toy: ModuleType, here: Path, whole: Any, first: dict[str, Any], callbacks: list[Callback], again: dict[str, Any]
) -> None:
    begun, _ = fit(toy, callbacks, **first)
    # Lightning asks for the same validations in both parts
    went_on, weights = fit(toy, ckpt_path="last.ckpt", **{**first, "max_epochs": EPOCHS, "max_steps": -1, **again})
    assert begun + went_on == whole[0] == [(epoch, batch) for epoch in range(EPOCHS) for batch in range(BATCHES)]
    assert all(torch.equal(weights[name], value) for name, value in whole[1].items())
