"""What a run is given besides the user's own."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import forked
import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import TorchCheckpointIO

from wnseq.training.adaptation import Evaluation
from wnseq.training.checkpoint_io import WholeCheckpointIO
from wnseq.training.cli.run_parts import NoProfiler, build_plugins, check_trainer

Main = Callable[..., dict[str, float]]
LAST = Path("runs/toy/1/checkpoints/last.ckpt")


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_a_killed_run_goes_on_from_inside_its_epoch_to_the_bit(
    main: Main, toy: ModuleType, finished: tuple[Path, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    kill = ["--trainer.callbacks+=toy.StopAt", "--trainer.callbacks.step=18", "--trainer.callbacks.number=9"]
    script = Path(__file__).parents[1] / "toy.py"
    done = forked.run([sys.executable, script, "--checkpoint.every_steps=5", *kill], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert torch.load(LAST, weights_only=True)["global_step"] == 15
    abandoned = LAST.with_name(".last.ckpt.0123.tmp")
    abandoned.write_bytes(b"half")
    main("--ckpt_path", "last")
    assert f"resuming from {LAST} at step 15" in capsys.readouterr().out and not abandoned.exists()
    whole, resumed = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        for folder in (finished[0] / "runs/toy/1", Path("runs/toy/1"))
    )
    assert whole["global_step"] == resumed["global_step"] == 36
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert toy.log_without_clock(LAST.parents[1]) == toy.log_without_clock(finished[0] / "runs/toy/1")


def test_a_run_without_minutes_renews_its_checkpoint_at_an_epochs_end_alone(main: Main) -> None:
    main("--checkpoint.every_minutes=0", "--trainer.max_epochs=1")
    saved = torch.load(LAST, weights_only=True)["callbacks"]
    assert sum(name.startswith("Checkpoint{") for name in saved) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [("--checkpoint.every_minutes=-1", "every_minutes"), ("--checkpoint.every_steps=0.5", "every_steps")],
)
def test_an_interval_that_is_none_is_refused(
    main: Main, capsys: pytest.CaptureFixture[str], words: str, text: str
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert text in capsys.readouterr().err


def test_a_users_plugin_for_checkpoints_replaces_the_projects() -> None:
    own = TorchCheckpointIO()
    assert build_plugins(Namespace(plugins=own)) == [own]
    (added,) = build_plugins(Namespace(plugins=None))
    assert isinstance(added, WholeCheckpointIO)


def test_more_processes_than_cores_are_refused() -> None:
    cores = os.cpu_count() or 1
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False}
    check_trainer(Trainer(devices=1, **quiet), LightningModule(), "fit")
    with pytest.raises(
        ValueError, match=rf"--trainer\.devices {cores + 1} on a CPU are as many processes, and there are"
    ):
        check_trainer(Trainer(devices=cores + 1, **quiet), LightningModule(), "fit")


@pytest.mark.parametrize(
    ("command", "limit"),
    [("test", "limit_test_batches"), ("validate", "limit_val_batches"), ("predict", "limit_predict_batches")],
)
def test_a_command_without_batches_is_refused(
    after: dict[str, float], fails: Callable[..., str], main: Main, command: str, limit: str
) -> None:
    assert f"--trainer.{limit} 0 leaves {command} nothing to do: give" in fails(
        1, command, "--ckpt_path=last", f"--trainer.{limit}=0"
    )
    main(command, "--ckpt_path=last", f"--trainer.{limit}=0", "--trainer.fast_dev_run=true")  # of one batch


def test_an_adaptation_that_the_test_would_refuse_is_refused_before_the_training() -> None:
    model: Any = LightningModule()
    model.evaluation = Evaluation(cache_window=5, tune=True)
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "limit_val_batches": 0}
    with pytest.raises(ValueError, match=r"tune needs validation batches, .*, got --trainer\.limit_val_batches 0"):
        check_trainer(Trainer(**quiet), model, "fit")
    for command, options in (
        ("test", quiet),
        ("fit", {**quiet, "limit_test_batches": 0}),
        ("fit", {**quiet, "limit_val_batches": 1}),
    ):
        check_trainer(Trainer(**options), model, command)
    model.evaluation = Evaluation(dynamic_rate=0.1)
    check_trainer(Trainer(**quiet), model, "fit")
    with pytest.raises(ValueError, match=r"adapts the weights of one process, got 2: train with --trainer\.devices 1"):
        check_trainer(SimpleNamespace(accelerator=None, world_size=2, limit_test_batches=1.0), model, "fit")  # type: ignore


def test_contexts_of_no_profiler_nest() -> None:
    profiler = NoProfiler()
    with profiler.profile("one") as outer, profiler.profile("two") as inner:
        assert outer is None and inner is None
