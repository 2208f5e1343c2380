"""Turns of training and episodes of an evaluation, played by a function to action values."""

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wnseq.data.environments.several import Environments
from wnseq.data.environments.single import EnvironmentSpec, make_environment

__all__ = ["Episodes", "Turn", "draw_passes", "play_episodes", "play_turn", "print_episodes"]

Array = npt.NDArray[Any]
State = tuple[Tensor, ...]
Policy = Callable[[Tensor, Tensor, Tensor, State | None], tuple[Tensor, State | None]]


class Turn(NamedTuple):
    """One turn of acting and learning: the environments are stepped, and then the network is updated.

    Args:
        updates: Updates of the turn.
        updates_per_pass: Those in which each step of the turn is learnt from once, where it is learnt from in passes.
        frames: Steps of all copies.
    """

    updates: int
    updates_per_pass: int
    frames: int


class Episodes(NamedTuple):
    """Episodes of an evaluation, to be played once each.

    Args:
        seeds: A seed for each.
        max_steps: Steps after which one is cut.
    """

    seeds: tuple[int, ...]
    max_steps: int


def play_turn(
    values: Policy,
    environments: Environments,
    steps: int,
    epsilon: float,
    previous: Tensor | None = None,
    state: State | None = None,
    *,
    has_next: bool = True,
) -> tuple[dict[str, Tensor], State | None]:
    """Step environments on by the actions of the largest values, or by random ones.

    Args:
        values: As in :func:`play_episodes`.
        environments: The environments.
        steps: Steps of each.
        epsilon: Share of random actions, from torch's generator.
        previous: The actions before the first, ``(N,)``; none by default.
        state: The recurrent state before the first, if any.
        has_next: Whether to compute the value of what follows the last step.

    Returns:
        - The turn: ``observations``, with ``previous``, the action before each, and ``begins``, where an episode
          begins; ``actions``, ``rewards``, ``terminated``, and ``resets``, where a step only begins an episode,
          ``(T, N, …)``; ``values``, the largest action values and that of what follows, ``(T + 1, N)``;
          ``next.previous``, the last actions.
        - The recurrent state after the turn.
    """
    names = ("observations", "previous", "begins", "actions", "rewards", "terminated", "resets", "values")
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    number = environments.number
    previous = torch.zeros(number, dtype=torch.long) if previous is None else previous.cpu()
    for step in range(steps + has_next):
        now, begins = torch.from_numpy(environments.observations), torch.from_numpy(environments.begins)
        found, after = values(now[None], previous[None], begins[None], state)
        rows["values"].append(found[0].amax(1).float())
        if step == steps:
            break
        random = torch.rand(number) < epsilon
        drawn = torch.randint(environments.spec.num_actions, (number,))
        actions = torch.where(random, drawn, found[0].argmax(1).cpu())
        done = environments.step(actions.numpy())
        won = map(torch.from_numpy, (done.rewards, done.terminated, done.begins))
        for name, value in zip(names, [now, previous, begins, actions, *won], strict=False):
            rows[name].append(value)
        previous, state = actions, after
    return {**{name: torch.stack(each) for name, each in rows.items()}, "next.previous": previous}, state


def draw_passes(parts: Sequence[Tensor], turn: Turn, *, in_sequence: bool) -> Iterator[tuple[Tensor, ...]]:
    """Draw the steps of a turn in passes, each step once in a pass, from torch's generator.

    Args:
        parts: What is known of the steps, ``(T, N, …)``; of a recurrent state ``(1, N, H)``.
        turn: How many draws there are, and in a pass.
        in_sequence: Whether whole sequences of one copy are drawn, ``(T, M, …)``, not single steps, ``(1, M, …)``.
    """
    if not in_sequence:
        parts = [each.flatten(0, 1).unsqueeze(0) for each in parts]
    for _ in range(turn.updates // turn.updates_per_pass):
        order = torch.randperm(parts[0].shape[1]).to(parts[0].device)
        for chosen in order.chunk(turn.updates_per_pass):
            yield tuple(each.index_select(1, chosen) for each in parts)


def play_episodes(
    values: Policy, spec: EnvironmentSpec, episodes: Episodes, epsilon: float = 0.0, watched: int = 0
) -> tuple[Array, Array, list[Array]]:
    """Play some episodes side by side, each by its own seed, so that none depends on the others.

    Args:
        values: Maps a step of observations, ``(1, N, …)``, the actions before them, whether episodes begin with them,
            and a recurrent state, whose parts are ``(1, N, H)`` and which is None at first, to action values,
            ``(1, N, A)``, and the state after it.
        spec: The environment.
        episodes: Their seeds, and the steps after which one is cut.
        epsilon: Share of random actions.
        watched: Episodes whose observations are returned.

    Returns:
        Their returns and their lengths, ``(N,)``, and the observations of the first ones, each ``(T, …)``.
    """
    count, state = len(episodes.seeds), None
    environments = [make_environment(spec.name, spec.frame_stack) for _ in episodes.seeds]
    randoms = [np.random.default_rng([seed, 1]) for seed in episodes.seeds]  # not those of gymnasium's own generator
    now = np.stack([each.reset(seed) for each, seed in zip(environments, episodes.seeds, strict=True)])
    returns, steps, seen = np.zeros(count), np.zeros(count, int), [[row.copy()] for row in now[:watched]]
    alive, previous = np.arange(count), torch.zeros(count, dtype=torch.long)
    while len(alive):
        begins = torch.full((1, len(alive)), bool(steps[alive[0]] == 0))
        found, state = values(torch.from_numpy(now[alive])[None], previous[None], begins, state)
        actions, keeps = found[0].argmax(1).tolist(), []
        for place, number in enumerate(alive):
            if epsilon and randoms[number].random() < epsilon:
                actions[place] = int(randoms[number].integers(spec.num_actions))
            now[number], reward, terminated, truncated = environments[number].step(actions[place])
            returns[number] += reward
            steps[number] += 1
            if number < watched:
                seen[number].append(now[number].copy())
            keeps.append(not (terminated or truncated or steps[number] >= episodes.max_steps))
        left = torch.tensor(keeps)
        alive, previous = alive[keeps], torch.tensor(actions)[left]
        state = state and tuple(part[:, left.to(part.device)] for part in state)
    return returns, steps, [np.stack(each) for each in seen]


def print_episodes(episodes: Episodes, returns: Array, steps: Array, *, has_header: bool) -> None:
    """Print a row of each episode as CSV: its seed, return and length."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    if has_header:
        table.writerow(["episode", "return", "steps"])
    for seed, won, length in zip(episodes.seeds, returns.tolist(), steps.tolist(), strict=True):
        table.writerow([seed, f"{won:.4g}", length])
