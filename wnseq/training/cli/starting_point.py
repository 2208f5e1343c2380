"""The checkpoint that a command starts from: which of its settings become defaults, and what the screen says of it."""

import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from wnseq.training.checkpoint_files import check_hyper_parameters, handed_over, load
from wnseq.training.cli.resumed_run import describe_differences, find_runs, read_named, run_of_checkpoint
from wnseq.training.fine_tuning import lent_arguments
from wnseq.training.resume import check_checkpoint, check_evaluated, check_resumed
from wnseq.training.run_info import UNFINISHED, describe_progress

__all__ = ["StartingPoint", "describe_start", "find_start", "given_options", "limit_of_epochs", "resume_arguments"]


@dataclass(frozen=True)
class StartingPoint:
    """A checkpoint of ``--ckpt_path``, which a command goes on from, or of ``--model.init_from``, which lends weights.

    Args:
        path: The file.
        hparams: Its hyper-parameters; none of a plain state dict.
        info: What it holds under ``wnseq``.
        resumed: Whether it is that of ``--ckpt_path``.
        progress: How far its run had come, in words; empty of a plain state dict.
        run: Folder of the run that goes on; None if a new one begins.
        content: What the file holds.
    """

    path: Path
    hparams: Mapping[str, Any]
    info: Mapping[str, Any]
    resumed: bool
    progress: str = ""
    run: Path | None = None
    content: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def defaults(self, data_class: Any, given: Collection[str], subcommand: str) -> dict[str, Any]:
        """Return the options that the checkpoint decides where the command has none.

        They are its hyper-parameters and, with ``--ckpt_path``, the options of its data.

        Args:
            data_class: Data module; its ``options_from_checkpoint``, if any, says which of its options hold.
            given: Options of the command, as ``data.corpus``.
            subcommand: fit, validate, test or predict.
        """
        found = {f"model.{name}": value for name, value in self.hparams.items()}
        if self.resumed:
            data = self.info.get("data", {})
            if select := getattr(data_class, "options_from_checkpoint", None):
                data = select(data, {name.removeprefix("data.") for name in given}, subcommand)
            found |= {f"data.{name}": value for name, value in data.items()}
        return found

    def apply(self, options: Namespace, subcommand: str, model_class: Any = None) -> None:
        """Write the path of the file into the options, and check that those of a run that goes on still fit it.

        Such a run does not read again what it started from, which may be gone. Hyper-parameters that are left open, as
        in the file of its options, are those of the checkpoint.

        Args:
            options: Options of the subcommand.
            subcommand: fit, validate, test or predict.
            model_class: Class of the model: ``resume_may_change`` has the hyper-parameters that take effect when a run
                goes on, ``evaluation_may_change`` those that take effect in another command.

        Raises:
            ValueError: A hyper-parameter is another, or an evaluation names weights to start from.
        """
        model, path = options.model, os.path.relpath(self.path)
        if not self.resumed:
            model.init_from = str(self.path)
            return
        options.ckpt_path = str(self.path)
        may_change = getattr(model_class, f"{'resume' if subcommand == 'fit' else 'evaluation'}_may_change", ())
        if subcommand == "fit":
            check_resumed(self.hparams, model.as_dict(), may_change, path)
        else:
            check_evaluated(self.hparams, model.as_dict(), may_change, path)
        for name in (name for name in ("init_from", "init_vocabulary") if model.get(name) is not None):
            if subcommand != "fit":
                raise ValueError(f"{path} has all weights: --model.{name} {model[name]} would do nothing. Leave it out")
            model[name] = None
        for name, value in self.hparams.items():
            if name not in may_change and model.get(name) is None:
                model[name] = value

    def take_content(self) -> dict[str, Any]:
        """Return what the file holds, and keep none of it, which may be large."""
        content = dict(self.content)
        self.content.clear()
        return content

    def lending(self) -> AbstractContextManager[None]:
        """Make the model of a block start from what has been read of the file, if that lends weights."""
        return nullcontext() if self.resumed else handed_over(self.path, self.take_content())

    def describe_measured(self, data: Any, part: str, trainer: Any) -> Iterator[str]:
        """Yield lines about what a Trainer's evaluation measured on what, for the screen."""
        yield f"{'checkpoint':<11}  {os.path.relpath(self.path)}"
        if hasattr(data, "describe_part"):
            yield f"{'measured on':<11}  {data.describe_part(part)}"
        name = f"limit_{part}_batches"
        if (limit := getattr(trainer, name)) != 1.0 or isinstance(limit, int):  # 1 is one batch, 1.0 all
            yield f"{'of these':<11}  {sum(getattr(trainer, f'num_{part}_batches'))} batches, by {name} {limit}"
        saved = self.info.get("data", {})
        if saved.get(part) is not None and saved[part] == getattr(data, part, None):
            return  # the part that the run itself had from a file of its own
        for name, now in data.provenance().items() if hasattr(data, "provenance") else ():
            before = self.info.get(name, now)
            if name.endswith("_sha256") and before != now:
                kind = name.removesuffix("_sha256")
                trained = self.info.get(kind, saved.get(kind))
                yield f"{'trained on':<11}  {kind} {trained} (sha256 {before[:12]}), which is another one"


