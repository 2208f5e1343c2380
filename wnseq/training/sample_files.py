"""Files of what a model draws: a figure of images, arrays, and texts."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wnseq.training import plots

__all__ = ["append_texts", "read_prompts", "save_arrays", "save_images", "save_samples"]


def save_images(images: Tensor, figure: Path, title: str) -> list[Path]:
    """Draw images of values from 0 to 1, ``(N, C, H, W)``, ten a row.

    Returns:
        The figure; nothing where matplotlib is missing.
    """
    shown = _as_array(images)
    return [figure] if plots.plot_images(shown, [""] * len(shown), figure, title=title) else []


def save_arrays(path: Path, **arrays: Tensor) -> Path:
    """Write arrays to an ``.npz``, making its folder; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: _as_array(value) for name, value in arrays.items()})
    return path


def _as_array(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def save_samples(output: str | Path, images: Tensor, /, **arrays: Tensor) -> list[Path]:
    """Write samples as a figure and as arrays.

    Args:
        output: Path of both files without their endings .png and .npz.
        images: What the figure shows, see :func:`save_images`.
        arrays: What the ``.npz`` holds.

    Returns:
        The files.
    """
    output = Path(output).expanduser()
    arrays_file = save_arrays(Path(f"{output}.npz"), **arrays)
    return [*save_images(images, Path(f"{output}.png"), "samples"), arrays_file]


def append_texts(output: str | Path, texts: Iterable[str], /, **settings: Any) -> Path:
    """Append sampled texts to a file, below a line with how they were drawn; return its path.

    Args:
        output: The file; what it holds is kept.
        texts: The texts.
        settings: What the line names; None is left out.
    """
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    how = ", ".join(f"{name} {value!r}" for name, value in settings.items() if value is not None)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        for number, text in enumerate(texts):
            file.write(f"--- sample {number}: {how}\n{text}\n\n")
    return path


def read_prompts(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 file that are not empty, each a prompt.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not UTF-8, or has no line.
    """
    path = Path(path).expanduser()
    if path.is_dir() or not path.exists():  # a pipe is a file here
        raise FileNotFoundError(f"there is no file of prompts at {path}")
    try:
        prompts = [line for line in path.read_text("utf-8-sig").split("\n") if line]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    if not prompts:
        raise ValueError(f"{path} has no prompt: write one a line")
    return prompts
