"""Lightning's argument parser with short errors: one line that names the option and suggests the nearest."""

import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import torch
import yaml  # type: ignore[import-untyped]
from jsonargparse.typing import register_type
from lightning import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from wnseq.training._lightning_internals import option_names, subparsers
from wnseq.training.cli.arguments import option_values
from wnseq.training.cli.errors import suggest

__all__ = ["RecipeParser", "find_nulls", "insert_subcommand", "read_config_files", "suggest_option", "with_defaults"]

DOTTED = re.compile(r"(\w+\.)+")  # the modules before a type's name
KEY = 'Parser key "'  # what a complaint about the value of an option begins with
CLASS_PROBLEM = re.compile(
    r"Problem with given class_path '[\w.]*?(\w+)':\s+(.+?)(?=\n +- |\n  Given value|\Z)", re.DOTALL
)
# what other programs call an option -> the last part of its name here
SYNONYMS = {
    "batch": "batch_size", "bs": "batch_size", "checkpoint": "ckpt_path", "ckpt": "ckpt_path", "resume": "ckpt_path",
    "clip": "gradient_clip_val", "grad_clip": "gradient_clip_val", "epochs": "max_epochs", "steps": "max_steps",
    "device": "accelerator", "gpu": "accelerator", "gpus": "devices", "hidden": "hidden_size", "layers": "num_layers",
    "lr": "learning_rate", "seed": "seed_everything", "wd": "weight_decay",
}  # fmt: skip
SUBCOMMANDS = ("fit", "validate", "test", "predict")


# so that a run's config.yaml holds the defaults of StochasticWeightAveraging and Timer in words that can be read again
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))
register_type(torch.device, str, torch.device, (ValueError, TypeError, RuntimeError), fail_already_registered=False)


class _Mistake(Exception):
    """What a parser found wrong first."""


class RecipeParser(LightningArgumentParser):
    """A parser that answers all mistakes of a command with one line and exit status 2."""

    further_commands: Sequence[str] = ()  # subcommands that it does not know, to suggest
    _collects = False

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse; after a mistake parse again without the option that it is about, so that all are found."""
        words, texts = list(sys.argv[1:] if args is None else args), list[str]()
        first: Exception | None = None
        while True:
            self._collects = True
            try:
                parsed = super().parse_args(words, **kwargs)
            except _Mistake as mistake:
                texts.append(self._shorten(message := str(mistake)))
                fewer = _without_option(words, message)
                if len(fewer) == len(words):
                    self._fail(texts, first or mistake)
                words, first = fewer, first or mistake
            else:
                if texts:
                    self._fail(texts, first)
                return parsed
            finally:
                self._collects = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that names the option, and exit with status 2."""
        if self._collects:
            raise _Mistake(message) from ex
        if not self.exit_on_error:  # one for the options of a class that an option names
            super().error(message, ex)
        self._fail([self._shorten(message)], ex)

    def _fail(self, texts: Sequence[str], ex: Exception | None) -> NoReturn:
        sys.stdout.flush()
        said = " ".join(dict.fromkeys(texts))
        print(f"{self.prog.replace(' [options]', '')}: error: {said} See --help.", file=sys.stderr)
        raise SystemExit(2) from ex

    def _shorten(self, message: str) -> str:
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            word = unknown[1].partition("=")[0]
            if not word.startswith("-"):
                return f"unexpected argument {word!r}: options begin with --."
            return f"unknown option {word}.{suggest_option(word, option_names(self))}"
        if unknown := re.match(r"Subcommand '(\w+)' does not accept option '(.+?)'", message):  # in a file
            known = option_names(subparsers(self)[unknown[1]])
            return f"unknown option {unknown[2]}.{suggest_option('--' + unknown[2], known)}"
        if choice := re.match(r"argument subcommand: invalid choice: '(.+?)'", message):
            return f"unknown subcommand {choice[1]!r}.{suggest(choice[1], (*SUBCOMMANDS, *self.further_commands))}"
        if value := re.match(KEY + r'(.+?)":(.*)', message, re.DOTALL):
            return self._shorten_class(value[1], value[2]) or f"option --{value[1]}: {self._shorten_value(value[2])}"
        return re.sub(r"^argument ", "option ", message).rstrip(".") + "."

    def _shorten_class(self, option: str, complaint: str) -> str:
        """Return what is wrong with the options of the class that an option names, or nothing if nothing is."""
        if not (of := CLASS_PROBLEM.search(complaint)):
            return ""
        name, problem = of.groups()
        if missing := re.match(r"the following arguments are required: (.+)", problem):
            needed = [f"--{option}.{argument.strip()}" for argument in missing[1].split(",")]
            return f"option --{option}: {name} needs {' and '.join(needed)}."
        if unknown := re.match(r"Option '(.+?)' is not accepted", problem):
            named = [each for each in _subclasses(Callback, Logger) if each.__name__ == name]
            near = suggest(unknown[1], [argument for each in named for argument in inspect.signature(each).parameters])
            return f"unknown option --{option}.{unknown[1]}: {name} has none of that name.{near}"
        if problem.startswith(KEY):
            return self._shorten(problem.replace(KEY, f"{KEY}{option}.", 1))
        return ""

    @staticmethod
    def _shorten_value(complaint: str) -> str:
        if literal := re.search(r"Literal\[(.+)\]\. Got value: (.*)", complaint):
            choices = [choice.strip("'\" ") for choice in literal[1].split(",")]
            return f"expected one of {', '.join(choices)}, got {literal[2]}.{suggest(literal[2], choices)}"
        types = r"Subtypes: \[([^\n]+)\]\n.*Given value: (.*)|Expected an? (.+?)\. Got value: (.*)"
        if wrong := re.search(types, complaint, re.DOTALL):
            kinds, got = (part.strip() for part in wrong.groups() if part is not None)
            kinds = re.sub(r"<class '(.+?)'>|Literal\[(.+?)\]", r"\1\2", kinds).replace("NoneType", "null")
            kinds = re.sub(DOTTED, "", kinds).replace(", ", " or ")
            bases = [base for base in (Callback, Logger) if base.__name__ in kinds]
            near = suggest(re.sub(DOTTED, "", got), [each.__name__ for each in _subclasses(*bases)])
            return f"expected {kinds}, got {got}.{near}"
        return " ".join(complaint.split()) + "."


