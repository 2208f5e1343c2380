"""Commands of a recipe that make another file of a checkpoint, without data and without a Trainer."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from wnseq._files import atomic_write
from wnseq.training.cli.parser import RecipeParser
from wnseq.training.cli.resumed_run import read_named
from wnseq.training.cli.run_folder import name_of_runs
from wnseq.training.resume import check_checkpoint

__all__ = ["Command", "check_output", "describe_commands", "run_checkpoint_command", "write_changed_checkpoint"]

Command = Callable[..., None]
GIVEN: set[str | int] = {"model", "checkpoint"}
KEPT = ("epoch", "global_step", "pytorch-lightning_version", "loops", "hparams_name", "wnseq")


def describe_commands(commands: Sequence[Command]) -> str:
    """Return a sentence for the general help that names commands; nothing if there are none."""
    said = (
        f"{each.__name__} ({summary[0].lower()}{summary[1:-1]})" for each in commands if (summary := _summary(each))
    )
    return f" Further commands, each with its own --help: {', '.join(said)}." if commands else ""


def _summary(command: Command) -> str:
    return (command.__doc__ or "").partition("\n")[0]


def run_checkpoint_command(
    commands: Sequence[Command], words: Sequence[str], model_class: type[LightningModule], recipe: str, program: str
) -> bool:
    """Run a command on the checkpoint of ``--ckpt_path``; return True if the command line begins with one.

    An option ``output`` is a file to write, checked before the work.

    Args:
        commands: Functions, each a command of its name, whose docstring is the help. The arguments of one are the
            options but for ``model``, the model of the checkpoint, and ``checkpoint``, what the file holds.
        words: The command line.
        model_class: The recipe's model.
        recipe: Its name.
        program: The words that precede the command line.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        OSError: The output can't be written.
        ValueError: It is of another recipe.
    """
    command = {each.__name__: each for each in commands}.get(words[0] if words else "")
    if command is None:
        return False
    parser = RecipeParser(allow_abbrev=False, prog=f"{program} {words[0]}", description=_summary(command))
    help_text = "The checkpoint: a file, or best or last of the newest run."
    parser.add_argument("--ckpt_path", type=str, required=True, help=help_text)
    parser.add_function_arguments(command, skip=GIVEN, as_group=False)
    options = parser.parse_args(list(words[1:])).as_dict()
    path, checkpoint = read_named(options.pop("ckpt_path"), Path("runs") / name_of_runs(model_class, recipe))
    check_checkpoint(checkpoint, recipe, str(path))
    if "output" in options:
        check_output(options["output"])
    model = model_class.load_from_checkpoint(path, map_location="cpu").eval()
    command(model=model, checkpoint=checkpoint, **options)
    return True


def check_output(output: str | Path, option: str = "--output") -> None:
    """Check that a file can be written, whose folders may be missing.

    Args:
        output: The file.
        option: Option that names it, for the error.

    Raises:
        OSError: A folder has its name, a file the name of one of its folders, or its folder is read-only.
    """
    path = Path(output).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder. Name the file to write in it.")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{option}: {path} can't be written: {folder} is a file. Choose another folder.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{option}: {path} can't be written: {folder} is read-only. Choose another folder.")


def write_changed_checkpoint(
    output: str | Path, checkpoint: Mapping[str, Any], weights: Mapping[str, Any], hparams: Mapping[str, Any]
) -> None:
    """Write a checkpoint of other weights and sizes, to test, to sample from and to start from; not to resume.

    Args:
        output: The file to write.
        checkpoint: What the first one holds.
        weights: State dict of the new model.
        hparams: Hyper-parameters that are others now.
    """
    changed = {name: checkpoint[name] for name in KEPT if name in checkpoint}
    changed["wnseq"] = {name: value for name, value in checkpoint["wnseq"].items() if name != "fit"}  # another's loss
    changed["hyper_parameters"] = {**checkpoint["hyper_parameters"], **hparams}
    changed |= {"state_dict": dict(weights), "carried_state": []}
    with atomic_write(Path(output).expanduser()) as file:
        torch.save(changed, file)
