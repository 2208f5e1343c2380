"""Pictures of observations, for animations of episodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wnseq.data.environments.single import EnvironmentSpec

__all__ = ["draw_episodes", "draw_observation"]

Array = npt.NDArray[Any]
HEIGHT, WIDTH = 60, 100


def draw_episodes(spec: EnvironmentSpec, episodes: Sequence[Array]) -> Array:
    """Return the pictures of episodes step by step, ``(T, N, H, W)``; a shorter one stays on its last picture.

    Args:
        spec: The environment.
        episodes: The observations of each, ``(T, …)``.
    """
    longest = max(map(len, episodes))
    drawn = [[draw_observation(spec, row) for row in each] for each in episodes]
    return np.array([each + each[-1:] * (longest - len(each)) for each in drawn]).swapaxes(0, 1)


def draw_observation(spec: EnvironmentSpec, observation: Array) -> Array:
    """Return a grey picture of an observation, ``(H, W)``, from 0 to 1.

    The channels of an image of zeros and ones get a grey each, those of another image their mean. A cart and its pole
    are drawn from the side, other numbers as bars: the middle is 0, the edges are −1 and 1. Of a stack of frames the
    latest is drawn.

    Example:
        >>> draw_observation(EnvironmentSpec("x", (2, 1, 3), 1, 4), np.array([[[0, 1, 0]], [[0, 0, 1]]])).tolist()
        [[0.0, 0.5, 1.0]]
    """
    observation = observation[-spec.frame_shape[0] :]
    if len(spec.shape) == 3:
        greys = (np.arange(len(observation)) + 1) / len(observation)
        image: Array = observation.mean(0) / 255 if spec.largest != 1 else (observation * greys[:, None, None]).max(0)
        return image
    if "CartPole" in spec.name and len(observation) in (2, 4):
        return _draw_cart(float(observation[0]), float(observation[len(observation) // 2]))
    picture = np.ones((HEIGHT, WIDTH))
    edges = np.linspace(0, HEIGHT, len(observation) + 1).astype(int)
    ends = ((np.clip(observation, -1, 1) + 1) / 2 * (WIDTH - 1)).round().astype(int)
    for top, bottom, end in zip(edges[:-1], edges[1:], ends, strict=True):
        left, right = sorted((WIDTH // 2, int(end)))
        picture[top : max(top + 1, bottom - 1), left : right + 1] = 0.3
    return picture


def _draw_cart(x: float, angle: float) -> Array:
    """Draw a cart at x of −2.4 to 2.4, with a pole of length 1 at an angle from the upright."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    scale = WIDTH / 4.8
    across, up = (columns + 0.5) / scale - 2.4 - x, (HEIGHT - 8 - rows) / scale
    picture = np.ones((HEIGHT, WIDTH))
    picture[HEIGHT - 6] = 0.7
    picture[(np.abs(across) < 0.35) & (np.abs(up) < 0.15)] = 0.2
    along = across * np.sin(angle) + up * np.cos(angle)
    beside = across * np.cos(angle) - up * np.sin(angle)
    picture[(along > 0) & (along < 2) & (np.abs(beside) < 0.06)] = 0.5
    return picture
