"""ZCA whitening: the linear map that removes all correlation between pixels and changes images least."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wnseq.data.files import cache_folder, writing

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


def fit(images: Tensor, regulariser: float = REGULARISER) -> Whitening:
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


def fitted(images: Tensor, content: str, regulariser: float = REGULARISER) -> Whitening:
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
        whitening = fit(images, regulariser)
        found = np.concatenate([whitening.mean[None].numpy(), whitening.matrix.numpy()])
        with writing(path) as file:
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
