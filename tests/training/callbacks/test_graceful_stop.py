"""A run that is stopped goes on to the bit."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from wnseq.training.callbacks import basic, graceful_stop
from wnseq.training.cli import recipe
from wnseq.training.cli.resumed_run import read_config
from wnseq.training.signals import handled_signals

Main = Callable[..., dict[str, float]]
LAST = Path("runs/toy/1/checkpoints/last.ckpt")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


PLACES = {  # place -> where and after how many steps the signal comes, and the step of the checkpoint
    "inside": ("train", 17, 18),
    "first": ("train", 12, 13),
    "last": ("train", 23, 24),
    "validation": ("validation", 24, 24),
    "very last": ("train", 35, 36),
    "last validation": ("validation", 36, 36),
    "test": ("test", 36, 36),
}


def stop(where: str, step: int, **more: int) -> list[str]:
    """Return the options that send a signal."""
    options = [f"--trainer.callbacks.{name}={value}" for name, value in more.items()]
    return [
        "--trainer.callbacks+=toy.StopAt",
        f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.where={where}",
        *options,
    ]


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here looks at the curves, which take half the time of a run."""
    monkeypatch.setattr(recipe, "plot_run", lambda *_, **__: True)


@pytest.mark.parametrize(
    ("place", "number", "status"),
    [
        *((place, signal.SIGTERM, 143) for place in ("inside", "first", "last", "last validation")),
        *((place, signal.SIGINT, 130) for place in ("validation", "very last")),
        *((place, signal.SIGHUP, 129) for place in ("inside", "test")),
    ],
)
def test_a_stopped_run_goes_on_to_the_bit(
    after: dict[str, float], main: Main, capsys: pytest.CaptureFixture[str], place: str, number: int, status: int
) -> None:
    where, step, saved = PLACES[place]
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(SystemExit) as exit, closed_terminal() if number == signal.SIGHUP else nullcontext():
        main(*stop(where, step, number=int(number)))
    assert exit.value.code == status
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    out = capsys.readouterr().out
    assert f"stopped at step {saved}. To go on from there:\ntoy fit --trainer.callbacks+=toy.StopAt " in out
    assert out.endswith(" --ckpt_path runs/toy/2/checkpoints/last.ckpt\n")
    assert main("--ckpt_path", "last") == after
    assert same("runs/toy/1", "runs/toy/2")


@contextmanager
def closed_terminal() -> Iterator[None]:
    """Make standard error a terminal that has gone."""
    screen, program = os.openpty()
    os.close(screen)
    before = os.dup(2)
    os.dup2(program, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(program)


def same(one: str, other: str) -> bool:
    """Return True if the last checkpoints of two runs are the same but for the callbacks."""
    a, b = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in (one, other))
    moments = ([*x["optimizer_states"][0]["state"].values()] for x in (a, b))
    pairs = [(a["state_dict"], b["state_dict"]), *zip(*moments, strict=True)]
    (draws,), (others,) = (x["callbacks"]["RngState"]["processes"] for x in (a, b))
    equal = a["lr_schedulers"] == b["lr_schedulers"] and progress(a) == progress(b)
    return equal and all(
        torch.equal(x[key], y[key]) for x, y in [*pairs, [{0: z["torch"]} for z in (draws, others)]] for key in x
    )


