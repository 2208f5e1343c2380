"""Lightning's argument parser with short errors: one line that names the option and suggests the nearest."""

import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from wnseq.training._lightning_internals import option_names, subparsers
from wnseq.training.cli.errors import suggest

__all__ = ["RecipeParser", "insert_subcommand"]

DOTTED = re.compile(r"(\w+\.)+")  # the modules before a type's name
SUBCOMMANDS = ("fit", "validate", "test", "predict")


class RecipeParser(LightningArgumentParser):
    """A parser that answers a mistake with one line and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that names the option, and exit with status 2."""
        sys.stdout.flush()
        print(f"{self.prog.replace(' [options]', '')}: error: {self._shorten(message)} See --help.", file=sys.stderr)
        raise SystemExit(2) from ex

    def _shorten(self, message: str) -> str:
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            word = unknown[1].partition("=")[0]
            if not word.startswith("-"):
                return f"unexpected argument {word!r}: options begin with --."
            return f"unknown option {word}.{suggest(word, option_names(self))}"
        if unknown := re.match(r"Subcommand '(\w+)' does not accept option '(.+?)'", message):  # in a file
            known = option_names(subparsers(self)[unknown[1]])
            return f"unknown option {unknown[2]}.{suggest('--' + unknown[2], known)}"
        if choice := re.match(r"argument subcommand: invalid choice: '(.+?)'", message):
            return f"unknown subcommand {choice[1]!r}.{suggest(choice[1], SUBCOMMANDS)}"
        if value := re.match(r'Parser key "(.+?)":(.*)', message, re.DOTALL):
            return f"option --{value[1]}: {self._shorten_value(value[2])}"
        return re.sub(r"^argument ", "option ", message).rstrip(".") + "."

    @staticmethod
    def _shorten_value(complaint: str) -> str:
        if literal := re.search(r"Literal\[(.+)\]\. Got value: (.*)", complaint):
            choices = [choice.strip("'\" ") for choice in literal[1].split(",")]
            return f"expected one of {', '.join(choices)}, got {literal[2]}.{suggest(literal[2], choices)}"
        types = r"Subtypes: \[([^\n]+)\]\n.*Given value: (.*)|Expected an? (.+?)\. Got value: (.*)"
        if wrong := re.search(types, complaint, re.DOTALL):
            kinds, got = (part.strip() for part in wrong.groups() if part is not None)
            kinds = re.sub(r"<class '(.+?)'>|Literal\[(.+?)\]", r"\1\2", kinds).replace("NoneType", "null")
            return f"expected {re.sub(DOTTED, '', kinds).replace(', ', ' or ')}, got {got}."
        return " ".join(complaint.split()) + "."


def insert_subcommand(args: Sequence[str]) -> list[str]:
    """Return the arguments with the subcommand first, which is ``fit`` if they have none.

    Options may so precede the subcommand, or come without one. ``--help`` alone stays the general help.

    Example:
        >>> insert_subcommand(["--trainer.max_epochs", "3"])
        ['fit', '--trainer.max_epochs', '3']
        >>> insert_subcommand(["--seed_everything", "1", "test"])
        ['test', '--seed_everything', '1']
    """
    args = list(args)
    if args in (["--help"], ["-h"]):
        return args
    for position, word in enumerate(args):
        before = args[position - 1] if position else ""
        is_value = before.startswith("-") and "=" not in before  # as in `--data.corpus test`
        if word in SUBCOMMANDS and not is_value:
            return [word, *args[:position], *args[position + 1 :]]
    if args and not args[0].startswith("-"):
        return args  # a misspelt subcommand, which the parser reports
    return ["fit", *args]
