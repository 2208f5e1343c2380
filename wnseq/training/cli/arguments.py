"""The words of a command line before they are parsed: which are values, and lists without brackets."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from typing import get_args, get_origin, get_type_hints

__all__ = ["add_brackets", "option_values"]


def option_values(words: Sequence[str], options: Collection[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the place of each value of some options, what precedes it in its word, and the value.

    Example:
        >>> list(option_values(["--a", "1", "--b=2", "--a=3"], ["--a"]))
        [(1, '', '1'), (3, '--a=', '3')]
    """
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in options:
            continue
        if equals:
            yield place, f"{option}=", value
        elif place + 1 < len(words):
            yield place + 1, "", words[place + 1]


def add_brackets(words: Sequence[str], *classes: type) -> list[str]:
    """Return a command line in which each value of an option that is a list has its brackets: ``1,2`` as ``[1,2]``.

    Brackets need quotes in a shell; commas do not.

    Args:
        words: The command line.
        classes: Dataclasses whose fields are the options.
    """
    options = set()
    for each in classes:
        hints = get_type_hints(each)
        for field in dataclasses.fields(each):
            kinds = [hints[field.name], *get_args(hints[field.name])]  # list[int], or list[int] | None
            if any(get_origin(kind) is list for kind in kinds):
                options.add(f"--{field.name}")
    changed = list(words)
    for place, before, value in option_values(words, options):
        if re.fullmatch(r"[^\[\]{}]+", value) and value not in ("null", "None"):
            changed[place] = f"{before}[{value}]"
    return changed