def find_start(
    options: Namespace,
    runs: Path,
    recipe: str,
    model_class: Any = None,
    given: Collection[str] = (),
    resumed_run: Path | None = None,
) -> StartingPoint | None:
    """Return the checkpoint that a command names, checked; None if it names none.

    Args:
        options: Options of the subcommand.
        runs: Folder of the recipe's runs, for the words ``best`` and ``last``.
        recipe: Name of the recipe.
        model_class: Class of its model: ``lent_by`` has the other recipes that ``init_from`` may be of,
            ``resume_may_change`` the hyper-parameters that take effect in a resumed run; see also ``lent_arguments``.
        given: Options of a ``fit`` that it has by itself: ``last`` is that of a run that was started with them.
        resumed_run: Folder of the run of ``--resume``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be used by this recipe.
    """
    known = options.model.as_dict()
    if options.get("ckpt_path") is not None:
        may_change = getattr(model_class, "resume_may_change", ())
        differences = _differences(options, runs, given, may_change) if resumed_run is None else None
        path, checkpoint = read_named(options.ckpt_path, runs, differences=differences, only=resumed_run)
    elif known.get("init_from") is not None:
        path, checkpoint = read_named(known["init_from"], runs, "--model.init_from", load)
    else:
        return None
    info = checkpoint.get("wnseq", {})
    resumed, run = options.get("ckpt_path") is not None, resumed_run
    if resumed and given and "optimizer_states" not in checkpoint:
        way_on = f"Start a new run from its weights: --model.init_from {path}"
        raise ValueError(f"{path} has no state of an optimiser, so that no run goes on from it. {way_on}")
    lends = not resumed and info.get("recipe") in getattr(model_class, "lent_by", {})
    check_checkpoint(checkpoint, info["recipe"] if lends else recipe, str(path))
    own = {name: value for name, value in known.items() if f"model.{name}" in given}
    hparams = lent_arguments(model_class, checkpoint, own, resumed)  # those of another program mean something else
    check_hyper_parameters(path, hparams, known=known)
    if resumed and given and run is None:
        run = run_of_checkpoint(path, runs)
    return StartingPoint(path, hparams, info, resumed, describe_progress(checkpoint), run, checkpoint)


def _differences(
    options: Namespace, runs: Path, given: Collection[str], may_change: Collection[str]
) -> Callable[[Path], str] | None:
    """Return the function by which ``last`` finds the run of a ``fit``; None for other commands.

    Where all runs have other hyper-parameters, these don't count: they are refused later, with the way on.
    """
    if not given:
        return None
    every = any(not describe_differences(run, options, given, may_change) for run in find_runs(runs))
    counted = given if every else [name for name in given if not name.startswith("model.")]
    return lambda run: describe_differences(run, options, counted, may_change)


def describe_start(start: StartingPoint | None, given: Collection[str], default: Callable[[str], Any]) -> list[str]:
    """Return a line about the checkpoint that a fit starts from, for the screen.

    It says how far its run had come; for a fine-tuning also the hyper-parameters that come from it.

    Args:
        start: The checkpoint, if any.
        given: Options of the command, whose value is not the checkpoint's.
        default: Returns the recipe's default of an option.
    """
    if start is None:
        return []
    path = os.path.relpath(start.path)
    if start.resumed:
        into = "" if start.run else " in a new run, whose log begins with that of the run so far"
        progress = start.progress.removesuffix(f", {UNFINISHED}") or "its start"
        return [f"resuming from {path} at {progress}{into}"]
    own = {name: value for name, value in start.hparams.items() if f"model.{name}" not in given}
    changed = [f"{name} {value}" for name, value in own.items() if value != default(f"model.{name}")]
    progress = f" ({start.progress})" if start.progress else ""
    return [f"starting from {path}{progress}" + (", with its " + ", ".join(changed) if changed else "")]


def given_options(options: Namespace, prefix: str = "") -> set[str]:
    """Return the names of the options that a command has by itself: those parsed without defaults."""
    names: set[str] = set()
    for name, value in vars(options).items():
        names |= given_options(value, f"{prefix}{name}.") if isinstance(value, Namespace) else {prefix + name}
    return names


def resume_arguments(arguments: Sequence[str], last: Path) -> str:
    """Return the arguments of a run with those that go on from its last checkpoint, as one types them."""
    words, named = iter(arguments), ("--ckpt_path", "--resume")
    kept = [word for word in words if not (word in named and next(words))]
    kept = [word for word in kept if word.partition("=")[0] not in named]
    if len(kept) < len(arguments) and any(word.partition("=")[0] == "--resume" for word in arguments):
        return shlex.join([*kept, "--resume", os.path.relpath(last.parent.parent)])
    return shlex.join([*kept, "--ckpt_path", os.path.relpath(last)])


def limit_of_epochs(options: Namespace) -> dict[str, int]:
    """Return the default that steps have in the place of a recipe's epochs, which would end the run before them."""
    steps = options.trainer.max_steps
    return {"trainer.max_epochs": -1} if steps is not None and steps > 0 else {}
