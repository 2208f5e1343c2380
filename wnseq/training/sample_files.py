"""Files of what a model draws: a figure of images, and arrays."""

from pathlib import Path

import numpy as np
from torch import Tensor

from wnseq.training import plots


def save_images(images: Tensor, figure: Path, title: str) -> list[Path]:
    """Draw images of values from 0 to 1, ``(N, C, H, W)``, ten a row.

    Returns:
        The figure; nothing where matplotlib is missing.
    """
    shown = images.detach().cpu().numpy()
    return [figure] if plots.plot_images(shown, [""] * len(shown), figure, title=title) else []


def save_arrays(path: Path, **arrays: Tensor) -> Path:
    """Write arrays to an ``.npz``, making its folder; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: value.detach().cpu().numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
    return path


def save_samples(output: str | Path, images: Tensor, /, **arrays: Tensor) -> list[Path]:
    """Write samples as a figure and as arrays.

    Args:
        output: Path of both files without their endings .png and .npz.
        images: What the figure shows, see :func:`save_images`.
        arrays: What the ``.npz`` holds.

    Returns:
        The files.
    """
    arrays_file = save_arrays(Path(f"{output}.npz"), **arrays)
    return [*save_images(images, Path(f"{output}.png"), "samples"), arrays_file]
