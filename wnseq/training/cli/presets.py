"""Presets: files of options beside the recipes, taken by ``--config NAME``."""

import importlib.resources
import re
from collections.abc import Sequence
from pathlib import Path

from wnseq.training.cli.arguments import option_values
from wnseq.training.cli.errors import suggest

__all__ = ["describe_presets", "expand_preset_names", "find_presets"]

RECIPES = "wnseq.recipes"


def find_presets(recipe: str) -> dict[str, Path]:
    """Return the presets of a recipe, by name."""
    try:
        folder = Path(str(importlib.resources.files(RECIPES))) / "presets" / recipe
    except ModuleNotFoundError:
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def describe_presets(recipe: str) -> str:
    """Return a sentence for the general help that names the presets of a recipe; nothing if there are none."""
    names = ", ".join(find_presets(recipe))
    return f" Presets, taken by --config NAME: {names}." if names else ""


def expand_preset_names(arguments: Sequence[str], recipe: str) -> list[str]:
    """Return a command line with the path of the file in the place of a preset's name after ``--config``.

    A file of that name comes first.

    Raises:
        ValueError: There is neither such a file nor such a preset.
    """
    words, presets = list(arguments), find_presets(recipe)
    for place, before, name in option_values(arguments, ("--config", "-c")):
        if not re.fullmatch(r"[\w-]+", name) or Path(name).is_file():
            continue
        if name not in presets:
            known = f"The presets of {recipe} are {', '.join(presets)}" if presets else f"{recipe} has no presets"
            raise ValueError(f"--config {name}: there is no such file or preset. {known}.{suggest(name, presets)}")
        words[place] = f"{before}{presets[name]}"
    return words
