"""The command line that every recipe has, on a toy recipe."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
import torch

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


def test_a_run_that_went_on_without_validations_keeps_its_best_checkpoint(
    after: dict[str, float], main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    best = Path("runs/toy/1/checkpoints/best.ckpt")
    before = best.read_bytes()
    main("--resume", "last", "--trainer.max_epochs", "4", "--trainer.limit_val_batches", "0")
    assert "runs/toy/1/checkpoints/last.ckpt" in capsys.readouterr().out  # which it tested
    again = main("--resume", "last", "--trainer.max_epochs", "5", "--trainer.limit_val_batches", "1.0")
    assert best.read_bytes() == before and again["val/loss"] == after["val/loss"]


def test_a_resume_that_is_refused_leaves_the_last_checkpoint(after: dict[str, float], fails: Fails) -> None:
    last = Path("runs/toy/1/checkpoints/last.ckpt")
    before = last.read_bytes()
    assert "max_epochs=1" in fails(1, "--resume", "last", "--trainer.max_epochs", "1")
    assert last.read_bytes() == before


def test_steps_are_not_cut_by_the_recipe_s_epochs(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    main("--trainer.max_steps", "50")  # the toy has 12 in each of its 3 epochs
    assert torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 50
    main("--trainer.max_steps", "50", "--trainer.max_epochs", "1")
    assert torch.load("runs/toy/2/checkpoints/last.ckpt", weights_only=True)["global_step"] == 12


def test_a_run_goes_on_with_the_patience_that_is_given(main: Main) -> None:
    stops = [
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks.monitor=val/loss",
        "--trainer.callbacks.min_delta=99",
    ]
    main(*stops, "--trainer.callbacks.patience=1", "--trainer.max_epochs=6")
    last = Path("runs/toy/1/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 24
    main("--resume", "last", "--trainer.callbacks.patience=50")
    assert torch.load(last, weights_only=True)["global_step"] == 72


def test_early_stopping_counts_the_validation_of_the_checkpoint_that_a_run_resumes_from(main: Main) -> None:
    stops = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    stops += ["--trainer.callbacks.min_delta=99", "--trainer.callbacks.patience=1", "--trainer.max_epochs=6"]
    main(*stops)
    best = torch.load("runs/toy/1/checkpoints/best.ckpt", weights_only=True)["global_step"]
    main(*stops, "--ckpt_path", "best")
    assert torch.load("runs/toy/2/checkpoints/last.ckpt", weights_only=True)["global_step"] == max(24, best)


def test_a_run_that_early_stopping_ended_stays_ended(main: Main) -> None:
    stops = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    stops += ["--trainer.callbacks.min_delta=99", "--trainer.callbacks.patience=1", "--trainer.max_epochs=6"]
    whole = main(*stops)
    with pytest.raises(SystemExit):
        main(*stops, "--trainer.callbacks+=toy.StopAt", "--trainer.callbacks.step=24", "--trainer.callbacks.where=test")
    assert main(*stops, "--ckpt_path", "last") == whole
    assert torch.load("runs/toy/2/checkpoints/last.ckpt", weights_only=True)["global_step"] == 24


def test_a_run_without_a_validation_has_no_best_checkpoint_and_says_so(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    main("--trainer.max_steps=3")
    with pytest.raises(SystemExit):
        main("test", "--ckpt_path=best")
    said = "no run in runs/toy has left a best.ckpt. runs/toy/1 has ended before a validation: name last instead."
    assert said in capsys.readouterr().err
    main("test", "--ckpt_path=last")


def test_checkpoints_hold_plain_hyper_parameters(after: dict[str, float], here: Path) -> None:
    hparams = torch.load("runs/toy/1/checkpoints/best.ckpt", weights_only=True)["hyper_parameters"]
    assert hparams == {"width": 4, "cell": "lstm", "lr": 0.05, "dropout": 0.5, "explode_at": -1, "bug": False}


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


def test_a_users_callbacks_are_added_to_the_projects(main: Main) -> None:
    main("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.patience=0")
    assert torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 36
    saved = torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert sorted(name.split("{")[0] for name in saved) == [
        *["Checkpoint"] * 3,
        *("EarlyStopping", "EpochMeans", "LogState", "RngState"),
    ]


def test_without_matplotlib_a_run_says_how_to_get_it(
    main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    main("--trainer.max_epochs", "1")
    assert "no figure: it needs matplotlib (pip install 'wnseq[plots]')" in capsys.readouterr().out


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


def test_a_process_of_its_own_prints_nothing_else_and_leaves_the_status(here: Path) -> None:
    script = Path(__file__).parents[1] / "toy.py"
    done = forked.run([sys.executable, script, "--trainer.max_epochs", "1"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 9


def test_more_processes_than_cores_are_refused(fails, here):
    text = fails(1, "--trainer.accelerator=cpu", "--trainer.devices=9999")
    assert "--trainer.devices 9999 on a CPU are as many processes, and there are" in text
    assert not list(here.glob("runs/*/*"))


def test_a_command_says_at_once_how_far_the_run_of_its_checkpoint_had_come(
    main: Main, here: Path, after: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    main("--trainer.max_steps", "14")
    with pytest.raises(SystemExit):
        main("--trainer.callbacks=toy.StopAt", "--trainer.callbacks.step=13")
    best = f"step 24 of 36, epoch 2 of 3, val/loss {after['val/loss']:.4g}"
    for command, name, said in (
        ("predict", "1/checkpoints/last.ckpt", "step 36 of 36, epoch 3 of 3"),
        ("validate", "1/checkpoints/best.ckpt", best),
        ("predict", "2/checkpoints/last.ckpt", "step 14 of 14, epoch 2"),
        ("predict", "3/checkpoints/last.ckpt", "step 14 of 36, epoch 2 of 3, the run was not finished"),
        ("test", "3/checkpoints/last.ckpt", "step 14 of 36, epoch 2 of 3, the run was not finished"),
    ):
        capsys.readouterr()
        main(command, "--ckpt_path", f"runs/toy/{name}")
        assert capsys.readouterr().err == f"runs/toy/{name}: {said}\n"
