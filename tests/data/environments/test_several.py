"""Environments that step together: when episodes begin, and that a saved state goes on as the first would have."""

import io
import re

import gymnasium
import numpy as np
import pytest
import torch

from wnseq.data.environments import make_environments
from wnseq.data.environments.several import AtOnce, OneByOne

NAMES = {
    "CartPole-v1": AtOnce,
    "CartPole-v1, stacked": OneByOne,
    "popgym-PositionOnlyCartPoleEasy-v0": OneByOne,
    "MinAtar/Breakout-v0": OneByOne,
    "ALE/Breakout-v5": OneByOne,
}
PACKAGES = {"popgym": ["popgym"], "MinAtar": ["minatar"], "ALE": ["ale_py", "cv2"]}


def made(name, number, seed):
    if name.endswith(", stacked"):
        return make_environments(name.partition(",")[0], number, seed, frame_stack=2)
    for package in PACKAGES.get(re.split("[-/]", name)[0], []):
        pytest.importorskip(package)
    return make_environments(name, number, seed)


def actions(environments, seed, steps):
    draw = np.random.default_rng(seed)
    return draw.integers(0, environments.spec.num_actions, (steps, environments.number))


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_to_the_bit(name):
    whole = made(name, 5, 3)
    assert type(whole) is NAMES[name]
    for row in actions(whole, 0, 100):
        whole.step(row)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    again = made(name, 5, 99)
    again.load_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_array_equal(again.observations, whole.observations)
    assert again.observations.strides == whole.observations.strides  # by which products are rounded
    np.testing.assert_array_equal(again.begins, whole.begins)
    ended = 0
    for row in actions(whole, 1, 100):
        one, other = whole.step(row), again.step(row)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        ended += one.begins.sum()
    assert ended and list(again.finished) == list(whole.finished)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("ALE/")])  # whose episodes are long
def test_the_step_after_the_last_begins_the_next_episode(name):
    environments = made(name, 4, 0)
    assert environments.begins.all() and environments.observations.dtype == environments.spec.dtype
    returns, ended, finished = np.zeros(4), np.zeros(4, bool), []
    for row in actions(environments, 2, 400):
        seen, copied = environments.observations, environments.observations.copy()
        step = environments.step(row)
        np.testing.assert_array_equal(seen, copied)  # the caller keeps it
        np.testing.assert_array_equal(step.begins, ended)  # nothing is cut here
        assert not step.rewards[step.begins].any() and not step.terminated[step.begins].any()
        assert environments.observations is step.observations and environments.begins is step.begins
        returns += step.rewards
        ended = step.terminated
        finished += returns[ended].tolist()
        returns[ended] = 0
    assert len(finished) > 10
    np.testing.assert_allclose(list(environments.finished), finished[-100:], atol=1e-5)


def test_seeds_and_places_have_episodes_of_their_own():
    for name in ("CartPole-v1", "Acrobot-v1"):
        starts = [make_environments(name, 3, seed).observations for seed in (0, 0, 1)]
        np.testing.assert_array_equal(starts[0], starts[1])
        assert len({tuple(row) for start in starts[1:] for row in start}) == 6


def test_a_cut_episode_is_no_end():
    environments = make_environments("CartPole-v1", 2, 0)
    environments._vector.steps[:] = 499
    assert not environments.step(np.zeros(2, int)).terminated.any()
    assert environments.step(np.zeros(2, int)).begins.all() and list(environments.finished) == [1.0, 1.0]


class Hidden(gymnasium.vector.VectorEnv):
    """A vector form whose state is not in arrays, or with another rule of beginning."""

    rule = gymnasium.vector.AutoresetMode.NEXT_STEP

    def __init__(self, num_envs: int, **_) -> None:
        self.num_envs, self.count, self.metadata = num_envs, [0.0], {"autoreset_mode": self.rule}
        self.single_observation_space, self.single_action_space = gymnasium.spaces.Box(-1, 1, (1,)), None

    def _all(self):
        return np.full((self.num_envs, 1), self.count[0], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._all(), {}

    def step(self, actions):
        self.count[0] += 1.0
        none = np.zeros(self.num_envs, bool)
        return self._all(), np.zeros(self.num_envs), none, none, {}


class SameStep(Hidden):
    rule = gymnasium.vector.AutoresetMode.SAME_STEP

    def __init__(self, num_envs: int, **_) -> None:
        super().__init__(num_envs)
        self.count = np.zeros(1)


@pytest.mark.parametrize("form", [Hidden, SameStep])
def test_a_vector_form_that_cannot_resume_is_left_out(form):
    single = gymnasium.registry["CartPole-v1"].entry_point
    gymnasium.register("Own-v0", single, vector_entry_point=form)
    try:
        assert type(make_environments("Own-v0", 2, 0)) is OneByOne
    finally:
        gymnasium.registry.pop("Own-v0")


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="has environments of the form AtOnce, this run has OneByOne"):
        OneByOne("CartPole-v1", 2, 0).load_state_dict(make_environments("CartPole-v1", 2, 0).state_dict())
