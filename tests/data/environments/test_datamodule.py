"""The turns of acting and learning, the episodes of evaluations, and what is refused."""

from types import SimpleNamespace

import pytest
import torch

from wnseq.data.environments import EnvironmentDataModule, Episodes, Turn

SMALL = {"num_envs": 4, "rollout_steps": 8, "batch_size": 16, "passes": 3, "epoch_frames": 70}


def test_an_epoch_is_whole_turns_of_updates():
    data = EnvironmentDataModule(**SMALL)
    assert len(data.train_dataloader()) == 2
    assert list(data.train_dataloader()) == [Turn(6, 2, 32)] * 2  # two updates, three times
    assert "64 frames of 4 copies, in turns of 8 steps of each and then 6 updates of 16 steps" in data.describe()
    assert len(EnvironmentDataModule(**{**SMALL, "epoch_frames": 1}).train_dataloader()) == 1


def test_updates_from_a_replay_may_be_larger_than_a_turn():
    data = EnvironmentDataModule(num_envs=1, rollout_steps=4, passes=16, batch_size=64, epoch_frames=12)
    assert list(data.train_dataloader()) == [Turn(1, 1, 4)] * 3  # an update every four frames


def test_evaluations_play_the_same_episodes_and_no_others_of_training():
    data = EnvironmentDataModule(val_episodes=3, test_episodes=5, eval_batch_size=2, eval_max_steps=7)
    assert list(data.val_dataloader()) == [Episodes((10**6, 10**6 + 1), 7), Episodes((10**6 + 2,), 7)]
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        assert len(loader) == 3 and [len(batch.seeds) for batch in loader] == [2, 2, 1]
        assert next(iter(loader)).seeds[0] == 2 * 10**6
    assert data.describe_part("val") == "CartPole-v1, 3 episodes of at most 7 steps"


def test_a_state_goes_on_in_the_middle_of_an_epoch():
    def epoch(data: EnvironmentDataModule):
        for turn in data.train_dataloader():
            yield turn, data.environments.step(torch.zeros(4, dtype=torch.long).numpy()).observations.tolist()

    whole, half, rest = (EnvironmentDataModule(**SMALL | {"epoch_frames": 190}, seed=1) for _ in range(3))
    for data in (whole, half, rest):
        data.setup("fit")
    expected = list(epoch(whole))
    parts = epoch(half)
    begun = [next(parts) for _ in range(4)]
    rest.load_state_dict(half.state_dict())
    assert begun + list(epoch(rest)) == expected
    other = EnvironmentDataModule(**{**SMALL, "passes": 1, "epoch_frames": 190})
    other.setup("fit")
    with pytest.raises(ValueError, match="had passes 3, this one has 1"):
        other.load_state_dict(half.state_dict())
    assert EnvironmentDataModule().state_dict() == {}
    for name in ("val_episodes", "eval_max_steps"):
        other = EnvironmentDataModule(**SMALL | {"epoch_frames": 190, name: 2}, seed=1)
        other.setup("fit")
        with pytest.raises(ValueError, match=rf"was validated with {name} \d+, this one has 2: .*not comparable"):
            other.load_state_dict(half.state_dict())


def test_the_seed_is_torch_s_unless_it_is_given():
    starts = []
    for torch_seed, seed in ((0, None), (0, None), (1, None), (1, 5), (2, 5)):
        torch.manual_seed(torch_seed)
        data = EnvironmentDataModule(**SMALL, seed=seed)
        data.setup("fit")
        starts.append(data.environments.observations.tolist())
    assert starts[0] == starts[1] != starts[2] and starts[3] == starts[4] != starts[2]


def test_checkpoints_keep_the_options():
    options = EnvironmentDataModule(**SMALL).checkpoint_options()
    assert options["environment"] == "CartPole-v1" and options["batch_size"] == 16 and "seed" not in options
    assert EnvironmentDataModule(**options).checkpoint_options() == options


def test_frames_are_stacked():
    data = EnvironmentDataModule(**SMALL, frame_stack=3)
    data.setup("fit")
    assert data.spec.shape == (12,) and data.environments.observations.shape == (4, 12)
    assert data.checkpoint_options()["frame_stack"] == 3 and "12 numbers of 3 frames" in data.describe()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"batch_size must divide the 32 steps of a turn \(num_envs 4 .*, got 5"):
        EnvironmentDataModule(**{**SMALL, "batch_size": 5}).check_whole_passes()
    with pytest.raises(ValueError, match=r"divide the 96 steps that a turn learns from \(.* times passes 3\), got 5"):
        EnvironmentDataModule(**{**SMALL, "batch_size": 5}).train_dataloader()
    with pytest.raises(ValueError, match=r"must be a multiple of the 5 steps of a sequence .*, got 16"):
        EnvironmentDataModule(**SMALL).check_whole_sequences(5)
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        EnvironmentDataModule(num_envs=0)
    with pytest.raises(TypeError, match=r"seed must be an integer, got 0\.5"):
        EnvironmentDataModule(seed=0.5)
    data = EnvironmentDataModule(**SMALL)
    data.trainer = SimpleNamespace(world_size=2)
    for stage in ("fit", "predict"):  # a second process would print the same episodes again
        with pytest.raises(ValueError, match=r"trains and predicts in one process, got 2: --trainer\.devices 1"):
            data.setup(stage)
    data.setup("test")
