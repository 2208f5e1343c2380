"""Pixels to what a network sees: scaled, whitened, enlarged. A checkpoint holds the parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._files import atomic_write
from wnseq.data._files import cache_folder, read_cached
from wnseq.errors import FileFormatError, ShapeError

FORMAT = 1  # of the cached files; changes with everything that changes their content
REGULARISER = 1e-5  # the paper's code
CHUNK = 4096  # images at once: memory stays bounded


@dataclass(frozen=True)
class Whitening:
    """ZCA whitening.

    x → (x − μ) W, with W = U (Λ + ε)^(−1/2) Uᵀ from the covariance U Λ Uᵀ of the training images. The covariance of the
    output is U Λ/(Λ + ε) Uᵀ: the identity, except where the images vary by less than ε.

    Args:
        mean: μ, ``(D,)``, one entry per pixel and channel.
        matrix: W, ``(D, D)``, symmetric.

    Shape:
        - images, output: ``(N, *)`` of D entries each

    Source:
        Bell & Sejnowski 1997; ε as in the code of Salimans & Kingma 2016, arXiv 1602.07868, section 5.1.
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Return the whitened images.

        Raises:
            ShapeError: They have another number of entries than the training images.
        """
        entries, shape = len(self.mean), tuple(images.shape[1:])
        if math.prod(shape) != entries:
            size = math.isqrt(entries // shape[0])
            hint = f": --data.resize {size} for images of your own" if shape[0] * size**2 == entries else ""
            raise ShapeError(
                f"the whitening is of the training images' {entries:,} entries, got images of "
                f"{' x '.join(map(str, shape))}{hint}"
            )
        mean, matrix = self.mean.to(images), self.matrix.to(images)
        white = torch.empty_like(images)
        for first in range(0, len(images), CHUNK):
            flat = images[first : first + CHUNK].flatten(1)  # (N, D)
            white[first : first + CHUNK] = ((flat - mean) @ matrix).view_as(images[first : first + CHUNK])
        return white


@dataclass(frozen=True)
class Preprocess:
    """Map pixels to images: (pixel − offset) / scale, optional ZCA whitening, optional enlarging.

    Args:
        num_values: Values a pixel can have: 2, 17, 256.
        offset: One number per channel.
        scale: One number per channel.
        size: Height and width of the output; None for those of the input.
        whitening: Fitted on scaled images, or None.

    Shape:
        - pixels: ``(N, C, H, W)``, integers from 0 to ``num_values`` − 1
        - output: ``(N, C, size, size)``, float32
    """

    num_values: int
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    size: int | None = None
    whitening: Whitening | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        """Prepare images of the size and the channels they had in training.

        Raises:
            ShapeError: They are not ``(N, C, H, W)`` with the channels of the training images.
            ValueError: A pixel is not a whole number from 0 to ``num_values`` − 1.
        """
        self._check(pixels)
        if self.whitening is None:
            return self.normalise(self.enlarge(pixels))  # the margin is 0, which is black
        return self.enlarge(self.normalise(pixels))  # the margin is the mean image's

    def _check(self, pixels: Tensor) -> None:
        channels, top = len(self.offset), self.num_values - 1
        if pixels.dim() != 4 or pixels.shape[1] != channels:
            raise ShapeError(f"pixels must have shape (N, {channels}, H, W), got {tuple(pixels.shape)}")
        if pixels.numel():
            least, most = float(pixels.min()), float(pixels.max())
            if not (least >= 0 and most <= top) or bool((pixels != pixels.round()).any()):  # NaN is not >= 0
                raise ValueError(
                    f"pixels must be whole numbers from 0 to {top}, as in the training images, got {least:g} to "
                    f"{most:g}"
                )

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale and whiten, at the input's own size."""
        channels = (-1, 1, 1)
        offset = torch.tensor(self.offset, device=pixels.device).view(channels)
        images = (pixels.float() - offset) / torch.tensor(self.scale, device=pixels.device).view(channels)
        return images if self.whitening is None else self.whitening(images)

    def enlarge(self, images: Tensor) -> Tensor:
        """Repeat each pixel as often as it fits into ``size``, and pad with zeros; the dtype stays.

        Raises:
            ValueError: The images are larger than that.
        """
        if self.size is None:
            return images
        height, width = images.shape[2:]
        times = min(self.size // height, self.size // width)
        if not times:
            raise ValueError(
                f"size must be at least that of the images, {height} x {width}, got {self.size}: --data.size "
                f"{max(height, width)}"
            )
        images = images.repeat_interleave(times, 2).repeat_interleave(times, 3)
        above, left = (self.size - times * height) // 2, (self.size - times * width) // 2
        return F.pad(images, (left, self.size - times * width - left, above, self.size - times * height - above))

    def state(self) -> dict[str, Any]:
        """Return plain types and tensors for a checkpoint, the whitening in float32."""
        white = self.whitening and [self.whitening.mean.float(), self.whitening.matrix.float()]
        return {
            "num_values": self.num_values,
            "offset": list(self.offset),
            "scale": list(self.scale),
            "size": self.size,
            "whitening": white,
        }

    def is_same(self, other: "Preprocess") -> bool:
        """Return True if another preprocessing makes the same images, as far as a checkpoint tells."""
        (*own, white), (*others, whitens) = self.state().values(), other.state().values()
        if own != others or (white is None) != (whitens is None):
            return False
        return white is None or all(torch.equal(*pair) for pair in zip(white, whitens, strict=True))

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "Preprocess":
        """Return the preprocessing whose ``state`` this is.

        Raises:
            ValueError: The state is not one.
        """
        try:
            white = state["whitening"]
            whitening = None if white is None else Whitening(*white)
            numbers, size = [state["num_values"], *state["offset"], *state["scale"]], state["size"]
            whole = isinstance(numbers[0], int) and isinstance(size, int | None)
            tensors = whitening is None or (isinstance(whitening.mean, Tensor) and isinstance(whitening.matrix, Tensor))
            if not (whole and tensors and all(isinstance(number, int | float) for number in numbers)):
                raise TypeError("an entry of another type")
            return Preprocess(numbers[0], tuple(state["offset"]), tuple(state["scale"]), size, whitening)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"This is not the state of a preprocessing: {type(error).__name__} {error} while it was read."
            ) from error


