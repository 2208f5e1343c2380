"""The ``wnseq`` command lists the recipes, runs one or copies one out. Only a recipe that runs imports Lightning."""

import argparse
import ast
import difflib
import importlib
import importlib.resources
import sys
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

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
    copy.add_argument("file", type=Path, help="the file to write, which must not exist")
    with safe_output():
        given = parser.parse_args(argv)
        try:
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
        except (ModuleNotFoundError, OSError) as error:
            print(f"wnseq: error: {error}", file=sys.stderr)
            return 1
    arguments = sys.argv
    sys.argv = [f"wnseq run {given.name}", *given.rest]  # its usage texts and its command to resume begin with that
    try:
        importlib.import_module(f"{RECIPES}.{given.name}").main()
    finally:
        sys.argv = arguments
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
