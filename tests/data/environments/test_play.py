"""Turns of training and episodes of an evaluation, by a function to action values."""

import gymnasium
import numpy as np
import pytest
import torch

from wnseq.data.environments import (
    EnvironmentSpec,
    Episodes,
    make_environment,
    make_environments,
    play_episodes,
    play_turn,
    print_episodes,
)

SPEC = EnvironmentSpec("CartPole-v1", (4,), None, 2)
WEIGHT = torch.tensor([[0.1, 0.3, 1.0, 0.7], [-0.2, 0.1, 1.4, 0.9]])


def values(observations, previous, begins, state):
    """Count the steps of an episode in the state; prefer another action after one."""
    count = torch.zeros(1, len(begins[0]), 1) if state is None else state[0]
    count = count * ~begins.unsqueeze(2) + 1
    return observations @ WEIGHT.T + 0.01 * previous.unsqueeze(2) * torch.tensor([1.0, -1.0]), (count,)


@pytest.mark.parametrize("has_next", [True, False])
def test_a_turn_goes_on_from_the_one_before(has_next):
    environments, again = (make_environments("CartPole-v1", 4, 0) for _ in range(2))
    torch.manual_seed(0)
    previous, state, turns = None, None, []
    for _ in range(3):
        turn, state = play_turn(values, environments, 20, 0.3, previous, state, has_next=has_next)
        previous = turn["next.previous"]
        turns.append(turn)
    whole = {name: torch.cat([turn[name][:20] for turn in turns]) for name in turns[0] if name != "next.previous"}
    assert turns[0]["values"].shape == (20 + has_next, 4)
    for step in range(60):
        np.testing.assert_array_equal(whole["observations"][step], again.observations)
        np.testing.assert_array_equal(whole["begins"][step], again.begins)
        found, _ = values(whole["observations"][step][None], whole["previous"][step][None], whole["begins"][:1], None)
        torch.testing.assert_close(whole["values"][step], found[0].amax(1))
        done = again.step(whole["actions"][step].numpy())
        for name, value in (("rewards", done.rewards), ("terminated", done.terminated), ("resets", done.begins)):
            np.testing.assert_array_equal(whole[name][step], value)
    torch.testing.assert_close(whole["previous"][1:], whole["actions"][:-1])
    lengths = [60 - int(np.flatnonzero(whole["begins"][:, place]).max()) for place in range(4)]
    assert state[0].flatten().tolist() == lengths
    random = (whole["actions"] != (whole["observations"] @ WEIGHT.T).argmax(2)).double().mean()
    assert 0.05 < random < 0.3  # half of the random ones are the preferred


def test_an_episode_does_not_depend_on_those_beside_it():
    together = play_episodes(values, SPEC, Episodes(tuple(range(6)), 40), 0.3, watched=2)
    for seed in range(6):
        alone = play_episodes(values, SPEC, Episodes((seed,), 40), 0.3, watched=1)
        assert (alone[0][0], alone[1][0]) == (together[0][seed], together[1][seed])
        if seed < 2:
            np.testing.assert_array_equal(alone[2][0], together[2][seed])
    assert len(set(together[1].tolist())) > 1 and together[1].max() <= 40
    assert play_episodes(values, SPEC, Episodes((3,), 5))[1].tolist() == [5]


def test_random_actions_do_not_depend_on_the_chance_of_the_environment():
    """Of slippery steps and of random ones, each a third and a half, the one says nothing of the other."""

    class Chance(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            slips = self.np_random.random() < 0.5
            return np.zeros(1, np.float32), float(slips and action == 0), True, False, {}

    gymnasium.register("Chance-v0", Chance)
    try:
        prefers_1 = lambda x, *_: (torch.tensor([0.0, 1.0]).expand(*x.shape[:2], 2), None)  # noqa: E731
        spec = EnvironmentSpec("Chance-v0", (1,), None, 2)
        returns, *_ = play_episodes(prefers_1, spec, Episodes(tuple(range(2000)), 9), 0.5)
    finally:
        gymnasium.registry.pop("Chance-v0")
    assert abs(returns.mean() - 0.5 * 0.5 * 0.5) < 0.03  # four standard errors


def test_what_is_played_is_what_is_preferred_and_printed_as_csv(capsys):
    episodes = Episodes((7,), 50)
    returns, steps, (seen,) = play_episodes(values, SPEC, episodes, watched=1)
    environment, previous, won = make_environment("CartPole-v1"), torch.zeros(1, 1, dtype=torch.long), 0.0
    now = environment.reset(7)
    for row in seen[:-1]:
        np.testing.assert_array_equal(row, now)
        found, _ = values(torch.from_numpy(now)[None, None], previous, torch.zeros(1, 1, dtype=torch.bool), None)
        previous = found.argmax(2)
        now, reward, *_ = environment.step(int(previous))
        won += reward
    np.testing.assert_array_equal(seen[-1], now)
    assert returns[0] == won and steps[0] == len(seen) - 1
    print_episodes(episodes, returns, steps, has_header=True)
    print_episodes(episodes, returns, steps, has_header=False)
    row = f"7,{won:g},{len(seen) - 1}"
    assert capsys.readouterr().out.splitlines() == ["episode,return,steps", row, row]
