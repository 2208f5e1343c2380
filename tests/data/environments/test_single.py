"""Environments by their names, and the names and spaces that are refused."""

import sys
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from wnseq.data.environments import EnvironmentSpec, make_environment


class Spaces(gymnasium.Env):
    """An environment with any spaces, whose observations are samples."""

    def __init__(self, observation: spaces.Space, action: spaces.Space) -> None:
        self.observation_space, self.action_space = observation, action
        self.taken: list[Any] = []

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.taken.append(action)
        return self.observation_space.sample(), 1.5, True, False, {}


@pytest.fixture
def registered():
    """Return a function that registers an environment of some spaces; the names are removed in the end."""
    names = []

    def register(observation: spaces.Space, action: spaces.Space) -> str:
        names.append(f"Spaces-v{len(names)}")
        made = lambda **_: Spaces(observation, action)  # noqa: E731
        gymnasium.register(names[-1], made)
        return names[-1]

    yield register
    for name in names:
        gymnasium.registry.pop(name)


ACTIONS = spaces.Discrete(3, start=-1)
OBSERVATIONS = {
    "box": (spaces.Box(-1, 1, (2, 3)), (6,), None, np.float32),
    "float64": (spaces.Box(-1, 1, (3,), np.float64), (3,), None, np.float32),
    "discrete": (spaces.Discrete(4), (4,), None, np.float32),
    "tuple": (spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (3,)))), (5,), None, np.float32),
    "multidiscrete": (spaces.MultiDiscrete([2, 3]), (5,), None, np.float32),
    "bytes": (spaces.Box(0, 255, (8, 9, 3), np.uint8), (3, 8, 9), 255, np.uint8),
    "grey bytes": (spaces.Box(0, 255, (8, 9), np.uint8), (1, 8, 9), 255, np.uint8),
    "stacked bytes": (spaces.Box(0, 255, (4, 8, 9), np.uint8), (4, 8, 9), 255, np.uint8),
    "bools": (spaces.Box(0, 1, (8, 9, 3), np.bool_), (3, 8, 9), 1, np.uint8),
}


@pytest.mark.parametrize(("space", "shape", "largest", "dtype"), OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_observations_are_arrays_and_actions_are_counted_from_0(space, shape, largest, dtype, registered):
    environment = make_environment(registered(space, ACTIONS))
    spec = environment.spec
    assert (spec.shape, spec.largest, spec.dtype, spec.num_actions) == (shape, largest, dtype, 3)
    space.seed(5)
    raw = space.sample()
    first = environment.reset(5)
    assert first.shape == shape and first.dtype == dtype
    if isinstance(space, spaces.Box):
        expected = np.moveaxis(raw, 2, 0) if largest and raw.shape[2:] == (3,) else raw.reshape(shape)
        np.testing.assert_allclose(first, expected.astype(dtype))
    else:
        np.testing.assert_allclose(first, spaces.flatten(space, raw))
    observation, *rest = environment.step(2)
    assert observation.dtype == dtype and rest == [1.5, True, False]
    assert environment._environment.unwrapped.taken == [1]
    assert EnvironmentSpec.from_state(spec.state()) == spec


@pytest.mark.parametrize("name", ["box", "bytes"])
def test_stacked_frames_are_the_latest_and_zero_before_an_episode(name, registered):
    space, shape, *_ = OBSERVATIONS[name]
    environment = make_environment(registered(space, ACTIONS), 3)
    assert environment.spec.shape == (3 * shape[0], *shape[1:]) and environment.spec.frame_shape == shape
    for seed in (1, 2):
        rows = [environment.reset(seed), *(environment.step(0)[0] for _ in range(4))]
        frames = [np.zeros(shape)] * 2 + [row[-shape[0] :] for row in rows]
        for step, row in enumerate(rows):
            np.testing.assert_array_equal(row, np.concatenate(frames[step : step + 3]))
            assert row.dtype == environment.spec.dtype
    with pytest.raises(ValueError, match=r"the network is for .* of 3 frames, 3 actions; --data.environment names"):
        environment.spec.check_same(make_environment(environment.spec.name).spec)


def test_spaces_that_are_not_for_q_learning_are_refused(registered):
    continuous = registered(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,)))
    with pytest.raises(ValueError, match=r"the actions of Spaces-v0 must be numbered \(Discrete\), got Box"):
        make_environment(continuous)
    named = registered(spaces.Dict({"near": spaces.Discrete(2), "far": spaces.Discrete(2)}), ACTIONS)
    with pytest.raises(ValueError, match=r"got a dictionary of far, near: register .*FlattenObservation"):
        make_environment(named)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CartPole-v", r"gymnasium has no environment CartPole-v: [^.]*\. Did you mean CartPole-v\d\?$"),
        ("MinAtar/Pong-v0", "MinAtar has no MinAtar/Pong-v0: expected MinAtar/GAME-v0, .*Asterix, Breakout"),
        ("MinAtar/Breakout-v2", "MinAtar has no MinAtar/Breakout-v2"),
    ],
)
def test_a_name_of_nothing_is_refused(name, text):
    with pytest.raises(ValueError, match=text):
        make_environment(name)


