"""What a replay draws is what was added: against a direct search in the list of all steps."""

import io

import numpy as np
import pytest
import torch

from wnseq.data.environments import EnvironmentSpec, Replay

NUMBERS = EnvironmentSpec("numbers", (3,), None, 5)
BITS = EnvironmentSpec("bits", (2, 3, 3), 1, 6)
STACKED = EnvironmentSpec("bytes", (3, 2, 1), 255, 300, frame_stack=3)
ENVS, ROWS = 3, 10


class History:
    """All steps of some environments; every frame is another one, by its step and its copy."""

    def __init__(self, spec: EnvironmentSpec, steps: int) -> None:
        draw = np.random.default_rng(0)
        self.spec, shape = spec, (steps, ENVS)
        number = np.arange(1, steps * ENVS + 1)
        if spec.largest == 1:
            frames = number[:, None] >> np.arange(int(np.prod(spec.frame_shape))) & 1
        elif spec.largest == 255:
            frames = np.stack((number // 256, number % 256), 1)
        else:
            frames = number[:, None] * np.array([1, 0.5, -0.25])
        self.frames = frames.reshape(*shape, *spec.frame_shape).astype(spec.dtype)
        self.begins = draw.random(shape) < 0.25
        self.begins[0] = True
        self.actions = draw.integers(0, spec.num_actions, shape)
        self.rewards = draw.normal(size=shape).astype(np.float32)
        self.terminated = draw.random(shape) < 0.2

    def observation(self, step: int, place: int) -> np.ndarray:
        rows, inside = [], True
        for back in range(self.spec.frame_stack):
            frame = self.frames[step - back, place] if inside else np.zeros_like(self.frames[0, 0])
            rows.insert(0, frame)
            inside = inside and not self.begins[step - back, place]
        return np.concatenate(rows)

    def add(self, replay: Replay, steps: range) -> None:
        for step in steps:
            seen = np.stack([self.observation(step, place) for place in range(ENVS)])
            replay.add(seen, self.begins[step], self.actions[step], self.rewards[step], self.terminated[step])

    def find(self, observation: np.ndarray) -> tuple[int, int]:
        newest = observation[-self.spec.frame_shape[0] :]
        (found,) = np.argwhere((self.frames == newest).reshape(*self.begins.shape, -1).all(2))
        return int(found[0]), int(found[1])


def valid_starts(history: History, added: int, steps: int) -> set[tuple[int, int]]:
    """Steps whose stack, last action and successors are among the latest."""
    oldest = max(0, added - ROWS)
    first = oldest + max(1, history.spec.frame_stack - 1)
    return {(step, place) for step in range(first, added - steps) for place in range(ENVS)}


@pytest.mark.parametrize("spec", [NUMBERS, BITS, STACKED], ids=lambda spec: spec.name)
@pytest.mark.parametrize(("added", "steps"), [(6, 1), (24, 1), (30, 4)])
def test_what_is_drawn_is_what_was_added(spec, added, steps):
    torch.manual_seed(0)
    history, replay = History(spec, 40), Replay(spec, ENVS, ENVS * ROWS + 1)
    history.add(replay, range(added))
    assert len(replay) == ENVS * min(added, ROWS) and replay.size == ENVS * ROWS
    drawn = replay.sample(200, steps)
    assert drawn["observations"].numpy().dtype == spec.dtype and drawn["actions"].dtype == torch.long
    seen = set()
    for k in range(200):
        start, place = history.find(drawn["observations"][0, k].numpy())
        seen.add((start, place))
        for ahead in range(steps + 1):
            step = start + ahead
            found = {name: value[ahead, k].numpy() for name, value in drawn.items() if ahead < len(value)}
            np.testing.assert_array_equal(found["observations"], history.observation(step, place))
            assert found["begins"] == history.begins[step, place]
            assert found["previous"] == history.actions[step - 1, place]
            if ahead < steps:
                assert found["resets"] == history.begins[step + 1, place]
                for name in ("actions", "rewards", "terminated"):
                    assert found[name] == getattr(history, name)[step, place]
    assert seen == valid_starts(history, added, steps)


def test_every_step_is_drawn_as_often():
    torch.manual_seed(1)
    history, replay = History(NUMBERS, 40), Replay(NUMBERS, ENVS, ENVS * ROWS)
    history.add(replay, range(37))
    first = replay.sample(40_000, 1)["observations"][0, :, 0].double()
    values, counts = first.unique(return_counts=True)
    starts = valid_starts(history, 37, 1)
    assert values.tolist() == sorted(1.0 + step * ENVS + place for step, place in starts)
    expected = 40_000 / len(starts)
    chi2 = float(((counts.double() - expected) ** 2 / expected).sum())
    freedom = len(starts) - 1
    assert abs(chi2 - freedom) < 4 * (2 * freedom) ** 0.5


def test_a_saved_replay_goes_on_to_the_bit():
    history = History(STACKED, 40)
    for added in (7, 23):  # before and after the ring is full
        whole, again = (Replay(STACKED, ENVS, ENVS * ROWS) for _ in range(2))
        history.add(whole, range(added))
        file = io.BytesIO()
        torch.save(whole.state_dict(), file)
        assert file.tell() < 4000
        file.seek(0)
        again.load_state_dict(torch.load(file, weights_only=True))
        for until in (added, added + 8):
            history.add(whole, range(added, until))
            history.add(again, range(added, until))
            found = []
            for replay in (whole, again):
                torch.manual_seed(2)
                found.append(replay.sample(50, 2))
            for name, value in found[0].items():
                assert torch.equal(value, found[1][name]), name


def test_the_memory_is_known_beforehand_and_pixels_take_a_bit():
    assert Replay(BITS, 2, 1000).nbytes == 1000 * (3 + 1 + 1 + 4 + 1)  # 18 pixels
    assert Replay(STACKED, 2, 1000).nbytes == 1000 * (2 + 1 + 2 + 4 + 1)  # one frame of the three
    assert Replay(NUMBERS, 2, 1000).nbytes == 1000 * (3 * 4 + 1 + 1 + 4 + 1)
    with pytest.raises(ValueError, match=r"takes .* GB, more than the .* GB of memory that are free: keep at most"):
        Replay(BITS, 2, 10**15)


def test_a_replay_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="must keep a step of each of the 3 copies at least, got size 2"):
        Replay(NUMBERS, 3, 2)
    history, replay = History(STACKED, 40), Replay(STACKED, ENVS, ENVS * ROWS)
    history.add(replay, range(6))
    with pytest.raises(ValueError, match="has 6 steps of each copy, too few for sequences of 4, which take 7"):
        replay.sample(1, 4)
    assert replay.sample(1, 3)["actions"].shape == (3, 1)
