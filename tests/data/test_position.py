"""A fit that is stopped and resumed sees exactly the batches that an unbroken one sees."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from wnseq.data._position import DataPosition, EpochLoader
from wnseq.data.images.datamodule import ImageBatch, ImageDataModule

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

LENGTH = 7  # batches an epoch
STEPS = 2 * LENGTH + 3


class Recorder(LightningModule):
    """Learns nothing and remembers what it was shown."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []
        self.fail_at = fail_at

    def training_step(self, batch: ImageBatch) -> torch.Tensor:
        if self.fail_at == len(self.seen):
            raise RuntimeError("power cut")
        place = torch.arange(batch.pixels.numel(), dtype=torch.float64)
        self.seen.append(float((batch.pixels.flatten() * place).sum()))
        return self.weight * 0

    def validation_step(self, batch: ImageBatch) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saver(Callback):
    """Saves at every place where checkpoints are saved, under the place's name and the number of batches seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: Trainer, model: Recorder, place: str) -> None:
        trainer.save_checkpoint(self.folder / f"{place}-{len(model.seen)}.ckpt")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Recorder, *_: Any) -> None:
        self.save(trainer, pl_module, "batch")

    def on_validation_end(self, trainer: Trainer, pl_module: Recorder) -> None:
        if not trainer.sanity_checking:
            self.save(trainer, pl_module, "validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Recorder) -> None:
        self.save(trainer, pl_module, "epoch")

    def on_exception(self, trainer: Trainer, pl_module: Recorder, exception: BaseException) -> None:
        self.save(trainer, pl_module, "exception")


def fit(
    *,
    steps: int = STEPS,
    resume: Path | None = None,
    save_in: Path | None = None,
    fail_at: int | None = None,
    eval_batch_size: int = 256,
    **options: Any,
) -> tuple[Recorder, ImageDataModule, Trainer]:
    data = ImageDataModule(batch_size=160, eval_batch_size=eval_batch_size, shift=1, flip=True, seed=3)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Saver(save_in)] if save_in else [],
        **options,
    )
    model = Recorder(fail_at)
    trainer.fit(model, data, ckpt_path=resume)
    return model, data, trainer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"val_check_interval": 4},
        {"limit_val_batches": 0},
        {"limit_train_batches": 5},
        {"accumulate_grad_batches": 2},
    ],
    ids=str,
)
def test_resumed_from_any_checkpoint(tmp_path: Path, options: dict[str, Any]) -> None:
    steps = STEPS // options.get("accumulate_grad_batches", 1)
    whole, data, _ = fit(save_in=tmp_path, steps=steps, **options)
    assert len(data.train_dataloader()) == LENGTH
    assert len(set(whole.seen)) == len(whole.seen)
    wrong = {}
    for path in tmp_path.iterdir():
        place, seen = path.stem.split("-")
        if place == "batch" and int(seen) not in (1, 5, LENGTH - 1, LENGTH, LENGTH + 1):
            continue  # the others pass as well, and take their time
        resumed, _, _ = fit(resume=path, steps=steps, **options)
        if resumed.seen != whole.seen[int(seen) :]:
            wrong[path.stem] = [whole.seen.index(batch) for batch in resumed.seen if batch in whole.seen]
    assert wrong == {}


@pytest.mark.parametrize(("limit", "comparable"), [(1.0, True), (0, True), (1, False), (0.5, False)])
def test_a_limited_validation_reads_as_many_images_in_a_resumed_run(
    tmp_path: Path, limit: float, comparable: bool
) -> None:
    _, _, trainer = fit(steps=5, eval_batch_size=50, limit_val_batches=limit)
    trainer.save_checkpoint(path := tmp_path / "stopped.ckpt")
    with nullcontext() if comparable else pytest.raises(ValueError, match="with eval_batch_size 50, this one has 20"):
        fit(resume=path, steps=6, eval_batch_size=20, limit_val_batches=limit)
    fit(resume=path, steps=6, eval_batch_size=50, limit_val_batches=limit)


@pytest.mark.parametrize("stop", [1, LENGTH, LENGTH + 3])
def test_resumed_after_the_last_step(tmp_path: Path, stop: int) -> None:
    whole, _, _ = fit()
    first, _, trainer = fit(steps=stop)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    second, _, _ = fit(resume=tmp_path / "stopped.ckpt")
    assert first.seen + second.seen == whole.seen


@pytest.mark.parametrize("stop", [0, 5, LENGTH])
def test_a_step_that_failed_is_taken_again(tmp_path: Path, stop: int) -> None:
    whole, _, _ = fit()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(save_in=tmp_path, fail_at=stop)
    resumed, _, _ = fit(resume=tmp_path / f"exception-{stop}.ckpt")
    assert resumed.seen == whole.seen[stop:]


def test_only_a_fit_minds_how_the_batches_are_made(tmp_path: Path) -> None:
    model, _, trainer = fit(steps=3)
    trainer.save_checkpoint(tmp_path / "3.ckpt")
    other = ImageDataModule(batch_size=160, shift=1, flip=True, seed=4)
    with pytest.raises(ValueError, match="The run to be resumed had seed 3, this one has 4"):
        trainer.fit(model, other, ckpt_path=tmp_path / "3.ckpt")
    trainer.validate(model, other, ckpt_path=tmp_path / "3.ckpt", verbose=False)


def test_a_flag_that_an_older_checkpoint_lacks_was_off() -> None:
    saved = {"epoch": 0, "batch": 3}
    with pytest.raises(ValueError, match="The run to be resumed had reset_state False, this one has True"):
        DataPosition().load_state_dict(saved, None, lambda: {"reset_state": True})
    position = DataPosition()
    assert position.load_state_dict(saved, None, lambda: {"reset_state": False, "bptt": 35})
    assert position.batch == 3


def test_without_a_trainer_each_iteration_is_an_epoch() -> None:
    position = DataPosition()
    loader = EpochLoader(position, 3, lambda epoch, first: iter([(epoch, at) for at in range(first, 3)]), None)
    assert [*loader, *loader] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert position.state_dict(None, {}) == {"epoch": 1, "batch": 3}
    assert loader.state_dict() == {}


@pytest.mark.parametrize("overfit", [0, 0.0, 2, 1.0])
def test_to_overfit_each_epoch_has_the_batches_of_the_first(overfit: float) -> None:
    trainer: Any = SimpleNamespace(training=False, overfit_batches=overfit)
    loader = EpochLoader(DataPosition(), 2, lambda epoch, first: iter([(epoch, at) for at in range(first, 2)]), trainer)
    assert [*loader, *loader] == [(0, 0), (0, 1), *((0 if overfit else 1, at) for at in range(2))]
