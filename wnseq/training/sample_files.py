"""Files of what a model draws: a figure of images, and arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wnseq.training import plots

__all__ = ["save_arrays", "save_images", "save_samples"]


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