def fit_preprocess(
    pixels: Tensor,
    num_values: int,
    normalize: Literal["symmetric", "unit", "standard"],
    size: int | None = None,
    whiten_as: str | None = None,
) -> Preprocess:
    """Return the preprocessing of a set, fitted on its training part.

    Args:
        pixels: The training part, ``(N, C, H, W)``.
        num_values: Values a pixel can have.
        normalize: As in ``ImageDataModule``.
        size: Height and width of the output.
        whiten_as: Hash of the training part, by which the whitening is cached; None for no whitening.
    """
    channels, top = pixels.shape[1], num_values - 1
    if normalize == "standard":
        # exact, from whole numbers: the sums do not depend on the order of the images
        counts = torch.stack([torch.bincount(pixels[:, c].flatten(), minlength=num_values) for c in range(channels)])
        frequencies, values = counts.double() / counts[0].sum(), torch.arange(num_values, dtype=torch.float64)
        mean = frequencies @ values
        std = (frequencies @ values.square() - mean.square()).clamp(min=0).sqrt()
        offset = tuple(mean.tolist())
        scale = tuple(each or 1.0 for each in std.tolist())  # a channel that never varies stays 0
    elif normalize == "unit":
        offset, scale = (0.0,) * channels, (float(top),) * channels
    else:
        offset, scale = (top / 2,) * channels, ((top + 1) / 2,) * channels
    scaled = Preprocess(num_values, offset, scale, size)
    if whiten_as is None:
        return scaled
    whitening = cached_whitening(scaled.normalise(pixels), f"{whiten_as} {offset} {scale}")
    return Preprocess(num_values, offset, scale, size, whitening)


def fit_whitening(images: Tensor, regulariser: float = REGULARISER) -> Whitening:
    """Fit ZCA whitening on images, ``(N, *)``, in float64.

    Args:
        images: Scaled images.
        regulariser: ε; without it a pixel that never varies would be divided by zero.

    Raises:
        ValueError: The regulariser is not greater than 0.
    """
    if not regulariser > 0:
        raise ValueError(f"whitening: the regulariser must be greater than 0, got {regulariser}")
    chunks = [images[first : first + CHUNK].flatten(1) for first in range(0, len(images), CHUNK)]
    mean = torch.stack([chunk.double().sum(0) for chunk in chunks]).sum(0) / len(images)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for chunk in chunks:
        centred = chunk.double() - mean
        covariance += centred.T @ centred / len(images)
    values, vectors = torch.linalg.eigh(covariance)
    scale = (values.clamp(min=0) + regulariser).rsqrt()  # rounding leaves the smallest a little below 0
    return Whitening(mean, (vectors * scale) @ vectors.T)


def cached_whitening(images: Tensor, content: str, regulariser: float = REGULARISER) -> Whitening:
    """Return ``fit_whitening(images, regulariser)``, from the cache if it holds one of the same ``content``."""
    key = sha256(f"{FORMAT} {content} {regulariser}".encode()).hexdigest()
    path = cache_folder() / "whitening" / f"{key}.npz"
    found = read_cached(path, lambda path: _stored(path, images[0].numel()))
    if found is None:
        whitening = fit_whitening(images, regulariser)
        found = np.concatenate([whitening.mean[None].numpy(), whitening.matrix.numpy()])
        with atomic_write(path) as file:
            np.savez(file, table=found)  # whose archive has a checksum
    table = torch.from_numpy(found)
    return Whitening(table[0], table[1:])


def _stored(path: Path, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return a cached file's table.

    Raises:
        FileFormatError: It is another's.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        table: np.ndarray[tuple[int, int], np.dtype[np.float64]] = archive["table"]
    if not (table.shape == (size + 1, size) and table.dtype == np.float64 and np.isfinite(table).all()):
        raise FileFormatError(f"{path} holds no whitening of {size} values")
    return table


def convert_channels(pixels: Tensor) -> Tensor:
    """Return bytes of one channel for those of three, by the weights of ITU-R 601, and of three equal ones for one.

    Shape:
        - pixels: ``(N, 3, H, W)`` or ``(N, 1, H, W)``, uint8
    """
    if pixels.shape[1] == 1:
        return pixels.expand(-1, 3, -1, -1).contiguous()
    grey = torch.empty(len(pixels), 1, *pixels.shape[2:], dtype=torch.uint8)
    for first in range(0, len(pixels), CHUNK):
        red, green, blue = pixels[first : first + CHUNK].int().unbind(1)
        grey[first : first + CHUNK, 0] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16  # as Pillow rounds
    return grey


def translate(images: Tensor, by: Tensor, most: int) -> Tensor:
    """Move each image by its own number of pixels, padding with zeros.

    Args:
        images: Images, ``(N, C, H, W)``.
        by: Rows and columns, ``(2, N)``, from 0 to ``2 * most``; ``most`` leaves an image where it is.
        most: The largest distance.
    """
    number, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4)
    rows = by[0, :, None] + torch.arange(height)  # (N, H)
    columns = by[1, :, None] + torch.arange(width)  # (N, W)
    which = torch.arange(number)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (N, H, W, C) → (N, C, H, W)
