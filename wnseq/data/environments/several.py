"""Many copies of an environment that are stepped together, their state in checkpoints."""

import zlib
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from wnseq.data.environments.single import EnvironmentSpec, import_gymnasium, make_environment

__all__ = ["Environments", "Step", "make_environments"]

Array = npt.NDArray[Any]
LATEST = 100  # finished episodes whose returns are kept


class Step(NamedTuple):
    """One step of all environments.

    Args:
        observations: What follows.
        rewards: Rewards.
        terminated: Whether the episode ended, so that nothing follows what was observed.
        begins: Whether the step had no effect but to begin the next episode, after one that ended or was cut.

    Shape:
        - observations: ``(N, …)``; the others ``(N,)``
    """

    observations: Array
    rewards: Array
    terminated: Array
    begins: Array


class Environments(ABC):
    """Copies of an environment that step together; the step after an episode's last begins the next one.

    So the last observation of an episode is seen as any other, and an episode that is cut has a value to go on with.

    Attributes:
        spec: The environment.
        observations: What is observed now, ``(N, …)``.
        begins: Whether an episode begins with it, ``(N,)``.
        finished: Returns of the latest 100 episodes.
    """

    def __init__(self, spec: EnvironmentSpec, number: int) -> None:
        self.spec = spec
        self.number = number
        self.observations: Array = np.zeros((number, *spec.shape), spec.dtype)
        self.begins: Array = np.ones(number, bool)
        self._ended: Array = np.zeros(number, bool)
        self._returns: Array = np.zeros(number)
        self.finished: deque[float] = deque(maxlen=LATEST)

    def step(self, actions: Array) -> Step:
        """Act in each environment.

        Shape:
            - actions: ``(N,)``
        """
        begins = self._ended
        observations, rewards, terminated, truncated = self._step(actions)
        self._returns += rewards
        self._ended = terminated | truncated
        self.finished.extend(self._returns[self._ended].tolist())
        self._returns[self._ended] = 0.0
        self.observations, self.begins = observations, begins
        return Step(observations, rewards.astype(np.float32), terminated, begins)

    @abstractmethod
    def _step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        """Return observations, rewards, and which episodes ended and were cut."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors from which the same steps follow."""
        arrays = {name: torch.from_numpy(getattr(self, name).copy()) for name in ("begins", "_ended", "_returns")}
        return {"form": type(self).__name__, "finished": list(self.finished), **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what ``state_dict`` returned."""
        if state["form"] != type(self).__name__:
            raise ValueError(
                f"the checkpoint has environments of the form {state['form']}, this run has {type(self).__name__}: "
                "resume with the gymnasium that it was made with"
            )
        for name in ("begins", "_ended", "_returns"):
            setattr(self, name, state[name].numpy().copy())
        self.finished = deque(state["finished"], maxlen=LATEST)


class OneByOne(Environments):
    """Environments of Python, one after the other. Their state is a seed, and the actions of each one's episode."""

    def __init__(self, name: str, number: int, seed: int, frame_stack: int = 1) -> None:
        self._each = [make_environment(name, frame_stack) for _ in range(number)]
        super().__init__(self._each[0].spec, number)
        self._seed = seed
        self._episodes = [0] * number
        self._actions: list[list[int]] = [[] for _ in range(number)]
        for place in range(number):
            self.observations[place] = self._reset(place)

    def _reset(self, place: int) -> Array:
        seed = zlib.crc32(f"{self._seed} {place} {self._episodes[place]}".encode())  # far apart, in a microsecond
        self._actions[place] = []
        return self._each[place].reset(seed)

    def _step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        observations = np.empty_like(self.observations)
        rewards = np.zeros(self.number)
        terminated, truncated = np.zeros(self.number, bool), np.zeros(self.number, bool)
        ended = self._ended.tolist()
        for place, action in enumerate(actions.tolist()):
            if ended[place]:
                self._episodes[place] += 1
                observations[place] = self._reset(place)
                continue
            self._actions[place].append(action)
            step = self._each[place].step(action)
            observations[place], rewards[place], terminated[place], truncated[place] = step
        return observations, rewards, terminated, truncated

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors from which the same steps follow."""
        actions = [torch.tensor(each, dtype=torch.int32) for each in self._actions]
        return {**super().state_dict(), "seed": self._seed, "episodes": list(self._episodes), "actions": actions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what ``state_dict`` returned: the actions of the episodes under way are repeated."""
        super().load_state_dict(state)
        self._seed, self._episodes = state["seed"], list(state["episodes"])
        for place, actions in enumerate(state["actions"]):
            self.observations[place] = self._reset(place)
            for action in actions.tolist():
                self._actions[place].append(action)
                self.observations[place] = self._each[place].step(action)[0]


class AtOnce(Environments):
    """Environments of gymnasium's vector form. Their state is that of its arrays and of its random generator.

    The arrays keep their layout, ``K``: how a product is rounded depends on it, and CartPole's observations are
    transposed.
    """

    def __init__(self, name: str, number: int, seed: int) -> None:
        gymnasium = import_gymnasium(name)
        super().__init__(make_environment(name).spec, number)
        entry = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
        self._vector = gymnasium.make_vec(name, num_envs=number, vectorization_mode=entry).unwrapped
        self.observations = self._vector.reset(seed=seed)[0]

    def _step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        observations, rewards, terminated, truncated, _ = self._vector.step(actions)
        return observations, rewards, terminated.copy(), truncated.copy()

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors from which the same steps follow."""
        arrays = {name: value for name, value in vars(self._vector).items() if isinstance(value, np.ndarray)}
        tensors = {name: torch.from_numpy(value.copy("K")) for name, value in arrays.items()}
        state = {"arrays": tensors, "random": self._vector.np_random.bit_generator.state}
        return {**super().state_dict(), **state, "observations": torch.from_numpy(self.observations.copy("K"))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what ``state_dict`` returned."""
        super().load_state_dict(state)
        for name, value in state["arrays"].items():
            setattr(self._vector, name, value.numpy().copy("K"))
        self._vector.np_random.bit_generator.state = state["random"]
        self.observations = state["observations"].numpy().copy("K")


def make_environments(name: str, number: int, seed: int, frame_stack: int = 1) -> Environments:
    """Return copies of an environment, in gymnasium's vector form if it has one that can be saved and restored.

    Args:
        name: As in :func:`make_environment`.
        number: Copies.
        seed: Seed of all their episodes.
        frame_stack: As in :func:`make_environment`; more than one are stepped one by one.
    """
    if not name.startswith("MinAtar/") and frame_stack == 1:
        gymnasium = import_gymnasium(name)
        spec = make_environment(name).spec
        registered = gymnasium.registry.get(name)
        if len(spec.shape) == 1 and registered is not None and registered.vector_entry_point is not None:
            found = AtOnce(name, number, seed)
            if _repeats(found, AtOnce(name, number, seed + 1)):
                return AtOnce(name, number, seed)
    return OneByOne(name, number, seed, frame_stack)


def _repeats(one: AtOnce, other: AtOnce) -> bool:
    """Return True if a copy in the state of another follows it, and the step after an episode's end begins the next."""
    one.step(np.zeros(one.number, np.int64))
    other.load_state_dict(one.state_dict())
    for _ in range(20):
        actions = np.zeros(one.number, np.int64)
        if not all(map(np.array_equal, one.step(actions), other.step(actions))):
            return False
    mode = one._vector.metadata.get("autoreset_mode")
    return mode is not None and mode.value == "NextStep"
