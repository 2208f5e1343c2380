"""The ``wnseq`` command: lists, runs and copies recipes, converts checkpoints. Only a recipe imports Lightning."""

import argparse
import ast
import difflib
import importlib
import importlib.resources
import sys
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from wnseq import __version__
from wnseq.training.cli.output import safe_output

__all__ = ["find_recipes", "main"]

RECIPES = "wnseq.recipes"


def find_recipes() -> dict[str, Traversable]:
    """Return name and source of every installed recipe.

    Raises:
        ModuleNotFoundError: This ``wnseq`` was installed without recipes.
    """
    try:
        folder = importlib.resources.files(RECIPES)
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"the wnseq at {Path(__file__).parents[1]} has no recipes: it is a source folder that hides the installed "
            "package. Start the command in another folder, or install the source folder with: pip install -e ."
        ) from missing
    files = {path.name.removesuffix(".py"): path for path in folder.iterdir() if path.name.endswith(".py")}
    return {name: files[name] for name in sorted(files) if not name.startswith("_")}


def read_summary(source: Traversable) -> str:
    """Return the first line of a recipe's docstring, without running the recipe."""
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; None means those of the process.

    Returns:
        The exit status: 0, 1 if something could not be done, 2 for a wrong name.
    """
    parser = argparse.ArgumentParser(
        "wnseq", description="Weight-normalised recurrent networks: recipes that train them.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"wnseq {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("list", help="list the recipes, as wnseq alone does")
    run = commands.add_parser("run", help="run a recipe: wnseq run NAME --help lists its options")
    run.add_argument("name", help="a recipe, by the name that wnseq lists")
    run.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="the recipe's own arguments")
    copy = commands.add_parser("copy", help="copy a recipe to a file of your own, to run and to change")
    copy.add_argument("name", help="a recipe, by the name that wnseq lists")
    copy.add_argument("file", type=_path, help="the file to write, which must not exist")
    _add_checkpoint(commands)
    with safe_output():
        given = parser.parse_args(argv)
        try:
            if given.command == "checkpoint":
                return _checkpoint(given)
            found = find_recipes()
            if given.command in (None, "list"):
                return _print_list(found)
            if given.name not in found:
                near = difflib.get_close_matches(given.name, found, 1)
                meant = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(found)}."
                print(f"wnseq: error: there is no recipe {given.name!r}. {meant}", file=sys.stderr)
                return 2
            if given.command == "copy":
                return _copy(found[given.name], given.file)
        except (ModuleNotFoundError, OSError, ValueError) as error:
            print(f"wnseq: error: {error}", file=sys.stderr)
            return 1
    arguments = sys.argv
    sys.argv = [f"wnseq run {given.name}", *given.rest]  # its usage texts and its command to resume begin with that
    try:
        importlib.import_module(f"{RECIPES}.{given.name}").main()
    finally:
        sys.argv = arguments
    return 0


def _path(word: str) -> Path:
    return Path(word).expanduser()


def _add_checkpoint(commands: Any) -> None:
    checkpoint = commands.add_parser(
        "checkpoint",
        help="convert the weight norm in a checkpoint file: wnseq checkpoint IN OUT --form plain",
        description="Convert the weight-normalised weights of a .pt, .bin, .ckpt or .safetensors file to another form.",
    )
    checkpoint.add_argument("source", type=_path, metavar="IN", help="the file to read")
    checkpoint.add_argument("target", type=_path, metavar="OUT", nargs="?", help="the file to write")
    form = checkpoint.add_mutually_exclusive_group(required=True)
    form.add_argument(
        "--form", choices=["plain", "wnseq", "torch_hooks", "torch_parametrizations"], help="form to write"
    )
    form.add_argument("--fold", action="store_const", dest="form", const="plain", help="compose: the form plain")
    checkpoint.add_argument("--weights", nargs="+", default=[], metavar="PATTERN", help="plain weights to split")
    checkpoint.add_argument(
        "--transposed", nargs="*", metavar="PATTERN", help="weights of transposed convolutions; alone, there are none"
    )
    checkpoint.add_argument("--dry-run", action="store_true", help="list the keys and write nothing")


def _checkpoint(given: argparse.Namespace) -> int:
    from wnseq.training.cli.respell import respell  # not before it is needed: the list of recipes loads no torch

    if given.target is None and not given.dry_run:
        raise ValueError("name the file to write after the one to read, or list the keys with --dry-run")
    target = None if given.dry_run else given.target
    result = respell(given.source, target, given.form, given.weights, given.transposed)
    for old, new in result.renamed if given.dry_run else ():
        print(f"{', '.join(old)} -> {', '.join(new)}")
    for name in result.left_out:
        print(f"left out: {name}, the state of an optimiser, which fits the old parameters only")
    done = "would be written" if given.dry_run else f"written to {target}"
    print(f"{len(result.renamed)} weights in the form {given.form} {done}")
    return 0


def _print_list(found: dict[str, Traversable]) -> int:
    width = max(map(len, found), default=0)
    for name, source in found.items():
        print(f"{name:<{width}}  {read_summary(source)}")
    print("\nwnseq run NAME [--help] runs one; wnseq copy NAME FILE copies one out to be changed.")
    return 0


def _copy(source: Traversable, file: Path) -> int:
    if not file.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {file.parent} to copy {source.name} to. Make it first.")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder. Name the file to write, such as {file / source.name}.")
    try:
        with file.open("xb") as copy:
            copy.write(source.read_bytes())
    except FileExistsError as exists:
        raise FileExistsError(f"{file} is there already and is left alone. Choose another name.") from exists
    print(f"copied to {file}; run it with: python {file}")
    return 0
