"""What a run says on the screen, in its loggers and in its checkpoints."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

import wnseq
from wnseq.training.run_info import checkpoint_info, find_datamodule, find_trainer, print_header


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(300, 4)


class Data:
    size, flip = 3, True

    def describe(self) -> str:
        return "three images"

    def provenance(self) -> dict[str, str]:
        return {"dataset": "toy", "dataset_sha256": "abc"}


HEADER = f"model: norm weight, 1,204 parameters, CPU threads: {torch.get_num_threads()}\n\n"


def attached(data: Any, loggers: list[Any] | None = None) -> Model:
    model = Model()
    never_fit = SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(started=0)))
    trainer: Any = SimpleNamespace(
        datamodule=data, loggers=loggers or [], world_size=1, is_global_zero=True, fit_loop=never_fit
    )
    model._trainer = trainer
    model.print = print  # type: ignore[method-assign]
    return model


def test_a_model_without_a_trainer_has_no_data_module() -> None:
    assert find_trainer(Model()) is None and find_datamodule(Model()) is None
    model = Model()
    model.trainer = trainer = Trainer(logger=False, accelerator="cpu")
    assert find_trainer(model) is trainer


def test_the_header_says_what_is_trained_on_what(capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[dict[str, str]] = []
    print_header(attached(Data(), [SimpleNamespace(log_hyperparams=logged.append)]), "norm weight")
    assert capsys.readouterr().out == f"three images\n{HEADER}"
    assert logged == [{"dataset": "toy", "dataset_sha256": "abc"}]


def test_a_users_own_loader_has_no_description(capsys: pytest.CaptureFixture[str]) -> None:
    print_header(attached(None, [SimpleNamespace()]), "norm weight")
    assert capsys.readouterr().out == HEADER


def test_the_threads_of_a_cpu_are_said_on_a_cpu_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_header(attached(None).to("meta"), "norm weight")
    assert capsys.readouterr().out == "model: norm weight, 1,204 parameters\n\n"


def test_a_model_of_images_describes_those_of_a_loader(capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = attached(None)
    model.images = "images of the loader: 1 x 8 x 8"
    print_header(model, "norm weight")
    assert capsys.readouterr().out.startswith("images of the loader: 1 x 8 x 8\nmodel: norm weight")


def test_a_checkpoint_says_which_recipe_version_and_data_made_it() -> None:
    common = {"version": wnseq.__version__, "recipe": "toy"}
    data: Any = Data()
    info = checkpoint_info(attached(data), "toy", levels=17)
    assert info == {**common, "levels": 17, "dataset": "toy", "dataset_sha256": "abc"}
    data.checkpoint_options = lambda: {"size": 3}
    assert checkpoint_info(attached(data), "toy")["data"] == {"size": 3}
    assert checkpoint_info(Model(), "toy") == common