def progress(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {name: of for name, of in checkpoint["loops"]["fit_loop"].items() if "validat" not in name}


OPTIONS = {
    "an epoch without a validation": (["--trainer.check_val_every_n_epoch=2"], ("train", 11)),
    "a gradient of several batches": (["--trainer.accumulate_grad_batches=4"], ("train", 4)),
    "a validation inside a gradient of several batches": (
        ["--trainer.accumulate_grad_batches=4", "--trainer.val_check_interval=6"],
        ("validation", 4),
    ),
    "a validation inside an epoch": (["--trainer.val_check_interval=5", "--model.dropout=0.3"], ("validation", 17)),
    "a validation after the last step": (["--trainer.max_steps=24"], ("validation", 24)),
    "the last of the steps": (["--trainer.max_steps=20"], ("train", 19)),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_with_other_options_too(main: Main, case: str) -> None:
    options, place = OPTIONS[case]
    whole = main(*options)
    with pytest.raises(SystemExit):
        main(*options, *stop(*place))
    assert main(*options, "--ckpt_path", "last") == whole
    assert same("runs/toy/1", "runs/toy/2")


@pytest.mark.parametrize("way", [("--ckpt_path", "last"), ("--resume", "last")], ids=" ".join)
def test_a_run_with_a_tuner_goes_on_with_what_it_found(
    main: Main, capsys: pytest.CaptureFixture[str], way: tuple[str, str]
) -> None:
    finder = ["--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps=30"]
    whole = main(*finder)
    with pytest.raises(SystemExit):
        main(*finder, *stop("train", 17))
    capsys.readouterr()
    assert main(*(finder if way[0] == "--ckpt_path" else ()), *way) == whole
    assert same("runs/toy/1", "runs/toy/2")
    assert "LearningRateFinder is left out: the run goes on with what it had\n" in capsys.readouterr().out
    found = torch.load(LAST, weights_only=True)["hyper_parameters"]["lr"]
    assert found != 0.05 and read_config(Path("runs/toy/1"))["model"]["lr"] == pytest.approx(found)


@pytest.mark.parametrize(
    ("accumulated", "steps", "saved"), [(1, (18, 24), 24), (4, (4, 6), 6)], ids=["each batch", "of a gradient of four"]
)
def test_a_checkpoint_inside_an_epoch_loses_no_validation_and_no_gradient(
    main: Main, accumulated: int, steps: tuple[int, int], saved: int
) -> None:
    options = ["--trainer.val_check_interval=6", f"--trainer.accumulate_grad_batches={accumulated}"]
    options.append(f"--checkpoint.every_steps={3 if accumulated == 1 else 1}")
    whole = main(*options)
    for step in steps:
        with pytest.raises(LookupError):
            main(*options, *stop("validation", step, number=0), *(["--ckpt_path", "last"] if step > steps[0] else []))
    assert torch.load(LAST.parents[2] / "2/checkpoints/last.ckpt", weights_only=True)["global_step"] == saved
    assert main(*options, "--ckpt_path", "last") == whole
    assert same("runs/toy/1", "runs/toy/2")


def test_a_run_that_was_stopped_in_its_last_validation_takes_no_further_step_without_one(main: Main) -> None:
    with pytest.raises(SystemExit):
        main("--trainer.max_steps=36", *stop("validation", 36))
    main("--trainer.max_steps=36", "--trainer.limit_val_batches=0", "--ckpt_path", "last")
    assert torch.load(LAST, weights_only=True)["global_step"] == 36


@pytest.mark.parametrize("place", ["validation", "train"])
def test_a_checkpoint_that_a_stop_leaves_was_chosen_by_no_figure(main: Main, place: str) -> None:
    with pytest.raises(SystemExit):
        main(*stop(place, 24))
    fit = torch.load(LAST, weights_only=True)["wnseq"]["fit"]
    assert (fit["metric"], fit["value"], fit["finished"]) == (None, None, False)
    best = torch.load(LAST.with_name("best.ckpt"), weights_only=True)
    assert best["wnseq"]["fit"]["value"] == best["metrics"]["val/loss"]


def test_it_would_not_without_the_random_state(
    after: dict[str, float], main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        main(*stop("train", 17))
    monkeypatch.setattr(basic.RngState, "load_state_dict", lambda *_: None)
    main("--ckpt_path", "last")
    assert not same("runs/toy/1", "runs/toy/2")


@pytest.mark.parametrize(("where", "step"), [("train", 17), ("validation", 24)])
def test_several_signals_in_a_row_are_one(main: Main, capfd: pytest.CaptureFixture[str], where: str, step: int) -> None:
    with pytest.raises(SystemExit) as exit:
        main(*stop(where, step, number=int(signal.SIGHUP), times=3))
    assert exit.value.code == 129
    _, err = capfd.readouterr()
    assert err == "\nstopping after this batch; the same in five seconds stops at once, without a checkpoint\n"
    assert torch.load(LAST, weights_only=True)["global_step"] == (18 if where == "train" else 24)


@pytest.mark.parametrize(("where", "step"), [("train", 17), ("validation", 24)])
def test_a_later_signal_stops_at_once_and_leaves_the_checkpoint_before(
    main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str, step: int
) -> None:
    monkeypatch.setattr(graceful_stop, "PATIENCE", -1)
    with pytest.raises(SystemExit) as exit:
        main(*stop(where, step, times=3))
    assert exit.value.code == 143
    assert f"stopped at step {step}; the last checkpoint is of step 12. To go on from there:" in capsys.readouterr().out
    assert torch.load(LAST, weights_only=True)["global_step"] == 12


def test_a_hangup_that_is_ignored_stays_so(main: Main, after: dict[str, float]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert main(*stop("train", 17, number=int(signal.SIGHUP))) == after
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("command", "where"), [("validate", "validation"), ("test", "test")])
def test_an_evaluation_stops_at_once(after: dict[str, float], main: Main, command: str, where: str) -> None:
    with pytest.raises(SystemExit) as exit:
        main(command, "--ckpt_path", "last", *stop(where, 0, number=int(signal.SIGHUP)))
    assert exit.value.code == 129


def test_ctrl_c_before_training_leaves_no_trace(
    main: Main, toy: ModuleType, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.ToyData, "setup", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    by_python = handled_signals(signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    with by_python, pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 130
    assert list(here.glob("runs/toy/*")) == []