@pytest.mark.parametrize(
    ("package", "name", "command"),
    [
        ("gymnasium", "CartPole-v1", r"pip install 'wnseq\[rl\]'"),
        ("popgym", "popgym-RepeatFirstEasy-v0", "pip install popgym"),
        ("minatar", "MinAtar/Breakout-v0", "pip install minatar --no-deps"),
        ("ale_py", "ALE/Breakout-v5", "pip install ale-py opencv-python-headless"),
    ],
)
def test_a_missing_package_is_named_with_its_command(package, name, command, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"the environment {name} needs {package}: {command}"):
        make_environment(name)


def test_what_a_package_lacks_itself_is_no_missing_package(monkeypatch, tmp_path):
    (tmp_path / "popgym.py").write_text("import a_module_that_is_nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "popgym", raising=False)
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_module_that_is_nowhere'"):
        make_environment("popgym-RepeatFirstEasy-v0")


def test_an_environment_of_ones_own_is_named_with_its_module(monkeypatch, tmp_path):
    (tmp_path / "own_environments.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Mine-v0', CartPoleEnv, max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    environment = make_environment("own_environments:Mine-v0")
    environment.reset(0)
    assert [environment.step(1)[3] for _ in range(3)] == [False, False, True]
    gymnasium.registry.pop("Mine-v0")


def test_a_game_of_atari_is_seen_as_the_paper_sees_it(monkeypatch):
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    environment = make_environment("ALE/Breakout-v5", frame_stack=4)
    assert environment.spec == EnvironmentSpec("ALE/Breakout-v5", (4, 84, 84), 255, 4, 4)
    first, again = environment.reset(3), environment.reset(3)
    np.testing.assert_array_equal(first, again)
    assert not first[:3].any() and first[3].any() and first.dtype == np.uint8
    environment.step(1)  # the ball is served
    (seen, *_), frames = (
        environment.step(0),
        environment._environment._environment.unwrapped.ale.getEpisodeFrameNumber(),
    )
    assert environment.step(0)[0][2].any() and seen.shape == (4, 84, 84)
    assert environment._environment._environment.unwrapped.ale.getEpisodeFrameNumber() == frames + 4
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match="another package: pip install ale-py opencv-python-headless"):
        make_environment("ALE/Breakout-v5")


class Game:
    """MinAtar's interface."""

    def __init__(self, game: str, sticky_action_prob: float) -> None:
        self.made, self.last_action, self.acts = (game, sticky_action_prob), 5, []

    def minimal_action_set(self):
        return [0, 3]

    def num_actions(self):
        return 6

    def state_shape(self):
        return [10, 9, 4]

    def state(self):
        state = np.zeros((10, 9, 4), bool)
        state[1, 2, 3] = True
        return state

    def seed(self, seed):
        self.random = SimpleNamespace(seed=lambda seed: setattr(self, "seeded", seed))

    def reset(self):
        self.acts.append("reset")

    def act(self, action):
        self.acts.append(action)
        return 1, True


def test_minatar_is_driven_by_its_own_interface(monkeypatch):
    monkeypatch.setitem(sys.modules, "minatar", SimpleNamespace(Environment=Game))
    whole, small = (make_environment(f"MinAtar/SpaceInvaders-v{version}") for version in (0, 1))
    assert (whole.spec.num_actions, small.spec.num_actions) == (6, 2)
    assert small._game.made == ("space_invaders", 0.1)
    assert small.spec.shape == (4, 10, 9) and small.spec.largest == 1
    first = small.reset(7)
    assert first.dtype == np.uint8 and first.sum() == first[3, 1, 2] == 1
    assert (small._game.seeded, small._game.last_action) == (7, 0)
    assert small.step(1)[1:] == (1.0, True, False) and small._game.acts == ["reset", 3]


def test_what_is_observed_is_said():
    assert str(EnvironmentSpec("a", (4, 10, 10), 1, 6)) == "environment a: images 4 x 10 x 10, 6 actions"
    assert str(EnvironmentSpec("b", (4,), None, 2)) == "environment b: 4 numbers, 2 actions"
