"""From pixel levels to what a network sees: scaled, whitened, enlarged. A checkpoint carries it."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq.data.whitening import Whitening


@dataclass(frozen=True)
class Preprocess:
    """Levels to images: (level − offset) / scale, then ZCA whitening where it is asked for, then the asked-for size.

    Args:
        levels: how many values a pixel can have: 2, 17, 256.
        offset: one number a channel.
        scale: one number a channel.
        size: height and width that come out, None for those of the images.
        whitening: fitted on scaled images, or None.

    Shape:
        - levels: ``(N, C, H, W)``, integers from 0 to ``levels`` − 1
        - output: ``(N, C, size, size)``, float32
    """

    levels: int
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    size: int | None = None
    whitening: Whitening | None = None

    def __call__(self, levels: Tensor) -> Tensor:
        """Prepare images of the size and the channels they had in training."""
        if self.whitening is None:
            return self.normalise(self.enlarge(levels))  # the margin is level 0, which is black
        return self.enlarge(self.normalise(levels))  # the margin is the mean image's

    def normalise(self, levels: Tensor) -> Tensor:
        """Scale and whiten, at the images' own size."""
        channels = (-1, 1, 1)
        offset = torch.tensor(self.offset, device=levels.device).view(channels)
        images = (levels.float() - offset) / torch.tensor(self.scale, device=levels.device).view(channels)
        return images if self.whitening is None else self.whitening(images)

    def enlarge(self, images: Tensor) -> Tensor:
        """Repeat each pixel as often as it fits into ``size``, and put zeros around; levels stay levels.

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
            "levels": self.levels,
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
                state["levels"],
                tuple(state["offset"]),
                tuple(state["scale"]),
                state["size"],
                None if white is None else Whitening(*white),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"This is not the state of a preprocessing: {type(error).__name__} {error} while it was read."
            ) from error
