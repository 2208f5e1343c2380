"""Which run a command means, and that it goes on in its folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from jsonargparse import Namespace

from wnseq.errors import FileFormatError
from wnseq.training.checkpoint_io import WholeCheckpointIO
from wnseq.training.cli import recipe
from wnseq.training.cli.resumed_run import (
    changed_flags,
    describe_differences,
    expand_resume,
    find_runs,
    read_config,
    read_named,
    run_of_checkpoint,
    training_in,
)

Main = Callable[..., dict[str, float]]
Fails = Callable[..., str]
CONTENT = {"state_dict": {"w": torch.arange(300.0)}, "loops": {}, "wnseq": {}, "global_step": 5}
RUN = Path("runs/toy/1")


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "plot_run", lambda *_, **__: True)


def make(folder: Path, *names: str, config: str = "seed_everything: 1\n") -> Path:
    """Make a run that was trained last of all so far."""
    time = len(list(folder.parent.rglob("*"))) if folder.parent.exists() else 1
    for name in names:
        WholeCheckpointIO().save_checkpoint(CONTENT, folder / f"checkpoints/{name}.ckpt")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    for path in (*folder.glob("checkpoints/*"), folder / "config.yaml"):
        os.utime(path, (time, time))
    return folder


def test_the_newest_run_is_the_one_that_was_trained_last(tmp_path: Path) -> None:
    first, second = make(tmp_path / "1", "last"), make(tmp_path / "2", "last")
    (tmp_path / "3").mkdir()
    assert find_runs(tmp_path) == [second, first]
    make(first, "last")
    assert find_runs(tmp_path) == [first, second]
    assert read_named("last", tmp_path)[0] == first / "checkpoints/last.ckpt"
    assert read_named(str(second / "checkpoints/last.ckpt"), tmp_path)[1]["global_step"] == 5


def test_a_damaged_last_gives_way_to_another_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "1", "last", "best")
    run = make(tmp_path / "2", "last", "best")
    last, best = (run / f"checkpoints/{name}.ckpt" for name in ("last", "best"))
    last.write_bytes(b"")
    assert read_named("last", tmp_path)[0] == best and run_of_checkpoint(best, tmp_path) == run
    assert "2/checkpoints/last.ckpt is passed over: it is empty" in capsys.readouterr().err
    best.write_bytes(b"PK")
    assert read_named("last", tmp_path)[0] == tmp_path / "1/checkpoints/last.ckpt"
    with pytest.raises(FileNotFoundError, match=r"2, the newest run of this command, has no checkpoint that is whole"):
        read_named("last", tmp_path, differences=lambda run: "")


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_fit_goes_on_with_no_other_experiment(tmp_path: Path, name: str) -> None:
    first, second = make(tmp_path / "1", name), make(tmp_path / "2", name, config="seed_everything: 2\ndata: {x: 3}\n")
    for seed, run in ((1, first), (2, second)):
        options = Namespace(seed_everything=seed)
        found = read_named(
            name, tmp_path, differences=lambda run, o=options: describe_differences(run, o, list(vars(o)), ())
        )
        assert found[0].parents[1] == run
    for options, text in (
        (Namespace(seed_everything=3), r"1 has seed_everything 1.*leave --ckpt_path out"),
        (Namespace(seed_everything=1, data=Namespace(x=4)), "2 has data.x 3, seed_everything 2"),
    ):
        given = ["seed_everything", "data.x"] if "data" in options else ["seed_everything"]
        if "data" in options:
            shutil.rmtree(first)
        with pytest.raises(FileNotFoundError, match=rf"no run in .* was made by this command: .*{text}"):
            read_named(name, tmp_path, differences=lambda run, o=options, g=given: describe_differences(run, o, g, ()))


def test_the_same_text_by_another_path_is_the_same(here: Path) -> None:
    Path("text.txt").write_text("a")
    run = make(Path("1"), config=f"data: {{corpus: {here / 'text.txt'}}}\n")
    assert describe_differences(run, Namespace(data=Namespace(corpus="text.txt")), ["data.corpus"], ()) == ""
    assert describe_differences(run, Namespace(data=Namespace(corpus="no.txt")), ["data.corpus"], ()).endswith(
        "text.txt"
    )
    assert describe_differences(run, Namespace(model=Namespace(rate=1)), ["model.rate", "trainer.x"], ["rate"]) == ""
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(FileFormatError, match="the options of a run"):
        read_config(run)


def test_a_run_goes_on_from_its_last_checkpoint_alone(tmp_path: Path) -> None:
    run = make(tmp_path / "1", "last", "best")
    assert run_of_checkpoint(run / "checkpoints/last.ckpt", tmp_path) == run
    assert run_of_checkpoint(run / "checkpoints/best.ckpt", tmp_path) is None
    assert run_of_checkpoint(run / "checkpoints/last.ckpt", tmp_path / "other") is None
    assert run_of_checkpoint(tmp_path / "last.ckpt", tmp_path) is None


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["test", "--resume", "last"], ValueError, "test takes a checkpoint: --ckpt_path best"),
        (["fit", "--resume=last", "--ckpt_path=last"], ValueError, "excludes --ckpt_path"),
        (["fit", "--resume=last", "--trainer.default_root_dir=no"], FileNotFoundError, "there is no run in no/toy"),
        (["fit", "--resume=runs"], FileNotFoundError, "runs is not the folder of a run.*such as runs/toy/1"),
    ],
    ids=["test", "both", "none", "folder"],
)
def test_what_cannot_be_resumed_is_refused(here: Path, words: list[str], error: type[Exception], text: str) -> None:
    make(RUN)
    with pytest.raises(error, match=text):
        expand_resume(words, "toy")


def test_resume_leaves_out_what_the_run_started_from(here: Path) -> None:
    make(RUN, "last", config="model: {init_from: a.pt, init_vocabulary: w}\ndata: {tokenizer: a/b}\n")
    words, _ = expand_resume(["fit", "--resume=last", "--data.tokenizer=x"], "toy")
    assert words[3:-2] == [
        "--model.init_from=null",
        "--model.init_vocabulary=null",
        "--data.tokenizer=null",
        "--data.tokenizer=x",
    ]
    make(RUN, "last", config="model: {init_from: null}\ndata: {tokenizer: char}\n")
    assert len(expand_resume(["fit", "--resume=last"], "toy")[0]) == 5


def test_the_limit_of_the_command_ends_a_resumed_run(main: Callable[..., object]) -> None:
    main("--trainer.max_steps=5")
    last = RUN / "checkpoints/last.ckpt"
    for option, step in (("max_epochs=1", 12), ("max_steps=20", 20), ("max_epochs=2", 24)):
        main("--resume=last", f"--trainer.{option}")
        assert torch.load(last, weights_only=True)["global_step"] == step
    both = ["--trainer.max_epochs=9", "--trainer.max_steps=9"]
    assert expand_resume(["fit", "--resume=last", *both], "toy")[0][3:-2] == both


def test_a_file_of_options_resumes_nothing(here: Path) -> None:
    make(RUN, "last")
    Path("own.yaml").write_text("resume: last")
    with pytest.raises(ValueError, match="--resume is an option of the command line, not of a file of options"):
        expand_resume(["fit", "--config", "own.yaml"], "toy")


def test_the_last_run_is_looked_for_where_the_file_of_options_puts_it(here: Path) -> None:
    for root in ("runs", "exp", "other"):
        make(Path(root, "toy", "1"), "last")
    Path("own.yaml").write_text("trainer: {default_root_dir: exp}")
    Path("empty.yaml").write_text("trainer: {max_epochs: 3}")
    own, resume = ["--config", "own.yaml"], ["--resume", "last"]
    for words, root in (
        ([], "runs"), (own, "exp"), (["--config=empty.yaml"], "runs"), ([*own, "--config=empty.yaml"], "exp"),
        ([*own, "--trainer.default_root_dir=other"], "other"), (["--trainer.default_root_dir", "other", *own], "exp"),
    ):  # fmt: skip
        assert expand_resume(["fit", *words, *resume], "toy")[1] == Path(root, "toy", "1")
    Path("own.yaml").write_text("trainer: {default_root_dir")
    with pytest.raises(ValueError, match=r"own\.yaml is not YAML, line 1"):
        expand_resume(["fit", *own, *resume], "toy")


def test_resume_brings_config_and_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(RUN, "last", "best")
    expected = ["fit", "--config", "runs/toy/1/config.yaml", "--x=1", "--ckpt_path", "last"]
    assert expand_resume(["fit", "--resume", "last", "--x=1"], "toy") == (expected, RUN)
    assert expand_resume(["fit", "--x=1"], "toy") == (["fit", "--x=1"], None)
    (RUN / "checkpoints/last.ckpt").write_bytes(b"PK")
    assert read_named("last", Path("no"), only=RUN)[0] == RUN / "checkpoints/best.ckpt"
    assert "last.ckpt is passed over" in capsys.readouterr().err
    (RUN / "checkpoints/last.ckpt").unlink()
    assert read_named("last", Path("no"), only=RUN)[0] == RUN / "checkpoints/best.ckpt"
    (RUN / "checkpoints/best.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"--resume: runs/toy/1 has no checkpoint that is whole"):
        read_named("last", Path("no"), only=RUN)


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["test", "--ckpt_path=last"], ["last"]),
        (["--ckpt_path=last"], ["last", "best"]),
        (["--resume=last"], ["last", "best"]),
        (["--ckpt_path=runs/toy/1/checkpoints/best.ckpt", "--trainer.max_epochs=2"], ["best", "best"]),
    ],
    ids=["test", "last", "resume", "best"],
)
def test_a_file_is_read_once(
    after: dict[str, float], main: Main, monkeypatch: pytest.MonkeyPatch, words: list[str], files: list[str]
) -> None:
    loaded = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda file, **options: loaded.append(Path(file.name).stem) or load(file, **options)
    )
    main(*words)
    assert loaded == files


def test_flags_that_differ_are_said(tmp_path: Path) -> None:
    run = make(tmp_path, config="trainer: {max_epochs: 3, precision: 32, callbacks: null, default_root_dir: a}\n")
    now = Namespace(max_epochs=4, precision=32, callbacks="x" * 50, default_root_dir="b")
    assert changed_flags(run, now) == [
        "--trainer.max_epochs is 4, and was 3 in the run so far",
        "--trainer.callbacks differs from the run so far",
    ]


@pytest.mark.skipif(os.name != "posix", reason="needs locks of folders")
def test_a_run_in_progress_is_left_alone(after: dict[str, float], fails: Fails) -> None:
    before = (RUN / "metrics.csv").read_bytes()
    with training_in(RUN):
        assert "runs/toy/1 is being trained by another process" in fails(1, "--ckpt_path=last")
    assert (RUN / "metrics.csv").read_bytes() == before


def test_a_chain_of_stops_is_one_run(
    after: dict[str, float], main: Main, toy: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = toy.log_without_clock(RUN)
    assert [row["step"] for row in whole] == ["9", "11", "19", "23", "29", "35", "36"]
    shutil.rmtree("runs")
    stops = [("StopAt", 3), ("Die", 7), ("StopAt", 9), ("Die", 12), ("StopAt", 19), ("StopAt", 23), ("Die", 30)]
    for number, (kind, step) in enumerate([*stops, ("StopAt", 35)]):
        resume = [] if number == 0 else ["--ckpt_path=last"] if number % 2 else ["--resume=last"]
        callbacks = ["--trainer.callbacks=null"] if number else []
        stop = [f"--trainer.callbacks+=toy.{kind}", f"--trainer.callbacks.step={step}"]
        with pytest.raises(SystemExit):
            main(*resume, "--checkpoint.every_steps=5", *callbacks, *stop)
    shutil.copytree(RUN, "moved/1")
    shutil.rmtree("runs")
    capsys.readouterr()
    assert main("--resume=moved/1", "--trainer.callbacks=null") == after
    assert "--trainer.callbacks differs from the run so far" in capsys.readouterr().out
    assert toy.log_without_clock(Path("moved/1")) == whole
    assert sorted(path.name for path in Path("moved/1/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_another_checkpoint_begins_a_run_with_the_log_so_far(
    after: dict[str, float], main: Main, toy: ModuleType
) -> None:
    scalars = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    before = (RUN / "metrics.csv").read_bytes()
    whole, found = toy.log_without_clock(RUN), []
    assert main(f"--ckpt_path={RUN}/checkpoints/best.ckpt") == after
    assert toy.log_without_clock(Path("runs/toy/2")) == whole and (RUN / "metrics.csv").read_bytes() == before
    with pytest.raises(SystemExit):
        main("--trainer.callbacks+=toy.StopAt", "--trainer.callbacks.step=20")
    main("--resume=last", "--trainer.callbacks=null")
    for number in (1, 2, 3):
        events = scalars(f"runs/toy/{number}/tensorboard")
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if "per_s" not in name]
        found.append({name: {event.step: event.value for event in events.Scalars(name)} for name in names})
    assert found[0] == found[1] == found[2]
