"""A run that is stopped goes on to the bit."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wnseq.training.callbacks import basic
from wnseq.training.cli import recipe

Main = Callable[..., dict[str, float]]
Fails = Callable[..., str]


STOP = "--trainer.callbacks+=toy.StopAt", "--trainer.callbacks.step"


PLACES = {
    "inside": (17, False, 18),
    "first": (12, False, 13),
    "last": (23, False, 25),
    "validation": (24, True, 25),
    "very last": (35, False, 36),
    "last validation": (36, True, 36),
}


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here looks at the curves, which take half the time of a run."""
    monkeypatch.setattr(recipe, "plot_run", lambda *_, **__: True)


@pytest.mark.parametrize(
    ("place", "number", "status"),
    [
        *((place, signal.SIGTERM, 143) for place in PLACES),
        *((place, signal.SIGINT, 130) for place in ("inside", "validation", "very last")),
    ],
)
def test_a_stopped_run_goes_on_to_the_bit(
    after: dict[str, float],
    main: Main,
    capsys: pytest.CaptureFixture[str],
    place: str,
    number: int,
    status: int,
) -> None:
    step, validation, stopped = PLACES[place]
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stop = [STOP[0], f"{STOP[1]}={step}", f"--trainer.callbacks.number={int(number)}"]
    with pytest.raises(SystemExit) as exit:
        main(*stop, f"--trainer.callbacks.validation={validation}")
    assert exit.value.code == status
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    out = capsys.readouterr().out
    assert f"stopped at step {stopped}. To go on from there:\ntoy fit {stop[0]} {stop[1]} " in out
    assert out.endswith(" --ckpt_path runs/toy/2/checkpoints/last.ckpt\n")
    assert main("--ckpt_path", "last") == after
    assert same("runs/toy/1/checkpoints/last.ckpt", "runs/toy/2/checkpoints/last.ckpt")


def same(one: str, other: str) -> bool:
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    moments = ([*x["optimizer_states"][0]["state"].values()] for x in (a, b))
    pairs = [(a["state_dict"], b["state_dict"]), *zip(*moments, strict=True)]
    return all(torch.equal(x[key], y[key]) for x, y in pairs for key in x)


def test_it_would_not_without_the_random_state(
    after: dict[str, float], main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        main(STOP[0], f"{STOP[1]}=17")
    monkeypatch.setattr(basic.RngState, "load_state_dict", lambda *_: None)
    main("--ckpt_path", "last")
    assert not same("runs/toy/1/checkpoints/last.ckpt", "runs/toy/2/checkpoints/last.ckpt")


@pytest.mark.parametrize(("step", "left"), [(5, True), (24, False)], ids=["batch", "validation"])
def test_a_second_signal_stops_at_once(
    main: Main, here: Path, capfd: pytest.CaptureFixture[str], step: int, left: bool
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(STOP[0], f"{STOP[1]}={step}", f"--trainer.callbacks.validation={not left}", "--trainer.callbacks.times=2")
    assert exit.value.code == 130
    out, err = capfd.readouterr()
    assert f"stopped at step {step}" in out
    assert err == "\nstopping after this batch; the same again stops at once\n"
    last = torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == (5 if left else 12)  # nothing is saved in the midst of a validation


def test_ctrl_c_before_training_leaves_no_trace(
    main: Main, toy: ModuleType, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.ToyData, "setup", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(SystemExit) as exit:
            main()
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert exit.value.code == 130
    assert list(here.glob("runs/toy/*")) == []
