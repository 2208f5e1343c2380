"""Lightning's argument parser with short errors: one line that names the option and guesses what was meant."""

import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from wnseq.training.cli.errors import guess

DOTTED = re.compile(r"(\w+\.)+")  # the modules before a type's name
SUBCOMMANDS = ("fit", "validate", "test", "predict")


class RecipeParser(LightningArgumentParser):
    """Refuses abbreviations, and answers a mistake with one line and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that names the option, and leave with status 2."""
        sys.stdout.flush()
        print(f"{self.prog.replace(' [options]', '')}: error: {self._shorten(message)} See --help.", file=sys.stderr)
        raise SystemExit(2) from ex

    def _shorten(self, message: str) -> str:
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            word = unknown[1].partition("=")[0]
            if not word.startswith("-"):
                return f"unexpected argument {word!r}: options begin with --."
            return f"unknown option {word}.{guess(word, self._option_string_actions)}"
        if unknown := re.match(r"Subcommand '(\w+)' does not accept option '(.+?)'", message):  # in a file
            parsers = next(action.choices for action in self._actions if isinstance(action.choices, dict))
            return f"unknown option {unknown[2]}.{guess('--' + unknown[2], parsers[unknown[1]]._option_string_actions)}"
        if choice := re.match(r"argument subcommand: invalid choice: '(.+?)'", message):
            return f"unknown subcommand {choice[1]!r}.{guess(choice[1], SUBCOMMANDS)}"
        if value := re.match(r'Parser key "(.+?)":(.*)', message, re.DOTALL):
            return f"option --{value[1]}: {self._shorten_value(value[2])}"
        return re.sub(r"^argument ", "option ", message).rstrip(".") + "."

    @staticmethod
    def _shorten_value(complaint: str) -> str:
        if literal := re.search(r"Literal\[(.+)\]\. Got value: (.*)", complaint):
            choices = [choice.strip("'\" ") for choice in literal[1].split(",")]
            return f"expected one of {', '.join(choices)}, got {literal[2]}.{guess(literal[2], choices)}"
        types = r"Subtypes: \[([^\n]+)\]\n.*Given value: (.*)|Expected an? (.+?)\. Got value: (.*)"
        if wrong := re.search(types, complaint, re.DOTALL):
            kinds, got = (part.strip() for part in wrong.groups() if part is not None)
            kinds = re.sub(r"<class '(.+?)'>|Literal\[(.+?)\]", r"\1\2", kinds).replace("NoneType", "null")
            return f"expected {re.sub(DOTTED, '', kinds).replace(', ', ' or ')}, got {got}."
        return " ".join(complaint.split()) + "."


def with_subcommand(args: Sequence[str]) -> list[str]:
    """Put the subcommand first, and ``fit`` where there is none.

    Returns:
        The arguments in the order LightningCLI wants. Options may so stand before the subcommand, or alone; ``--help``
        alone stays the general help.

    Example:
        >>> with_subcommand(["--trainer.max_epochs", "3"])
        ['fit', '--trainer.max_epochs', '3']
        >>> with_subcommand(["--seed_everything", "1", "test"])
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
        return args  # a misspelt subcommand: the parser says so
    return ["fit", *args]
