"""A fit that is stopped and resumed sees exactly the batches that an unbroken one sees."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from wnseq.data.text.bptt import TextBatch
from wnseq.data.text.datamodule import TextDataModule

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

LENGTH = 14  # batches an epoch
STEPS = 2 * LENGTH + 5


class Recorder(LightningModule):
    """Learns nothing and remembers what it was shown."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[list[int], bool]] = []
        self.fail_at = fail_at

    def training_step(self, batch: TextBatch) -> torch.Tensor:
        if self.fail_at == len(self.seen):
            raise RuntimeError("power cut")
        self.seen.append((batch.inputs.flatten().tolist(), batch.reset_state))
        return self.weight * 0

    def validation_step(self, batch: TextBatch) -> None:
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


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "numbers.txt"
    path.write_text("".join(f"{number}\n" for number in range(180)))
    return str(path)


def fit(
    corpus: str,
    *,
    random: bool = True,
    steps: int = STEPS,
    resume: Path | None = None,
    save_in: Path | None = None,
    fail_at: int | None = None,
    eval_bptt: int = 8,
    **options: Any,
) -> tuple[Recorder, TextDataModule, Trainer]:
    data = TextDataModule(
        corpus, "byte", batch_size=4, bptt=10, random_bptt=random, eval_batch_size=2, eval_bptt=eval_bptt, seed=3
    )
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


@pytest.mark.parametrize(("limit", "comparable"), [(1.0, True), (2, False)])
def test_a_limited_validation_reads_as_many_tokens_in_a_resumed_run(
    tmp_path: Path, corpus: str, limit: float, comparable: bool
) -> None:
    _, _, trainer = fit(corpus, steps=5, limit_val_batches=limit)
    trainer.save_checkpoint(path := tmp_path / "stopped.ckpt")
    with nullcontext() if comparable else pytest.raises(ValueError, match="with eval_bptt 8, this one has 4"):
        fit(corpus, resume=path, steps=6, eval_bptt=4, limit_val_batches=limit)


def test_the_batches_of_a_fit(corpus: str) -> None:
    model, data, _ = fit(corpus, random=False)
    assert len(data.train_dataloader()) == LENGTH
    assert [reset for _, reset in model.seen] == [index % LENGTH == 0 for index in range(STEPS)]
    assert model.seen[:LENGTH] == model.seen[LENGTH : 2 * LENGTH]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"random": False},
        {"val_check_interval": 4},
        {"val_check_interval": 5, "check_val_every_n_epoch": None},
        {"limit_val_batches": 0},
        {"limit_train_batches": 11},
        {"accumulate_grad_batches": 2, "steps": STEPS // 2},
        {"reload_dataloaders_every_n_epochs": 1},
    ],
    ids=str,
)
def test_resumed_from_any_checkpoint(corpus: str, tmp_path: Path, options: dict[str, Any]) -> None:
    saved = tmp_path / "saved"
    whole, _, _ = fit(corpus, save_in=saved, **options)
    wrong = {}
    for path in saved.iterdir():
        place, seen = path.stem.split("-")
        if place == "batch" and int(seen) not in (1, 8, 11, LENGTH - 1, LENGTH, LENGTH + 1, 22, 2 * LENGTH):
            continue  # the others pass as well, and take their time
        resumed, _, _ = fit(corpus, resume=path, **options)
        if resumed.seen != whole.seen[int(seen) :]:
            wrong[path.stem] = [whole.seen.index(batch) for batch in resumed.seen]
    assert wrong == {}


@pytest.mark.parametrize("stop", [1, LENGTH, LENGTH + 3])
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 4}], ids=str)
def test_resumed_after_the_last_step(corpus: str, tmp_path: Path, stop: int, options: dict[str, Any]) -> None:
    whole, _, _ = fit(corpus, **options)
    first, _, trainer = fit(corpus, steps=stop, **options)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    second, _, _ = fit(corpus, resume=tmp_path / "stopped.ckpt", **options)
    assert first.seen + second.seen == whole.seen


@pytest.mark.parametrize("stop", [0, 5, LENGTH])
def test_a_step_that_failed_is_taken_again(corpus: str, tmp_path: Path, stop: int) -> None:
    whole, _, _ = fit(corpus)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(corpus, save_in=tmp_path, fail_at=stop)
    resumed, _, _ = fit(corpus, resume=tmp_path / f"exception-{stop}.ckpt")
    assert resumed.seen == whole.seen[stop:]


def test_a_second_fit_begins_at_the_first_batch(corpus: str) -> None:
    model, data, _ = fit(corpus, steps=5)
    Trainer(
        max_steps=5, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    ).fit(model, data)
    assert model.seen[:5] == model.seen[5:]


def test_only_a_fit_minds_how_the_batches_are_cut(corpus: str, tmp_path: Path) -> None:
    model, _, trainer = fit(corpus, steps=3)
    trainer.save_checkpoint(tmp_path / "3.ckpt")
    other = TextDataModule(corpus, "byte", batch_size=3, bptt=10, random_bptt=True, eval_batch_size=2, seed=3)
    with pytest.raises(
        ValueError, match=r"had batch_size over all processes 4, this one has 3.*Give the same batch_size over all"
    ):
        trainer.fit(model, other, ckpt_path=tmp_path / "3.ckpt")
    trainer.validate(model, other, ckpt_path=tmp_path / "3.ckpt", verbose=False)
