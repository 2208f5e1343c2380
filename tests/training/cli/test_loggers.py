"""The loggers of a run: its own and the user's."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wnseq.training.cli import loggers
from wnseq.training.cli.loggers import expand_logger_names, log_results, log_texts, make_loggers
from wnseq.training.cli.run_folder import run_files

Fails = Callable[..., str]


class Recorder(DummyLogger):
    """A logger of the user's, with the two methods of Weights & Biases' logger."""

    records: ClassVar[list["Recorder"]] = []

    def __init__(self, project: str = "none") -> None:
        super().__init__()
        self.project = project
        self.metrics: dict[str, float] = {}
        self.shown: dict[str, Any] = {}
        Recorder.records.append(self)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.metrics |= metrics

    def log_image(self, key: str, images: list[str], step: int) -> None:
        self.shown[key] = (images, step)

    def log_text(self, key: str, columns: list[str], data: list[list[str]], step: int) -> None:
        self.shown[key] = (data, step)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """The class, where ``--trainer.logger recorder.Recorder`` looks it up."""
    module = ModuleType("recorder")
    module.Recorder = Recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "recorder", module)
    monkeypatch.setattr(Recorder, "records", [])
    return Recorder


def test_other_ranks_than_the_first_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    made = make_loggers(tmp_path / "run", None)
    assert isinstance(made, list) and len(made) == 2
    for logger in made:
        assert logger.experiment.anything() is None  # type: ignore[attr-defined]
        logger.log_hyperparams({"rate": 0.1})
        logger.log_metrics({"a": 1.0}, 0)
        logger.save()
        logger.finalize("success")
    assert not list(tmp_path.iterdir())


def test_a_users_logger_is_in_addition_to_the_runs(
    main: Callable[..., object], here: Path, recorder: type[Recorder]
) -> None:
    main("--trainer.logger", "recorder.Recorder", "--trainer.logger.project", "mine", "--trainer.max_epochs", "2")
    folder = Path("runs/toy/1")
    assert run_files(folder).keys() == {"log", "TensorBoard", "figure"}
    (mine,) = recorder.records
    assert mine.project == "mine"
    assert {"train/loss", "val/loss", "test/loss"} <= mine.metrics.keys()
    assert mine.shown == {"curves": ([str(folder / "curves.png")], 24)}
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["curves"]
    shown = events.Images("curves")[0]
    with Image.open(folder / "curves.png") as file:
        assert (shown.step, shown.width, shown.height) == (24, *file.size)


def test_a_short_name_is_lightnings_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: ModuleSpec(name, None))
    wandb, mlflow = "lightning.pytorch.loggers.WandbLogger", "lightning.pytorch.loggers.MLFlowLogger"
    for typed, expanded in [
        (["--trainer.logger", "wandb"], ["--trainer.logger", wandb]),
        (["--trainer.logger=mlflow"], [f"--trainer.logger={mlflow}"]),
        (["--trainer.logger+=WandbLogger"], [f"--trainer.logger+={wandb}"]),
        (
            ["--trainer.logger", "false", "--data.corpus", "wandb"],
            ["--trainer.logger", "false", "--data.corpus", "wandb"],
        ),
        (["--trainer.logger", "recorder.Recorder"], ["--trainer.logger", "recorder.Recorder"]),
    ]:
        assert expand_logger_names(typed) == expanded


def test_the_classes_are_lightnings() -> None:
    import lightning.pytorch.loggers as known

    assert all(hasattr(known, class_name) for class_name, _ in loggers.OTHERS.values())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wandb", "--trainer.logger wandb needs a package that is missing: pip install wandb"),
        ("comet", "--trainer.logger comet needs a package that is missing: pip install comet_ml"),
        ("csv", "--trainer.logger csv: a run logs to csv without being asked. Leave the option out."),
        (
            "tensorboard",
            "a run logs to tensorboard once it is installed: pip install tensorboard. Leave the option out.",
        ),
    ],
)
def test_what_a_logger_lacks_is_said(
    fails: Fails, here: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    assert said in fails(1, "--trainer.logger", name)
    assert not list(here.glob("runs/toy/*"))


def test_figures_and_texts_go_where_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8)).save(tmp_path / "samples.png")
    (tmp_path / "samples.txt").write_text("once upon a time")
    artifacts: list[str] = []
    mlflow = MLFlowLogger.__new__(MLFlowLogger)
    client = SimpleNamespace(log_artifact=lambda run, path: artifacts.append(f"{run}:{Path(path).name}"))
    monkeypatch.setattr(MLFlowLogger, "experiment", client)
    monkeypatch.setattr(MLFlowLogger, "run_id", "7")
    own = make_loggers(tmp_path / "run", mlflow)
    assert isinstance(own, list) and isinstance(own[0], CSVLogger) and own[-1] is mlflow
    seen = Recorder()
    log_texts([*own, seen], ["once", "upon"], 3)
    log_texts([*own, seen], [], 4)
    assert seen.shown == {"samples": ([["once"], ["upon"]], 3)}
    log_results(own, tmp_path, 5)
    assert artifacts == ["7:samples.png", "7:samples.txt"]
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert events.Tags()["images"] == ["samples"]
    kept = {event.step: event.tensor_proto.string_val for event in events.Tensors("samples/text_summary")}
    assert kept == {3: [b"once\n\n---\n\nupon"], 5: [b"once upon a time"]}


def test_without_tensorboard_a_run_has_its_csv(
    main: Callable[..., object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    main("--trainer.max_epochs", "1")
    assert run_files(Path("runs/toy/1")).keys() == {"log", "figure"}