def _subclasses(*bases: type) -> Iterator[type]:
    for base in bases:
        direct: list[type] = base.__subclasses__()
        yield from direct
        yield from _subclasses(*direct)


def _without_option(words: Sequence[str], message: str) -> list[str]:
    """Return a command line without the option that a parser complains about, its value and the options inside it."""
    named = re.match(r'(?:unrecognized arguments: |argument |Parser key "(?:\w+:)?)(?:--)?([\w.-]+)', message)
    kept, drops = [], False
    for word in words:
        option = word.partition("=")[0].removeprefix("--").rstrip("+")
        if word.startswith("--") or option == "-c":  # else a value, such as -1 or the -x that was meant as one
            option = "config" if option == "-c" else option
            drops = named is not None and (option == named[1] or option.startswith(f"{named[1]}."))
        if not drops:
            kept.append(word)
    return kept


def suggest_option(word: str, options: Iterable[str]) -> str:
    """Return a sentence that suggests the option that was meant, or nothing if none is near.

    It is one whose last part is the word, or what other programs call it; else the nearest by its letters.

    Example:
        >>> suggest_option("--lr", ["--model.learning_rate", "--model.layers"])
        ' Did you mean --model.learning_rate?'
        >>> suggest_option("--model.layer", ["--model.learning_rate", "--model.layers"])
        ' Did you mean --model.layers?'
    """
    options = list(options)
    last = word.rpartition(".")[2].lstrip("-").replace("-", "_").lower()
    for wanted in (last, SYNONYMS.get(last)):
        same = [option for option in options if option.rpartition(".")[2].lstrip("-") == wanted]
        if same:
            return f" Did you mean {min(same, key=lambda option: option.count('.'))}?"
    return suggest(word, options)


def read_config_files(arguments: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return the options in each file of ``--config``, by the file's place; one that is missing the parser reports.

    Raises:
        ValueError: It is not YAML with options by name; with the file and the line.
    """
    found = {}
    for place, _, name in option_values(arguments, ("--config", "-c")):
        path = Path(name).expanduser()
        if not path.is_file():
            continue
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8 text: {error}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise ValueError(f"{name} is not YAML{where}: {getattr(error, 'problem', None) or error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{name} must have options by name, such as data.batch_size: 16, got {content!r}")
        found[place] = content
    return found


def find_nulls(classes: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Return the options that are null although their constructor takes no None.

    Args:
        classes: The class of each group of options.
        options: The options of each group, by group.
    """
    nulls = []
    for group, of in classes.items():
        values = options[group]
        if values is None:
            nulls.append(group)
            continue
        hints: dict[str, Any] = {}
        for base in of.__mro__:
            hints = get_type_hints(base.__init__) | hints
        for name, value in vars(values).items():
            if value is None and name in hints and hints[name] is not Any and type(None) not in get_args(hints[name]):
                nulls.append(f"{group}.{name}")
    return nulls


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


def with_defaults(
    parser: Any, arguments: Sequence[str], config: Any, defaults: Mapping[str, Any], given: Collection[str]
) -> Any:
    """Return the options of a command with other defaults of its subcommand's options.

    Args:
        parser: The parser, whose subcommand then has the defaults too.
        arguments: The command line.
        config: What it was parsed to, which is changed.
        defaults: Defaults by the names of the options.
        given: Names of the options that the command has by itself.
    """
    subparsers(parser)[config.subcommand].set_defaults(dict(defaults))
    if any(isinstance(value, dict | list) for value in defaults.values()):  # the parser makes its own types of them
        return parser.parse_args(arguments)
    for name in defaults.keys() - set(given):
        config[config.subcommand][name] = defaults[name]
    return config
