from pathlib import Path

import pytest
import torch

from wnseq.training.checkpoint_files import load_run_checkpoint
from wnseq.training.cli.checkpoint_commands import (
    check_output,
    describe_commands,
    run_checkpoint_command,
    write_changed_checkpoint,
)
from wnseq.training.run_info import describe_progress


def count(model, checkpoint, output: str, times: int = 2) -> None:
    """Write how often.

    Args:
        model: The model.
        checkpoint: What its file holds.
        output: The file to write.
        times: A factor.
    """
    assert not model.training and "optimizer_states" in checkpoint
    Path(output).write_text(str(times * checkpoint["global_step"]))


def run(toy, *words):
    return run_checkpoint_command([count], words, toy.ToyModel, "toy", "toy")


def test_a_command_gets_the_model_and_its_options(toy, after, here):
    assert run(toy, "count", "--ckpt_path=last", "--output=a.txt", "--times", "3")
    assert Path("a.txt").read_text() == "108"
    assert not run(toy, "fit") and not run(toy)


def test_its_help_and_its_mistakes_are_those_of_a_recipe(toy, after, here, capsys):
    with pytest.raises(SystemExit):
        run(toy, "count", "--help")
    printed = capsys.readouterr().out
    assert "usage: toy count" in printed and "Write how often." in printed and "The file to write. " in printed
    assert "--model" not in printed and "--checkpoint" not in printed
    with pytest.raises(SystemExit):
        run(toy, "count", "--ckpt_path=last", "--output=a.txt", "--time=3")
    assert "toy count: error: unknown option --time. Did you mean --times?" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="--ckpt_path: there is no checkpoint at none"):
        run(toy, "count", "--ckpt_path=none", "--output=a.txt")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(toy, after, here, monkeypatch):
    monkeypatch.setattr(toy.ToyModel, "load_from_checkpoint", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(IsADirectoryError, match=r"--output: runs is a folder\. Name the file"):
        run(toy, "count", "--ckpt_path=last", "--output=runs")
    Path("file").touch()
    with pytest.raises(NotADirectoryError, match=r"--output: file/a/b can't be written: .*file is a file\. Choose"):
        run(toy, "count", "--ckpt_path=last", "--output=file/a/b")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"-o: a/b can't be written: .* is read-only"):
        check_output("a/b", "-o")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    check_output("a/b")
    assert not Path("a").exists()


def test_the_general_help_names_each_command():
    said = "count (write how often), count (write how often)"
    assert describe_commands([count, count]) == f" Further commands, each with its own --help: {said}."
    assert describe_commands([]) == ""


def test_a_changed_checkpoint_is_tested_and_not_resumed(toy, main, fails, after, here):
    checkpoint = load_run_checkpoint(Path("runs/toy/1/checkpoints/best.ckpt"))
    weights = {name: torch.zeros_like(value) for name, value in checkpoint["state_dict"].items()}
    write_changed_checkpoint("zero.ckpt", checkpoint, weights, {"dropout": 0.25})
    assert load_run_checkpoint(Path("zero.ckpt"))["hyper_parameters"] == checkpoint["hyper_parameters"] | {
        "dropout": 0.25
    }
    assert (
        "val/loss" in describe_progress(checkpoint) and describe_progress(load_run_checkpoint(Path("zero.ckpt"))) == ""
    )
    assert main("test", "--ckpt_path=zero.ckpt")["test/loss"] != after["test/loss"]
    assert "zero.ckpt has no state of an optimiser" in fails(1, "fit", "--ckpt_path=zero.ckpt")
