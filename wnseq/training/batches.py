"""Checks of what goes into a network and comes out of it: a user's batches, and what samples are drawn from."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from wnseq.errors import ShapeError

__all__ = [
    "check_classes",
    "check_finite",
    "check_image_multiple",
    "check_image_shape",
    "check_pixels",
    "check_tokens",
    "get_labelled",
    "get_labels",
    "get_tensor",
]


def get_tensor(batch: Any, field: str) -> Tensor:
    """Return a field of a named tuple, else the first of a tuple or list, else the batch itself.

    Raises:
        TypeError: That is no tensor.
    """
    named = field in getattr(batch, "_fields", ())
    found = getattr(batch, field) if named else batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(found, Tensor):
        raise TypeError(
            f"expected a batch with {field}, a tuple that begins with a tensor, or a tensor, got {type(batch).__name__}"
        )
    return found


def get_labels(batch: Any) -> Tensor | None:
    """Return the second of a tuple or list if it is a tensor, else None: a batch of images alone has no labels."""
    second = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    return second if isinstance(second, Tensor) else None


def get_labelled(batch: Any) -> tuple[Tensor, Tensor]:
    """Return images and labels: the first two of a tuple or list.

    Raises:
        TypeError: They are not two tensors, or the images are not floating-point numbers.
    """
    found = tuple(batch[:2]) if isinstance(batch, tuple | list) else ()
    if len(found) < 2 or not all(isinstance(part, Tensor) for part in found):
        raise TypeError(f"expected a batch of images and labels, a tuple of two tensors, got {_describe(batch)}")
    images, labels = found
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point numbers, scaled to about -1 to 1, got {images.dtype}")
    return images, labels


def _describe(batch: Any) -> str:
    kind = type(batch).__name__
    if not isinstance(batch, tuple | list):
        return kind
    return f"{kind} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"


def check_finite(values: Tensor, name: str) -> None:
    """Check what a model computes before something is drawn from it.

    Raises:
        ValueError: There is a number that is not finite.
    """
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} are not finite: the model has diverged. Draw from an earlier checkpoint")


def check_image_shape(images: Tensor, shape: Sequence[int]) -> None:
    """Check that images have the shape that a network is for.

    Args:
        images: Images, ``(N, *shape)``.
        shape: Channels, height and width.

    Raises:
        ShapeError: They have another one.
    """
    if tuple(images.shape[1:]) != tuple(shape):
        expected = ", ".join(map(str, ("N", *shape)))
        raise ShapeError(
            f"images must have shape ({expected}), which the network is for, got {tuple(images.shape)}: give "
            "--data.size, or start another model"
        )


def check_image_multiple(height: int, width: int, multiple: int) -> None:
    """Check that a network can halve the size of images as often as it does.

    Raises:
        ValueError: Height or width is not a multiple; with the size to enlarge the images to.
    """
    if height % multiple or width % multiple:
        fits = -(-max(height, width) // multiple) * multiple
        raise ValueError(
            f"images must be multiples of {multiple} high and wide, got {height} x {width}: --data.size {fits}"
        )


def check_classes(labels: Any, number: int, name: str = "labels", ignored: int | None = None) -> None:
    """Check that labels are integers from 0 to ``number`` less 1, or ``ignored``.

    On a GPU, where looking at them would wait, only their dtype: torch asserts there that they are in range.

    Raises:
        TypeError: They are no tensor of integers.
        ValueError: One is something else.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{name} must be a tensor of integers, got {got}")
    if not labels.is_cpu:
        return
    counted = labels if ignored is None else labels[labels != ignored]
    if counted.numel():
        least, most = (int(bound) for bound in counted.aminmax())
        if least < 0 or most >= number:
            raise ValueError(f"{name} must be from 0 to {number - 1}, got {least} to {most}")


def check_tokens(inputs: Tensor, targets: Tensor, number: int, ignored: int, training: bool) -> None:
    """Check the tokens of a batch, and their targets, as :func:`check_classes` does.

    Args:
        inputs: The tokens.
        targets: What follows each of them, or ``ignored``.
        number: Entries of the vocabulary.
        ignored: Target that does not count.
        training: Whether a target must count, without which there is nothing to learn; on a GPU this is not looked at.

    Raises:
        TypeError: They are no tensors of integers.
        ValueError: One is out of its range, or no target counts.
    """
    check_classes(inputs, number, "tokens")
    check_classes(targets, number, "targets", ignored)
    if training and targets.is_cpu and bool((targets == ignored).all()):
        raise ValueError(f"a training batch must have a target that counts, all are {ignored}")


def check_pixels(pixels: Tensor, num_values: int, channels: int | None = None) -> None:
    """Check that pixels are whole numbers from 0 to the number of values less 1, perhaps of so many channels.

    Raises:
        ShapeError: They are not ``(N, channels, H, W)``.
        ValueError: A pixel is something else.
    """
    if channels is not None and (pixels.ndim != 4 or pixels.shape[1] != channels):
        raise ShapeError(f"pixels must have shape (N, {channels}, H, W), got {tuple(pixels.shape)}")
    top, least, most = num_values - 1, float(pixels.min()), float(pixels.max())
    if least < 0 or most > top or bool((pixels != pixels.round()).any()):
        raise ValueError(f"pixels must be whole numbers from 0 to {top}, unscaled, got {least:g} to {most:g}")
