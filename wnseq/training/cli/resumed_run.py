"""Which run, and which of its checkpoints, a command means; and what a run that goes on was made with."""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from wnseq._checksums import find_damage
from wnseq._files import atomic_write, locked
from wnseq.errors import FileFormatError, reading
from wnseq.training.archives import newest_first
from wnseq.training.checkpoint_files import load_run_checkpoint
from wnseq.training.cli.arguments import option_values
from wnseq.training.cli.parser import read_config_files

__all__ = [
    "SaveConfig",
    "changed_flags",
    "describe_differences",
    "expand_resume",
    "find_runs",
    "read_named",
    "run_of_checkpoint",
    "training_in",
]

WORDS = ("best", "last")
CONFIG = "config.yaml"
SAME = ("config", "ckpt_path", "resume", "matmul_precision", "data.root", "model.init_from", "model.init_vocabulary")
RESUME = "--resume"
STARTS = ("model.init_from", "model.init_vocabulary")  # what a run started from, and never reads again


def find_runs(runs: Path) -> list[Path]:
    """Return the folders of the runs in a folder, the one that was trained last first."""
    times = {}
    for run in runs.glob("*"):
        if files := [*run.glob("checkpoints/*.ckpt"), *run.glob(CONFIG)]:
            number = int(run.name) if run.name.isdecimal() else 0
            times[run] = (max(path.stat().st_mtime for path in files), number)
    return sorted(times, key=lambda run: times[run], reverse=True)


