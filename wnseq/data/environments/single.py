"""One environment by its name, of gymnasium, POPGym, MinAtar or Atari: observations are arrays, actions are numbers."""

import difflib
import importlib
import logging
import re
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Environment", "EnvironmentSpec", "import_gymnasium", "make_environment"]

Array = npt.NDArray[Any]
MINATAR = re.compile(r"MinAtar/(\w+)-v([01])")
GAMES = {"Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"}
OTHER_PACKAGES = {"popgym-": "popgym", "MinAtar/": "minatar", "ALE/": "ale_py"}
INSTALL = {
    "gymnasium": "pip install 'wnseq[rl]'",
    "popgym": "pip install popgym",
    "minatar": "pip install minatar --no-deps (GPL-3.0, so that it is no dependency of wnseq)",
    "ale_py": "pip install ale-py opencv-python-headless (GPL-2.0, so that it is no dependency of wnseq)",
}


@dataclass(frozen=True)
class EnvironmentSpec:
    """What a network must know of an environment.

    Args:
        name: Its name.
        shape: Shape of an observation: ``(C, H, W)`` of an image, ``(I,)`` of anything else.
        largest: The largest value of a pixel, which is a whole number; None where an observation is of real numbers.
        num_actions: Number of actions.
        frame_stack: Latest observations of the environment that make one of these: ``(frame_stack·C, H, W)``.
    """

    name: str
    shape: tuple[int, ...]
    largest: int | None
    num_actions: int
    frame_stack: int = 1

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one observation of the environment itself."""
        return (self.shape[0] // self.frame_stack, *self.shape[1:])

    @property
    def dtype(self) -> npt.DTypeLike:
        """The dtype of an observation."""
        return np.float32 if self.largest is None else np.uint8

    def check_same(self, other: "EnvironmentSpec") -> None:
        """Check that a network for this environment fits another one.

        Raises:
            ValueError: Its observations or its actions are others.
        """
        if replace(self, name="") != replace(other, name=""):
            raise ValueError(f"the network is for the {self}; --data.environment names the {other}")

    def state(self) -> dict[str, Any]:
        """Return plain types for a checkpoint."""
        return {**asdict(self), "shape": list(self.shape)}

    @staticmethod
    def from_state(state: dict[str, Any]) -> "EnvironmentSpec":
        """Return what ``state`` was made of."""
        return EnvironmentSpec(**{**state, "shape": tuple(state["shape"])})

    def __str__(self) -> str:
        what = f"images {' x '.join(map(str, self.shape))}" if len(self.shape) > 1 else f"{self.shape[0]} numbers"
        of = f" of {self.frame_stack} frames" if self.frame_stack > 1 else ""
        return f"environment {self.name}: {what}{of}, {self.num_actions} actions"


class Environment(Protocol):
    """One environment."""

    spec: EnvironmentSpec

    def reset(self, seed: int) -> Array:
        """Begin the episode of a seed; return its first observation."""

    def step(self, action: int) -> tuple[Array, float, bool, bool]:
        """Act; return the next observation, the reward, and whether the episode ended or was cut."""


def make_environment(name: str, frame_stack: int = 1) -> Environment:
    """Return an environment by its name.

    Args:
        name: A name of gymnasium's registry, such as ``CartPole-v1``, or ``module:Name-v0`` of a module of yours;
            ``popgym-RepeatPreviousEasy-v0`` and its kin of POPGym; ``MinAtar/Breakout-v0``, or ``-v1`` with the
            smallest set of actions; ``ALE/Breakout-v5``, whose observation is made of four frames of Atari's as Mnih
            et al. 2015 make it: the larger pixels of the latest two, grey, 84 × 84.
        frame_stack: Latest observations that are stacked into one, the oldest first; before an episode they are zero.

    Raises:
        ModuleNotFoundError: The package that has it is not installed.
        ValueError: There is no environment of that name, its observations are a dictionary, or its actions are not
            numbered.
    """
    environment = _MinAtar(name) if name.startswith("MinAtar/") else _Gymnasium(name)
    return environment if frame_stack == 1 else _Stacked(environment, frame_stack)


def import_gymnasium(name: str) -> ModuleType:
    """Return gymnasium after the package that registers a name.

    Raises:
        ModuleNotFoundError: One of them is not installed.
    """
    gymnasium = _import("gymnasium", name)
    for prefix, package in OTHER_PACKAGES.items():
        if name.startswith(prefix):
            _import(package, name)
    return gymnasium


def _import(package: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as missing:
        if missing.name != package:
            raise
        raise ModuleNotFoundError(f"the environment {name} needs {package}: {INSTALL[package]}") from missing


class _Gymnasium:
    """An environment of gymnasium's registry."""

    def __init__(self, name: str) -> None:
        gymnasium = import_gymnasium(name)
        is_atari = name.startswith("ALE/")
        try:
            self._environment = (_make_atari if is_atari else _make)(gymnasium, name)
        except gymnasium.error.DependencyNotInstalled as error:
            remedy = f": {INSTALL['ale_py']}" if is_atari else ""
            raise ModuleNotFoundError(f"the environment {name} needs another package{remedy}: {error}") from error
        except gymnasium.error.Error as error:
            near = difflib.get_close_matches(name, gymnasium.registry, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            said = str(error).partition(" Did you mean")[0].rstrip(".")
            raise ValueError(f"gymnasium has no environment {name}: {said}.{meant}") from error
        spaces, space = gymnasium.spaces, self._environment.observation_space
        actions = self._environment.action_space
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(
                f"the actions of {name} must be numbered (Discrete), got {actions}: Q-learning compares the values of "
                "all actions. Register a wrapper with chosen actions, such as "
                "gymnasium.wrappers.TransformAction, under a name of its own"
            )
        if isinstance(space, spaces.Dict):
            raise ValueError(
                f"the observations of {name} must be an array, a number or a tuple of these, got a dictionary of "
                f"{', '.join(space)}: register the environment in gymnasium.wrappers.FlattenObservation under a name "
                "of its own"
            )
        self._first_action = int(actions.start)
        self._flatten = None
        if not isinstance(space, spaces.Box):
            self._flatten, self._space = spaces.flatten, space  # of numbers: one of as many entries is 1
            shape: tuple[int, ...] = (spaces.flatdim(space),)
        else:
            shape = space.shape
        is_flat = self._flatten is not None
        self._is_image = not is_flat and (len(shape), str(space.dtype)) in ((3, "uint8"), (3, "bool"), (2, "uint8"))
        if self._is_image:
            shape = _channels_first(np.empty(shape, np.bool_)).shape
        largest = (255 if space.dtype == np.uint8 else 1) if self._is_image else None
        self.spec = EnvironmentSpec(name, shape if self._is_image else (int(np.prod(shape)),), largest, int(actions.n))

    def reset(self, seed: int) -> Array:
        return self._array(self._environment.reset(seed=seed)[0])

    def step(self, action: int) -> tuple[Array, float, bool, bool]:
        observation, reward, terminated, truncated, _ = self._environment.step(action + self._first_action)
        return self._array(observation), float(reward), bool(terminated), bool(truncated)

    def _array(self, observation: Any) -> Array:
        if self._flatten is not None:
            observation = self._flatten(self._space, observation)
        array = np.asarray(observation, self.spec.dtype)
        return _channels_first(array) if self._is_image else array.reshape(self.spec.shape)


def _channels_first(image: Array) -> Array:
    """Return an image with its channels first: the smaller axis at either end; grey alone has none."""
    if image.ndim == 2:
        return image[None]
    return image if image.shape[0] < image.shape[2] else np.moveaxis(image, 2, 0)


def _make(gymnasium: ModuleType, name: str, **options: Any) -> Any:
    return gymnasium.make(name, disable_env_checker=True, **options)


def _make_atari(gymnasium: ModuleType, name: str) -> Any:
    """Make a game as Mnih et al. 2015 see it; the four frames of a step are the wrapper's, not the game's."""
    return gymnasium.wrappers.AtariPreprocessing(_make(gymnasium, name, frameskip=1), grayscale_newaxis=True)


class _MinAtar:
    """A game of MinAtar, driven without gymnasium, which takes twice the time."""

    def __init__(self, name: str) -> None:
        match = MINATAR.fullmatch(name)
        if match is None or match[1] not in GAMES:
            raise ValueError(
                f"MinAtar has no {name}: expected MinAtar/GAME-v0, or -v1 with the smallest set of actions, GAME being "
                f"{', '.join(sorted(GAMES))}"
            )
        logging.disable(logging.WARNING)  # it misses seaborn, which draws
        try:
            minatar = _import("minatar", name)
        finally:
            logging.disable(logging.NOTSET)
        game = re.sub(r"(?<!^)(?=[A-Z])", "_", match[1]).lower()
        self._game = minatar.Environment(game, sticky_action_prob=0.1)
        self._actions = self._game.minimal_action_set() if match[2] == "1" else [*range(self._game.num_actions())]
        self._game.seed(0)  # makes the generator that game and stickiness share; to seed that one takes a tenth of it
        height, width, channels = self._game.state_shape()
        self.spec = EnvironmentSpec(name, (channels, height, width), 1, len(self._actions))

    def reset(self, seed: int) -> Array:
        self._game.random.seed(seed)
        self._game.last_action = 0  # what a sticky first step would repeat
        self._game.reset()
        return self._array()

    def step(self, action: int) -> tuple[Array, float, bool, bool]:
        reward, terminated = self._game.act(self._actions[action])
        return self._array(), float(reward), bool(terminated), False

    def _array(self) -> Array:
        state: Array = self._game.state()
        return state.transpose(2, 0, 1).view(np.uint8)


class _Stacked:
    """An environment whose observations are its latest ones, the oldest first."""

    def __init__(self, environment: Environment, frame_stack: int) -> None:
        self._environment, spec = environment, environment.spec
        shape = (frame_stack * spec.shape[0], *spec.shape[1:])
        self.spec = replace(spec, shape=shape, frame_stack=frame_stack)
        self._observation: Array = np.zeros(shape, spec.dtype)

    def reset(self, seed: int) -> Array:
        self._observation = np.zeros_like(self._observation)
        return self._append(self._environment.reset(seed))

    def step(self, action: int) -> tuple[Array, float, bool, bool]:
        observation, reward, terminated, truncated = self._environment.step(action)
        return self._append(observation), reward, terminated, truncated

    def _append(self, frame: Array) -> Array:
        self._observation = np.concatenate((self._observation[len(frame) :], frame))
        return self._observation
