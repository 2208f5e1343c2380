"""Images in three parts, and what makes those of one set fit a model that another has trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from wnseq.data.images.transforms import convert_channels

PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Images:
    """One part of a set.

    Args:
        pixels: Whole numbers, uint8, ``(N, C, H, W)``.
        labels: Classes, int64, ``(N,)``; None where the set has none.
        files: The file of each image; None where one file has many.
    """

    pixels: Tensor
    labels: Tensor | None
    files: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice) -> "Images":
        labels = None if self.labels is None else self.labels[index]
        return Images(self.pixels[index], labels, None if self.files is None else self.files[index])

    @cached_property
    def sha256(self) -> str:
        """Hash of shape, pixels and labels."""
        digest = sha256(str(tuple(self.pixels.shape)).encode())
        for tensor in (self.pixels, self.labels):
            if tensor is not None:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageSet:
    """A set in three parts.

    Args:
        name: Name in ``SETS``, or path.
        num_values: Values a pixel can have.
        classes: Names of the classes; empty where there are no labels.
        split: How the parts were made, in words.
        parts: ``train``, ``val``, ``test``.
        own: Whether they are a user's, whose pixels are bytes even if none is greater than 1.
    """

    name: str
    num_values: int
    classes: tuple[str, ...]
    split: str
    parts: Mapping[str, Images]
    own: bool = False

    @cached_property
    def sha256(self) -> str:
        """Hash of the three parts."""
        return sha256("".join(part.sha256 for part in self.parts.values()).encode()).hexdigest()


def match_images(images: ImageSet, num_values: int, classes: Sequence[str]) -> ImageSet:
    """Return images with the values of a pixel and the numbers of the classes of training images.

    Raises:
        ValueError: The pixels have other values, or there is a class that the others lack.
    """
    if images.num_values != num_values and not (images.own and images.num_values < num_values):
        raise ValueError(
            f"the pixels of {images.name} have {images.num_values} values, those of the training images {num_values}"
        )
    if not images.classes or not classes or tuple(classes) == images.classes:
        return replace(images, num_values=num_values)
    if strange := [name for name in images.classes if name not in classes]:
        raise ValueError(f"{images.name} has the class {strange[0]}, which the training images lack: {_few(classes)}")
    number = torch.tensor([classes.index(name) for name in images.classes])
    parts = {
        part: replace(each, labels=None if each.labels is None else number[each.labels])
        for part, each in images.parts.items()
    }
    return replace(images, num_values=num_values, classes=tuple(classes), parts=parts)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:9]) + (", …" if len(names) > 9 else "")


def with_channels(images: ImageSet, channels: int | None) -> ImageSet:
    """Return images in grey, for 1, or with three channels, for 3; None leaves them."""
    if channels in (None, images.parts["test"].pixels.shape[1]):
        return images
    parts = {part: replace(each, pixels=convert_channels(each.pixels)) for part, each in images.parts.items()}
    return replace(images, split=f"{images.split}, {'made grey' if channels == 1 else 'grey as colour'}", parts=parts)