def read_named(
    name: str,
    runs: Path,
    option: str = "--ckpt_path",
    read: Callable[[Path], dict[str, Any]] = load_run_checkpoint,
    differences: Callable[[Path], str] | None = None,
    only: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Return the file that ``--ckpt_path`` or ``--model.init_from`` means, and what it holds.

    Args:
        name: The path of a checkpoint, or ``best`` or ``last`` for that of the newest run. Where it is damaged, the
            newest whole one of the same run is taken, with a line on standard error. ``RECIPE/best`` is that of
            another recipe.
        runs: The folder of the recipe's runs.
        option: Option that names it, for the error.
        read: Reads the file.
        differences: Returns what a run has that the command has not, for a command that goes on with a run: none with
            differences is taken, and no older one for one without a checkpoint. By default any run will do that has
            one.
        only: The folder of the run that is meant.

    Raises:
        FileNotFoundError: There is no such file.
    """
    recipe, _, word = name.rpartition("/")
    if word in WORDS and recipe.isidentifier() and not Path(name).exists():
        name, runs = word, runs.parent / recipe
    if name not in WORDS:
        if not (path := Path(name).expanduser()).is_file():
            raise FileNotFoundError(
                f"{option}: there is no checkpoint at {name}. Expected a checkpoint that a run has left "
                f"({runs}/<number>/checkpoints/best.ckpt), or the word best or last for that of the newest run."
            )
        return path, read(path)
    others = []
    for run in find_runs(runs) if only is None else [only]:
        if differences is not None and (words := differences(run)):
            others.append(f"{os.path.relpath(run)} has {words}")
            continue
        for path in _checkpoints(run, name) or (_checkpoints(run, "best") if only else []):
            try:
                return path, read(path)
            except FileFormatError as error:
                print(f"{os.path.relpath(path)} is passed over: {find_damage(path) or error}", file=sys.stderr)
        if differences is not None:
            raise FileNotFoundError(
                f"{option} {name}: {os.path.relpath(run)}, the newest run of this command, has no checkpoint that is "
                f"whole. Leave {option} out to start again, or name the file of another run."
            )
    if only is not None:
        raise FileNotFoundError(f"{RESUME}: {os.path.relpath(only)} has no checkpoint that is whole. Run fit again.")
    if others:
        raise FileNotFoundError(
            f"{option} {name}: no run in {runs} was made by this command: {'; '.join(others)}. Name the file to go on "
            f"with it all the same, such as {runs}/{others[0].partition(' ')[0].rpartition('/')[2]}/checkpoints/"
            f"{name}.ckpt, or leave {option} out to start a new run."
        )
    way_on = "Run fit first."
    if name == "best" and (ended := [run for run in find_runs(runs) if _checkpoints(run, "last")]):
        way_on = f"{os.path.relpath(ended[0])} has ended before a validation: name last instead."
    raise FileNotFoundError(f"{option} {name}: no run in {runs} has left a {name}.ckpt. {way_on}")


def _checkpoints(run: Path, name: str) -> list[Path]:
    """Return the checkpoints of a run, the one of that name first, then the newest; none without that one."""
    found = newest_first(run / "checkpoints")
    return sorted(found, key=lambda path: path.stem != name) if any(path.stem == name for path in found) else []


def run_of_checkpoint(path: Path, runs: Path | None) -> Path | None:
    """Return the folder of the run that goes on when it resumes from a file: None if a new run begins there.

    A run goes on from its last checkpoint. From another, as the best, a new one begins, so that nothing is lost.

    Args:
        path: The checkpoint.
        runs: Folder of the runs that may go on; None for any.
    """
    run = path.parent.parent
    if path.parent.name != "checkpoints" or (runs is not None and run.parent.resolve() != runs.resolve()):
        return None
    last = path.with_name("last.ckpt")
    return run if path.name == last.name or not last.is_file() or find_damage(last) else None


def read_config(run: Path) -> dict[str, Any]:
    """Return the options that a run was started with; none where its file is missing.

    Raises:
        FileFormatError: It is damaged.
    """
    path = run / CONFIG
    if not path.is_file():
        return {}
    with reading(path, "the options of a run", "Delete it, and give the options on the command line."):
        return dict(yaml.safe_load(path.read_text("utf-8")))


def describe_differences(run: Path, options: Namespace, given: Collection[str], may_change: Collection[str]) -> str:
    """Return, in words, the options that a run was started with where the command gives others.

    Those of the Trainer, and others that take effect in a run that goes on, don't count.

    Args:
        run: Folder of the run.
        options: Options of the command.
        given: Names of those that it has by itself.
        may_change: Hyper-parameters that take effect in a resumed run.
    """
    same = {*SAME, *(f"model.{name}" for name in may_change)}
    config, words = read_config(run), []
    for name in sorted(given):
        if name in same or name.startswith(("trainer.", "checkpoint.", "model.sampling.", "model.evaluation.")):
            continue
        before: Any = config
        for part in name.split("."):
            before = before.get(part, options[name]) if isinstance(before, Mapping) else options[name]
        if not _is_same(before, options[name]):
            words.append(f"{name} {before}")
    return ", ".join(words)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str) and one != other:
        return (
            Path(one).expanduser().exists() and Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
        )
    return bool(str(one) == str(other))


def changed_flags(run: Path, trainer: Namespace) -> list[str]:
    """Return a line for each flag of the Trainer that differs from the one that a run was started with."""
    before = read_config(run).get("trainer", {})
    now = trainer.as_dict()
    lines = []
    for name in before:
        if name in now and name != "default_root_dir" and (was := str(before[name])) != (becomes := str(now[name])):
            long = max(len(was), len(becomes)) > 40
            lines.append(
                f"--trainer.{name} {'differs from' if long else f'is {becomes}, and was {was} in'} the run so far"
            )
    return lines


def expand_resume(arguments: Sequence[str], name: str) -> tuple[list[str], Path | None]:
    """Return a command line with the config of a run, and ``last``, in the place of ``--resume``; and its folder.

    Files that the run started from are left out: its checkpoint has their weights and their tokenizer.

    Args:
        arguments: The command line, the subcommand first.
        name: Name of the folder of the recipe's runs.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The command is none that trains, or names a checkpoint too.
    """
    named = [value for _, _, value in option_values(arguments, (RESUME,))]
    for options in read_config_files(arguments).values():
        if options.get(RESUME.removeprefix("--")) is not None:
            raise ValueError(f"{RESUME} is an option of the command line, not of a file of options: give it there")
    if not named:
        return list(arguments), None
    if arguments[0] != "fit":
        raise ValueError(f"{RESUME} goes on with a training; {arguments[0]} takes a checkpoint: --ckpt_path best")
    if any(word.partition("=")[0] == "--ckpt_path" for word in arguments):
        raise ValueError(f"{RESUME} takes the run's last checkpoint, and excludes --ckpt_path")
    runs = _root(arguments) / name
    if named[-1] == "last":
        found = find_runs(runs)
        if not found:
            raise FileNotFoundError(f"{RESUME} last: there is no run in {runs}. Run fit first.")
        run = found[0]
    else:
        run = Path(named[-1]).expanduser()
    if not (run / CONFIG).is_file():
        raise FileNotFoundError(
            f"{RESUME}: {run} is not the folder of a run, which has a {CONFIG}. Expected such as {runs}/1, or last."
        )
    words = iter(arguments[1:])
    rest = [word for word in words if not (word == RESUME and next(words)) and not word.startswith(f"{RESUME}=")]
    started = [f"--{name}=null" for name in _started_from(run)]
    limits = [f"--trainer.{name}" for name in ("max_epochs", "max_steps")]
    given = [limit for limit in limits if any(option_values(rest, (limit,)))]
    # a limit of the command ends the run, whatever ended the run before
    ends = [f"{limit}=-1" for limit in limits if given and limit not in given]
    return [arguments[0], "--config", str(run / CONFIG), *started, *ends, *rest, "--ckpt_path", "last"], run


def _root(arguments: Sequence[str]) -> Path:
    """Return the folder above the runs of a recipe, by the last option or file of options that names one."""
    roots = {place: value for place, _, value in option_values(arguments, ("--trainer.default_root_dir",))}
    for place, options in read_config_files(arguments).items():
        trainer = options.get("trainer")
        if isinstance(trainer, Mapping) and trainer.get("default_root_dir"):
            roots[place] = trainer["default_root_dir"]
    return Path(roots[max(roots)] if roots else "runs").expanduser()


def _started_from(run: Path) -> dict[str, Any]:
    """Return the options of a run that name files which it started from: its checkpoint replaces them."""
    config = read_config(run)
    model, data = (group if isinstance(group := config.get(name), Mapping) else {} for name in ("model", "data"))
    found = {name: model.get(name.removeprefix("model.")) for name in STARTS}
    tokenizer = data.get("tokenizer")
    if isinstance(tokenizer, str) and (len(Path(tokenizer).parts) > 1 or Path(tokenizer).suffix):  # else it is a kind
        found["data.tokenizer"] = tokenizer
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def training_in(run: Path | None) -> Iterator[None]:
    """Keep other processes from going on with a run; None for a process that does not write its files.

    Raises:
        ValueError: Another process trains in it.
    """
    if run is None or not run.is_dir():
        yield
        return
    with locked(run) as is_held:
        if not is_held:
            raise ValueError(f"{os.path.relpath(run)} is being trained by another process. Stop that, or wait for it.")
        yield


class SaveConfig(SaveConfigCallback):
    """Lightning's, with a file that is whole, and that a run keeps when it goes on and when its folder is moved.

    A run that goes on keeps the file that it has until everything that its checkpoint restores has been accepted.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the options of a new run."""
        if self.config.get("ckpt_path") is None:
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the options of a run that goes on, and those of a new one once more if a tuner has changed them."""
        tuned = {f"model.{name}": pl_module.hparams.get(name) for name in ("lr", "learning_rate")}
        tuned["data.batch_size"] = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        for name, value in tuned.items():
            if value is not None and self.config.get(name) not in (None, value):
                self.config[name], self.already_saved = value, False
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the options, without the checkpoint that the command named, and with what the run started from."""
        config = self.config.clone()
        checkpoint, config.ckpt_path = config.get("ckpt_path"), None
        if checkpoint is not None and config.get("data.tokenizer") == checkpoint:
            config.data.tokenizer = None
        run = Path(trainer.default_root_dir)
        for name, value in ({} if checkpoint is None else _started_from(run)).items():
            if config.get(name) is None:
                config[name] = value
        with atomic_write(run / CONFIG) as file:
            file.write(self.parser.dump(config, skip_unset=False).encode())
