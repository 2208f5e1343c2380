"""The command line that every recipe has, on a toy recipe."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wnseq.training.cli import run_folder

Main = Callable[..., dict[str, float]]
Fails = Callable[..., str]


def test_fit_trains_tests_reports_and_says_where_everything_is(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = main()
    out, err = capsys.readouterr()
    assert set(metrics) == {"val/loss", "test/loss"}
    assert err == ""
    assert out.index("epoch 1/3") < out.index("epoch 3/3") < out.index("a sample") < out.index("test/loss")
    assert len(out.splitlines()) == 11, out  # three epochs, the sample, a blank, two metrics, four paths
    for path in ("checkpoints/best.ckpt", "metrics.csv", "tensorboard", "curves.png"):
        assert re.search(rf"^\w+ +runs/toy/1/{path}$", out, re.M)
        assert Path("runs/toy/1", path).exists()
    assert Path("runs/toy/1/config.yaml").is_file()
    assert Path("runs/toy/1/checkpoints/last.ckpt").is_file()


def test_the_metrics_are_those_of_the_best_checkpoint(after: dict[str, float], here: Path) -> None:
    best = torch.load("runs/toy/1/checkpoints/best.ckpt", weights_only=True)
    last = torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)
    assert best["global_step"] < last["global_step"] == 36  # the toy's second epoch is its best
    assert after["val/loss"] == best["metrics"]["val/loss"] < last["metrics"]["val/loss"]


def test_checkpoints_hold_plain_hyper_parameters(after: dict[str, float], here: Path) -> None:
    hparams = torch.load("runs/toy/1/checkpoints/best.ckpt", weights_only=True)["hyper_parameters"]
    assert hparams == {"width": 4, "cell": "lstm", "lr": 0.05, "dropout": 0.5, "explode_at": -1, "bug": False}


def test_every_run_has_its_own_folder(after: dict[str, float], main: Main) -> None:
    Path("runs/toy/7").mkdir()
    main("--trainer.max_epochs", "1")
    assert Path("runs/toy/8/metrics.csv").is_file()


def test_two_runs_started_at_once_get_two_folders(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "1").mkdir()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))  # neither has seen the other's folder
    assert run_folder.new_folder(here) == here / "2"


def test_the_same_seed_repeats_to_the_bit_and_another_does_not(after: dict[str, float], main: Main) -> None:
    assert main() == after
    assert main("--seed_everything", "1") != after


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trainer.fast_dev_run", "true"], "no checkpoint was written"),
        (["--trainer.enable_checkpointing", "false"], "no checkpoint was written"),
        (["--trainer.logger", "false"], "checkpoints/best.ckpt"),
        (["--trainer.enable_progress_bar", "false"], "curves.png"),
        (["--trainer.limit_val_batches", "0"], "checkpoints/last.ckpt"),
    ],
)
def test_what_the_user_switches_off_is_off(
    main: Main, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    main("--trainer.max_epochs", "2", *flags)
    out = capsys.readouterr().out
    assert said in out
    assert ("epoch 1" in out) == ("enable_progress_bar" not in flags[0])
    assert ("metrics.csv" in out) == (
        flags[0] in ("--trainer.enable_checkpointing", "--trainer.enable_progress_bar", "--trainer.limit_val_batches")
    )


def test_a_users_callbacks_stand_beside_ours(main: Main) -> None:
    main("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.patience=0")
    assert torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 36
    saved = torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert sorted(name.split("{")[0] for name in saved) == ["Checkpoint", "Checkpoint", "EarlyStopping", "RandomState"]


def test_without_matplotlib_a_run_says_how_to_get_it(
    main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    main("--trainer.max_epochs", "1")
    assert "no figure: it needs matplotlib (pip install 'wnseq[plots]')" in capsys.readouterr().out


def test_without_tensorboard_a_run_has_its_csv(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "RequirementCache", lambda name: False)
    main("--trainer.max_epochs", "1")
    assert Path("runs/toy/1/metrics.csv").is_file()
    assert not Path("runs/toy/1/tensorboard").exists()


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["--print_config"], ["fit", "--print_config"]])
def test_asking_leaves_no_trace(main: Main, here: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(*words)
    assert exit.value.code == 0
    out = capsys.readouterr().out
    assert ("fit,validate,test,predict" in out) == (words == ["--help"])
    assert ("max_epochs: 3" in out) == ("--print_config" in words)
    assert list(here.iterdir()) == []


def test_a_printed_configuration_runs(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main("--model.width", "3", "--print_config")
    Path("run.yaml").write_text(capsys.readouterr().out)
    main("-c", "run.yaml", "--trainer.max_epochs", "1")
    checkpoint = torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)
    assert (checkpoint["hyper_parameters"]["width"], checkpoint["epoch"]) == (3, 0)


def test_the_command_line_of_the_process_is_the_default(
    toy: ModuleType, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipes/toy.py", "--model.widht", "3"])
    with pytest.raises(SystemExit) as exit:
        toy.main()
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("python recipes/toy.py fit: error: unknown option --model.widht. Did you")
    assert sys.argv == ["recipes/toy.py", "--model.widht", "3"]


def test_matmul_precision_is_set_for_the_run_alone(
    main: Main, toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(toy.ToyCLI, "report", lambda self: seen.append(torch.get_float32_matmul_precision()))
    main("--trainer.max_epochs", "1", "--matmul_precision", "medium")
    main("--trainer.max_epochs", "1")
    assert seen == ["medium", "highest"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_process_of_its_own_prints_nothing_else_and_leaves_the_status(here: Path) -> None:
    script = Path(__file__).parents[1] / "toy.py"
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, script, "--trainer.max_epochs", "1"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 9
