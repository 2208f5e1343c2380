"""A replay of experience: the latest steps of many environments, each frame stored once, drawn uniformly."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wnseq.data.environments.single import EnvironmentSpec

__all__ = ["Replay"]

Array = npt.NDArray[Any]


class Replay:
    """The latest steps of some copies of an environment, from which sequences are drawn uniformly.

    Each frame is stored once, in bytes where it is an image, eight pixels to a byte where these are 0 or 1; stacks of
    frames are made when they are drawn. Memory is taken as steps are added.

    Args:
        spec: The environment.
        num_envs: Its copies.
        size: Steps that are kept of all copies, rounded down to whole steps of each. The newest replace the oldest.

    Attributes:
        size: The steps, so rounded.
        nbytes: The bytes that they take.

    Raises:
        ValueError: There is not a step of each copy; the replay is larger than the memory that is free.

    Example:
        >>> replay = Replay(EnvironmentSpec("MinAtar/Breakout-v0", (4, 10, 10), 1, 6), 8, 1_000_000)
        >>> print(replay)
        a replay of 1,000,000 steps, 57.0 MB
    """

    def __init__(self, spec: EnvironmentSpec, num_envs: int, size: int) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._rows = size // num_envs
        if self._rows < 1:
            raise ValueError(f"a replay must keep a step of each of the {num_envs} copies at least, got size {size}")
        self.size = self._rows * num_envs
        self._count = self._next = 0  # rows that are filled, and the one that is written next
        self._is_packed = len(spec.shape) == 3 and spec.largest == 1
        values = int(np.prod(spec.frame_shape))
        frame = (-(-values // 8),) if self._is_packed else spec.frame_shape
        kinds: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
            "frames": (spec.dtype, frame),
            "begins": (np.bool_, ()),
            "actions": (np.min_scalar_type(spec.num_actions), ()),
            "rewards": (np.float32, ()),
            "terminated": (np.bool_, ()),
        }
        step = sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in kinds.values())
        self.nbytes = step * self.size
        if self.nbytes > (free := _free_memory()):
            raise ValueError(
                f"a replay of {size:,} steps takes {self.nbytes / 1e9:,.1f} GB, more than the {free / 1e9:,.1f} GB of "
                f"memory that are free: keep at most {int(free / step):,}"
            )
        shapes = {name: (self._rows, num_envs, *shape) for name, (_, shape) in kinds.items()}
        self._arrays = {name: np.zeros(shapes[name], dtype) for name, (dtype, _) in kinds.items()}

    def __len__(self) -> int:
        return self._count * self.num_envs

    def __str__(self) -> str:
        return f"a replay of {self.size:,} steps, {self.nbytes / 1e6:,.1f} MB"

    def add(self, observations: Array, begins: Array, actions: Array, rewards: Array, terminated: Array) -> None:
        """Keep a step of each copy: what was observed, whether an episode began with it, what was done and won.

        Shape:
            - observations: ``(N, …)``; the others ``(N,)``
        """
        frames = observations[:, -self.spec.frame_shape[0] :]
        if self._is_packed:
            frames = np.packbits(frames.reshape(self.num_envs, -1), axis=1)
        step = {"frames": frames, "begins": begins, "actions": actions, "rewards": rewards, "terminated": terminated}
        for name, value in step.items():
            self._arrays[name][self._next] = value
        self._next = (self._next + 1) % self._rows
        self._count = min(self._count + 1, self._rows)

    def sample(self, number: int, steps: int) -> dict[str, Tensor]:
        """Draw sequences from torch's generator: uniformly of all copies, and of all steps that so many follow.

        A sequence goes on over the ends of episodes.

        Args:
            number: Sequences.
            steps: Steps of each, besides the observation that follows the last.

        Returns:
            ``observations``, with ``previous``, the action before each, and ``begins``, where an episode begins,
            ``(T + 1, N, …)``; ``actions``, ``rewards``, ``terminated``, and ``resets``, where a step only begins an
            episode, ``(T, N)``.

        Raises:
            ValueError: No sequence is so long.
        """
        spec, before = self.spec, max(1, self.spec.frame_stack - 1)  # rows that the first observation needs as well
        starts = self._count - before - steps
        if starts < 1:
            raise ValueError(
                f"the replay has {self._count} steps of each copy, too few for sequences of {steps}, which take "
                f"{before + steps + 1} with what is before and after them: keep more"
            )
        drawn = torch.randint(starts * self.num_envs, (number,)).numpy()
        oldest = self._next - self._count
        rows = np.arange(-before, steps + 1)[:, None] + (oldest + before + drawn // self.num_envs)
        place = rows % self._rows, np.broadcast_to(drawn % self.num_envs, rows.shape)
        begins = self._arrays["begins"][place]
        frames = self._arrays["frames"][place]
        if self._is_packed:
            frames = np.unpackbits(frames, axis=2, count=int(np.prod(spec.frame_shape)))
            frames = frames.reshape(*rows.shape, *spec.frame_shape)
        actions = self._arrays["actions"][place].astype(np.int64)
        found = {
            "observations": _stack(frames, begins, spec.frame_stack, steps + 1),
            "previous": actions[before - 1 : -1],
            "begins": begins[before:],
            "actions": actions[before:-1],
            "rewards": self._arrays["rewards"][place][before:-1],
            "terminated": self._arrays["terminated"][place][before:-1],
            "resets": begins[before + 1 :],
        }
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the steps as tensors, which share the replay's memory: save or copy them before the next step."""
        arrays = {name: torch.from_numpy(array[: self._count]) for name, array in self._arrays.items()}
        return {"next": self._next, **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume with the steps that ``state_dict`` returned of a replay of the same size."""
        self._next, self._count = state["next"], len(state["begins"])
        for name, array in self._arrays.items():
            array[: self._count] = state[name].numpy()


def _stack(frames: Array, begins: Array, number: int, steps: int) -> Array:
    """Return the last rows, each after those before it; what is before the episode is zero."""
    latest: Array = frames[-steps:]
    if number == 1:
        return latest
    stacked, is_inside = [latest], np.ones(begins[-steps:].shape, bool)
    for back in range(1, number):
        first = len(frames) - steps - back
        is_inside = is_inside & ~begins[first + 1 : first + 1 + steps]
        shape = is_inside.shape + (1,) * (frames.ndim - 2)
        stacked.insert(0, frames[first : first + steps] * is_inside.reshape(shape))
    return np.concatenate(stacked, axis=2)


def _free_memory() -> float:
    """Return the bytes that are free, or can be freed; infinity where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if known else float("inf")
