"""From pixels to what a network sees: scaled, whitened, enlarged. A checkpoint carries it."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.data._files import atomic_write, cache_folder

FORMAT = 1  # of the cached files; changes with everything that changes their content
REGULARISER = 1e-5  # the paper's code
CHUNK = 4096  # images at once: memory stays bounded


@dataclass(frozen=True)
class Whitening:
    """x → (x − μ) W, with W = U (Λ + ε)^(−1/2) Uᵀ from the covariance U Λ Uᵀ of the training images.

    The covariance of what comes out is U Λ/(Λ + ε) Uᵀ: the identity, but where the images vary by less than ε.

    Args:
        mean: μ, of shape ``(D,)``, one entry a pixel and channel.
        matrix: W, of shape ``(D, D)``, symmetric.

    Shape:
        - images: ``(N, *)`` of D entries each; the output likewise

    Source:
        Bell & Sejnowski 1997; ε as in the code of Salimans & Kingma 2016, arXiv 1602.07868, section 5.1.
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Whiten images."""
        mean, matrix = self.mean.to(images), self.matrix.to(images)
        white = torch.empty_like(images)
        for first in range(0, len(images), CHUNK):
            flat = images[first : first + CHUNK].flatten(1)  # (N, D)
            white[first : first + CHUNK] = ((flat - mean) @ matrix).view_as(images[first : first + CHUNK])
        return white


def fit_whitening(images: Tensor, regulariser: float = REGULARISER) -> Whitening:
    """Fit the map on images, in float64.

    Args:
        images: of shape ``(N, *)``.
        regulariser: ε; what keeps a pixel that never varies from being divided by zero.

    Raises:
        ValueError: the regulariser is not greater than 0.
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
    """Return the map of :func:`fit`, fitted now or found in the cache.

    Args:
        images: of shape ``(N, *)``.
        content: a hash of the images.
        regulariser: ε.

    Raises:
        OSError: the disk is full; nothing is left that a later run would find.
    """
    key = sha256(f"{FORMAT} {content} {regulariser}".encode()).hexdigest()
    path = cache_folder() / "whitening" / f"{key}.npy"
    size = images[0].numel()
    found = _stored(path, size)
    if found is None:
        whitening = fit_whitening(images, regulariser)
        found = np.concatenate([whitening.mean[None].numpy(), whitening.matrix.numpy()])
        with atomic_write(path) as file:
            np.save(file, found)
    table = torch.from_numpy(found)
    return Whitening(table[0], table[1:])


def _stored(path: Path, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]] | None:
    """Return a cached file's table, None where it is missing or damaged."""
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = table.shape == (size + 1, size) and table.dtype == np.float64 and np.isfinite(table).all()
    return table if fits else None


@dataclass(frozen=True)
class Preprocess:
    """Pixels to images: (pixel − offset) / scale, then ZCA whitening where it is asked for, then the asked-for size.

    Args:
        num_values: how many values a pixel can have: 2, 17, 256.
        offset: one number a channel.
        scale: one number a channel.
        size: height and width that come out, None for those of the images.
        whitening: fitted on scaled images, or None.

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
        """Prepare images of the size and the channels they had in training."""
        if self.whitening is None:
            return self.normalise(self.enlarge(pixels))  # the margin is 0, which is black
        return self.enlarge(self.normalise(pixels))  # the margin is the mean image's

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale and whiten, at the images' own size."""
        channels = (-1, 1, 1)
        offset = torch.tensor(self.offset, device=pixels.device).view(channels)
        images = (pixels.float() - offset) / torch.tensor(self.scale, device=pixels.device).view(channels)
        return images if self.whitening is None else self.whitening(images)

    def enlarge(self, images: Tensor) -> Tensor:
        """Repeat each pixel as often as it fits into ``size``, and put zeros around; pixels stay whole numbers.

        Raises:
            ValueError: the images are larger than that.
        """
        if self.size is None:
            return images
        height, width = images.shape[2:]
        times = min(self.size // height, self.size // width)
        if not times:
            raise ValueError(f"size must be at least that of the images, {height} x {width}, got {self.size}")
        images = images.repeat_interleave(times, 2).repeat_interleave(times, 3)
        above, left = (self.size - times * height) // 2, (self.size - times * width) // 2
        return F.pad(images, (left, self.size - times * width - left, above, self.size - times * height - above))

    def state(self) -> dict[str, Any]:
        """Return plain types and tensors, for a checkpoint; the whitening in float32."""
        white = self.whitening and [self.whitening.mean.float(), self.whitening.matrix.float()]
        return {
            "num_values": self.num_values,
            "offset": list(self.offset),
            "scale": list(self.scale),
            "size": self.size,
            "whitening": white,
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> "Preprocess":
        """Return what ``state`` was taken of.

        Raises:
            ValueError: the state is not one.
        """
        try:
            white = state["whitening"]
            return Preprocess(
                state["num_values"],
                tuple(state["offset"]),
                tuple(state["scale"]),
                state["size"],
                None if white is None else Whitening(*white),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"This is not the state of a preprocessing: {type(error).__name__} {error} while it was read."
            ) from error
