"""What is checked of a checkpoint before it is used."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from wnseq import __version__
from wnseq.training.resume import check_checkpoint, check_evaluated, check_finite, check_resumed, open_checkpoint

WEIGHTS = {"a": torch.ones(2), "steps": torch.ones(1, dtype=torch.long)}


class Model(LightningModule):
    resume_may_change = ("dropout",)

    def __init__(self, rate: float = 0.1, dropout: float = 0.5, size: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()


def checkpoint(**info: Any) -> dict[str, Any]:
    return {"state_dict": WEIGHTS, "wnseq": {"recipe": "toy", "version": __version__, **info}}


def test_a_checkpoint_of_the_recipe_passes() -> None:
    for passes in (checkpoint(), checkpoint(version="0.0.9"), {"state_dict": WEIGHTS}):
        check_checkpoint(passes, "toy")
    assert open_checkpoint(Model(), checkpoint(size=3), "toy")["size"] == 3


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (checkpoint(recipe="vae"), "a.ckpt is of the recipe vae, this one is toy: use it with wnseq run vae"),
        (checkpoint(version="1000.2"), r"a.ckpt was written by wnseq 1000.2, this is .*: pip install --upgrade wnseq"),
        (
            {"state_dict": {"a": torch.tensor([1, torch.inf])}},
            "a.ckpt holds weights that are not finite, the first",
        ),
    ],
)
def test_another_checkpoint_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_checkpoint(given, "toy", "a.ckpt")


def test_a_checkpoint_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match="not written by the recipe toy: it has no entry wnseq"):
        open_checkpoint(Model(), {"state_dict": WEIGHTS}, "toy")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_that_are_not_finite_are_named(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="the first in b: the run that wrote it diverged"):
        check_finite({**WEIGHTS, "b": torch.tensor([0, torch.nan], dtype=dtype)}, "a.ckpt")


def test_a_resumed_run_keeps_its_hyper_parameters() -> None:
    saved = {"rate": 0.1, "dropout": 0.5, "size": 4}
    check_resumed(saved, {"rate": 0.1, "dropout": 0.2, "size": None, "new": 3}, ("dropout",))
    with pytest.raises(ValueError, match=r"has rate 0.1, size 4, and goes on with it: --model.rate 0.2 --model.size 5"):
        check_resumed(saved, {"rate": 0.2, "dropout": 0.5, "size": 5}, ("dropout",))


def test_an_evaluation_keeps_its_hyper_parameters() -> None:
    saved = {"rate": 0.1, "samples": 5}
    check_evaluated(saved, {"rate": 0.1, "samples": 2}, ("samples",), "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt was made with rate 0.1: --model.rate 0.2 would not fit its weights"):
        check_evaluated(saved, {"rate": 0.2, "samples": 2}, ("samples",), "a.ckpt")


@pytest.mark.parametrize("fn", [TrainerFn.FITTING, TrainerFn.TESTING])
def test_a_fit_goes_on_with_the_weights_before_averaging(fn: TrainerFn) -> None:
    model, saved = Model(), checkpoint()
    model._trainer = SimpleNamespace(state=SimpleNamespace(fn=fn))  # type: ignore[assignment]
    saved |= {"polyak_average": {}, "current_model_state": {"a": torch.zeros(2)}}
    open_checkpoint(model, saved, "toy")
    assert saved["state_dict"]["a"].any() == (fn != TrainerFn.FITTING)


def test_hyper_parameters_may_differ_unless_a_fit_resumes() -> None:
    model, given = Model(rate=0.2, dropout=0.1), {**checkpoint(), "hyper_parameters": {"rate": 0.1, "dropout": 0.5}}
    open_checkpoint(model, given, "toy")
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.TESTING))
    model._trainer = trainer
    open_checkpoint(model, given, "toy")
    trainer.state.fn = TrainerFn.FITTING
    with pytest.raises(ValueError, match=r"--model.init_from CHECKPOINT --model.rate 0.2, without --ckpt_path"):
        open_checkpoint(model, given, "toy")
