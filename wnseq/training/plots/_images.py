"""Figures of images: rows with captions, and an animation of images that change together."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wnseq.training.plots._style import TITLE_COLOR, VALIDATION_COLOR, new_figure, print_failures

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@print_failures("figure of images")
def plot_images(
    images: "npt.NDArray[np.floating[Any]]", captions: Sequence[str], file: Path, *, title: str, columns: int = 10
) -> None:
    """Draw images in rows, each under its caption.

    Args:
        images: Values from 0 to 1.
        captions: One for each image.
        file: The file to write. Its ending names the format.
        title: Text above the figure.
        columns: Images in a row.

    Shape:
        - images: ``(N, 1, H, W)`` or ``(N, 3, H, W)``
    """
    rows = -(-len(captions) // columns)
    columns = min(columns, len(captions))
    with new_figure(file, max(2.4, 0.8 * columns), 0.4 + rows) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=9, color=TITLE_COLOR)
        axes = figure.subplots()  # one for all images: forty axes take a second and a half
        axes.set_axis_off()
        for position, (caption, image) in enumerate(zip(captions, images, strict=True)):
            row, column = divmod(position, columns)
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            extent = (column, column + 0.9, 1.2 * row + 0.9, 1.2 * row)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
            axes.text(column + 0.45, 1.2 * row - 0.06, caption, ha="center", fontsize=6, color="#333333")
        axes.set_xlim(0, columns)
        axes.set_ylim(1.2 * rows, -0.25)


def save_animation(
    frames: "npt.NDArray[np.floating[Any]]",
    boxes: "npt.NDArray[np.floating[Any]] | None",
    file: Path,
    *,
    columns: int,
) -> Path:
    """Animate grey images that change together, each with the outline of a box.

    Args:
        frames: Values from 0 to 1.
        boxes: Left, top, right and bottom of the boxes in pixels from the upper left corner. NaN where an image has no
            box, None if none has one.
        file: The GIF to write. It stays on the last step for a second and a half.
        columns: Images in a row.

    Shape:
        - frames: ``(T, N, H, W)``
        - boxes: ``(T, N, 4)``

    Returns:
        The file.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    import numpy as np
    from matplotlib.animation import PillowWriter
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    steps, number, height, width = frames.shape
    cells = np.array([divmod(position, columns) for position in range(number)])
    top, left = (cells * (height + 1, width + 1)).T  # one pixel between images
    sheet = np.ones((steps, int(top.max()) + height, (width + 1) * min(columns, number) - 1))
    for k in range(number):
        sheet[:, top[k] : top[k] + height, left[k] : left[k] + width] = frames[:, k]
    figure = Figure(figsize=(sheet.shape[2] * 0.8 / height, sheet.shape[1] * 0.8 / height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    picture = axes.imshow(sheet[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    outlines = LineCollection([], colors=VALIDATION_COLOR, linewidths=1.5)
    axes.add_collection(outlines)
    fps = max(4, steps // 6)
    writer = PillowWriter(fps=fps)
    with writer.saving(figure, str(file), dpi=96):
        for step in [*range(steps), *[steps - 1] * (3 * fps // 2)]:
            picture.set_data(sheet[step])
            if boxes is not None:
                x = left + boxes[step][:, [0, 2, 2, 0, 0]].clip(0, width).T - 0.5  # (5, N)
                y = top + boxes[step][:, [1, 1, 3, 3, 1]].clip(0, height).T - 0.5
                outlines.set_segments(list(np.stack((x, y), -1).swapaxes(0, 1)))
            writer.grab_frame()
    return file
