import copy
import csv
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

import wnseq
from wnseq.data.environments import EnvironmentDataModule, EnvironmentSpec, Episodes, Replay, Turn, make_environment
from wnseq.data.images import ImageDataModule
from wnseq.optim import direction_norms
from wnseq.recipes.q_learning import (
    Network,
    QLearning,
    animate,
    initialise_from_batch,
    main,
    play,
    play_checkpoint,
)

DATA = {"num_envs": 4, "rollout_steps": 8, "batch_size": 16, "passes": 2, "epoch_frames": 64, "val_episodes": 3,
        "test_episodes": 4}  # fmt: skip
SMALL = [*(f"--data.{name}={value}" for name, value in DATA.items()), "--model.hidden_size=6", "--trainer.max_epochs=2",
         "--trainer.log_every_n_steps=1"]  # fmt: skip
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
         "num_sanity_val_steps": 0, "limit_val_batches": 0, "accelerator": "cpu"}  # fmt: skip
NORMS = ["weight", "layer", "batch", "none"]
IMAGE = EnvironmentSpec("an image", (4, 10, 10), 1, 6)
ATARI = EnvironmentSpec("Atari", (4, 84, 84), 255, 6, 4)
DQN = {"algorithm": "dqn", "replay_size": 60, "replay_start": 40, "target_updates": 3, "exploration": 0.5}
SEQUENCES = {"core": "lstm", "sequence_steps": 4, "burn_in": 3}


def flags(**options):
    return [f"--model.{name}={value}" for name, value in options.items()]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*arguments):
    return main(["fit", *SMALL, *arguments])


def newest(name="last"):
    return max(Path("runs/q_learning").glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: int(path.parts[2]))


def trained(steps=1, data=DATA, **options):
    """Return a model after some turns of four updates."""
    data = EnvironmentDataModule(**data)
    model = QLearning(**{"hidden_size": 6, **options})
    Trainer(max_steps=steps, **QUIET).fit(model, data)
    return model


# ---- network


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spec", [EnvironmentSpec("numbers", (5,), None, 3), IMAGE, ATARI], ids=str)
def test_the_start_is_of_deviation_one_in_every_norm(spec, norm):
    torch.manual_seed(0)
    network = Network(spec, norm, "none", 16, 2)
    observations = torch.randint(0, 2, (6, 20, *spec.shape)).float()
    none = torch.zeros(6, 20, dtype=torch.long)
    seen = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | wnseq.WNLinear | wnseq.WNConv2d):
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    initialise_from_batch(network, "data", {"observations": observations, "previous": none, "begins": none == 1})
    assert network.is_initialised
    with torch.no_grad():
        values, state = network(observations, none, none == 1)
    assert state is None and values.shape == (6, 20, spec.num_actions)
    for name, out in seen.items():
        others = (0, 2, 3) if out.ndim == 4 else tuple(range(out.ndim - 1))
        expected = 0.1 if name == "output" else 1.0
        torch.testing.assert_close(out.std(others), torch.full_like(out.std(others), expected), rtol=0.02, atol=0)
    assert isinstance(network.output, wnseq.WNLinear) == (norm == "weight")


def test_images_of_atari_have_the_network_of_mnih_et_al():
    network = Network(replace(ATARI, num_actions=4), "none", "none", 512, 2)
    assert sum(each.numel() for each in network.parameters()) == 1_686_180  # biases too
    with pytest.raises(ValueError, match="at least 3 x 3 pixels, got the environment a strip: images 4 x 8 x 2"):
        Network(EnvironmentSpec("a strip", (4, 8, 2), 1, 6), "none", "none", 512, 2)


@pytest.mark.parametrize("core", ["lstm", "gru"])
@pytest.mark.parametrize("norm", ["weight", "none"])
def test_acting_step_by_step_is_the_network_on_the_whole_turn(core, norm):
    torch.manual_seed(0)
    model = trained(norm=norm, core=core, data={**DATA, "rollout_steps": 32, "batch_size": 32})
    assert type(model.network.core).__name__ == ("WN" if norm == "weight" else "") + core.upper()
    turns = [{}, {}]
    for turn in turns:  # the second begins inside of episodes
        turn.update(model.act(0.5))
        model.experience = turn
    for turn in turns:
        state = tuple(turn[name] for name in ("state.0", "state.1") if name in turn)
        with torch.no_grad():
            values, after = model.network(turn["observations"], turn["previous"], turn["begins"], state)
        torch.testing.assert_close(values.amax(2), turn["values"][:-1])
        for k, part in enumerate(after):
            torch.testing.assert_close(part, turn[f"next.state.{k}"])
        torch.testing.assert_close(turn["previous"][1:], turn["actions"][:-1])
        torch.testing.assert_close(turn["begins"][1:], turn["resets"][:-1])
    torch.testing.assert_close(turns[0]["next.previous"], turns[1]["previous"][0])
    torch.testing.assert_close(turns[0]["next.state.0"], turns[1]["state.0"])
    assert turns[1]["begins"][1:].any() and not turns[1]["begins"].all()


def test_a_recurrent_network_forgets_at_a_border_and_knows_its_last_action():
    torch.manual_seed(0)
    network = Network(EnvironmentSpec("numbers", (2,), None, 3), "weight", "lstm", 8, 1)
    x, previous = torch.randn(6, 1, 2), torch.tensor([[0], [1], [2], [0], [1], [2]])
    begins = torch.tensor([[True], [False], [False], [True], [False], [False]])
    with torch.no_grad():
        whole, last = network(x, previous, begins), network(x[3:], previous[3:], begins[3:])
        other = network(x, (previous + 1) % 3, begins)
    torch.testing.assert_close(whole[0][3:], last[0])
    torch.testing.assert_close(whole[0][3], other[0][3])  # an episode begins without one
    assert not torch.allclose(whole[0][4], other[0][4])


# ---- training


@pytest.mark.parametrize(("norm", "start"), [("weight", "data"), ("layer", "torch"), ("batch", "torch")])
def test_weight_normalisation_starts_from_data_and_the_others_where_it_is_given(norm, start):
    model = QLearning(norm)
    assert model.hparams.start == start and QLearning(norm, start="data").hparams.start == "data"
    data, drawn = EnvironmentDataModule(**{**DATA, "batch_size": 32, "passes": 1}), {}  # one update

    class Look(Callback):
        def on_fit_start(self, trainer, pl_module):
            drawn.update({name: value.clone() for name, value in pl_module.network.state_dict().items()})

        def on_before_backward(self, trainer, pl_module, loss):
            kept = torch.equal(drawn["output.bias"], pl_module.network.output.bias)
            assert kept == (start == "torch") and pl_module.network.is_initialised

    Trainer(max_steps=1, callbacks=[Look()], **QUIET).fit(model, data)
    assert drawn


def test_the_loss_is_over_the_steps_that_are_none_of_reset(monkeypatch):
    losses, mean_error = [], QLearning.mean_error

    def look(model, inputs, actions, resets, returns):
        with torch.no_grad():
            values = model.network(*inputs)[0].double()
        kept = [(t, n) for t in range(len(actions)) for n in range(len(actions[0])) if not resets[t, n]]
        errors = [(values[t, n, actions[t, n]] - returns[t, n].double()) ** 2 / 2 for t, n in kept]
        loss = mean_error(model, inputs, actions, resets, returns)
        losses.append((float(loss.detach()), float(sum(errors) / len(errors)), resets.numel() - len(kept)))
        return loss

    monkeypatch.setattr(QLearning, "mean_error", look)
    trained(steps=4)
    assert len(losses) == 16 and sum(resets for *_, resets in losses) > 0
    for found, expected, _ in losses:
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("core", ["none", "lstm"])
def test_every_step_of_a_turn_is_learnt_from_once_a_pass(core):
    model = trained(core=core)
    numbers = torch.arange(32.0).view(8, 4)
    turn = model.experience = {**model.experience, "returns": numbers}
    drawn = list(model.draw_turn(Turn(4, 2, 32)))
    orders = [torch.cat((drawn[k][3], drawn[k + 1][3]), 1) for k in (0, 2)]
    assert not torch.equal(*orders)
    for order in orders:
        assert sorted(order.flatten().tolist()) == list(range(32))
        assert core == "none" or torch.equal(order - order[0], numbers - numbers[0])  # whole rollouts
    for (observations, previous, begins, state), actions, resets, returns in drawn:
        place = returns.long().flatten()
        for name, value in (("observations", observations), ("previous", previous), ("begins", begins),
                            ("actions", actions), ("resets", resets)):  # fmt: skip
            assert torch.equal(value.flatten(0, 1), turn[name].flatten(0, 1)[place])
        for k, part in enumerate(state or ()):
            assert torch.equal(part, turn[f"state.{k}"][:, place[: part.shape[1]]])
    assert (state is None) == (core == "none")


def test_the_step_size_falls_with_each_update_and_gradients_are_clipped():
    rates, norms = [], []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_post_hook(self.look)

        def look(self, optimizer, *_):
            rates.append(optimizer.param_groups[0]["lr"])
            norms.append(torch.stack([p.grad.norm() for p in optimizer.param_groups[0]["params"]]).norm().item())

    model = QLearning(hidden_size=6, learning_rate=0.1)
    trainer = Trainer(max_epochs=2, gradient_clip_val=1e-3, callbacks=[Look()], **QUIET)
    trainer.fit(model, EnvironmentDataModule(**DATA))
    assert trainer.global_step == 4
    np.testing.assert_allclose(rates, 0.1 * (1 - np.arange(16) / 16))
    assert max(norms) == pytest.approx(1e-3, rel=1e-3)


def test_gradients_are_not_accumulated_over_turns():
    with pytest.raises(ValueError, match="accumulate_grad_batches must be 1, got 2: a step of the Trainer is many up"):
        Trainer(max_steps=1, accumulate_grad_batches=2, **QUIET).fit(QLearning(), EnvironmentDataModule(**DATA))


def test_a_batch_of_a_recurrence_is_whole_rollouts():
    with pytest.raises(ValueError, match=r"must be a multiple of the 8 steps of a sequence .*, got 4"):
        trained(data={**DATA, "batch_size": 4}, core="gru")
    with pytest.raises(ValueError, match=r"must be a multiple of the 3 steps of a sequence .*, got 16"):
        trained(core="gru", **{**DQN, "sequence_steps": 3})


def test_exploration_falls_and_stays():
    model = trained(epsilon=0.1, exploration=0.5)
    model.total, shares = 10, []
    for step in range(11):
        model._trainer = type("T", (), {"global_step": step})()
        shares.append(model.current_epsilon())
    np.testing.assert_allclose(shares, [1, 0.82, 0.64, 0.46, 0.28, *[0.1] * 6])
    model.hparams.exploration = 0.0
    assert model.current_epsilon() == 0.1


def test_the_norm_of_v_is_held():
    norms = {}
    for held in (True, False):
        torch.manual_seed(0)
        model = QLearning("weight", hidden_size=6, renormalize=held, learning_rate=0.1)
        before = {}

        class Look(Callback):
            def on_fit_start(self, trainer, pl_module, before=before):
                before.update({name: norm.clone() for name, norm in direction_norms(pl_module).items()})

        Trainer(max_steps=8, callbacks=[Look()], **QUIET).fit(model, EnvironmentDataModule(**DATA))
        after = direction_norms(model)
        norms[held] = all(torch.allclose(after[name], before[name]) for name in before)
    assert norms == {True: True, False: False}
    with pytest.raises(ValueError, match="renormalize must be false unless the norm is weight, got true with layer"):
        QLearning(norm="layer", renormalize=True)


def test_a_run_from_its_start_to_its_report(capsys):
    metrics = fit()
    out = capsys.readouterr().out
    assert set(metrics) == {
        f"{part}/{name}" for part in ("val", "test") for name in ("mean_return", "return_deviation", "mean_steps")
    }
    assert metrics["test/mean_return"] == metrics["test/mean_steps"] >= 8  # a reward for each step
    for text in ("environment CartPole-v1: 4 numbers, 2 actions", "64 frames of 4 copies", "frames/s", "returns of"):
        assert text in out
    assert "no animation: it needs matplotlib" in out
    with next(Path("runs/q_learning/1").glob("metrics.csv")).open() as file:
        names = set(csv.DictReader(file).fieldnames)
    assert {"train/squared_error", "train/mean_return", "train/frames_per_s", "val/mean_return"} <= names
    best = torch.load(newest("best"), weights_only=True)
    assert best["metrics"]["val/mean_return"] == metrics["val/mean_return"]
    environment = {"name": "CartPole-v1", "shape": [4], "largest": None, "num_actions": 2, "frame_stack": 1}
    assert best["wnseq"]["environment"] == environment

    returns = play_checkpoint(newest("best"), episodes=4, seed=2_000_000)
    assert returns.mean() == pytest.approx(metrics["test/mean_return"])
    main(["predict", f"--ckpt_path={newest('best')}"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "episode,return,steps" and [float(row.split(",")[1]) for row in rows] == returns.tolist()
    with pytest.raises(SystemExit):
        main(["test", f"--ckpt_path={newest('best')}", "--data.environment=Acrobot-v1"])
    assert "the network is for the environment CartPole-v1: 4 numbers, 2 actions; --data.env" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--model.core=lstm", "--data.environment=Acrobot-v1", "--model.exploration=0.9", "--model.norm=weight",
         "--model.renormalize=true"],
        ["--model.norm=batch"],
        [*flags(**DQN), "--data.passes=4", "--data.frame_stack=2"],
        [*flags(**DQN, **SEQUENCES, renormalize="true"), "--data.passes=2"],
    ],
    ids=["lstm", "batch", "dqn", "dqn lstm"],
)  # fmt: skip
def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(options, monkeypatch):
    fit(*options)
    whole = torch.load(newest(), weights_only=True)
    Path("stop_q_learning.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 3: raise KeyboardInterrupt\n"  # in the second epoch
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    with pytest.raises(SystemExit):
        fit(*options, "--trainer.callbacks=stop_q_learning.Stop")
    fit(*options, "--ckpt_path=last")
    resumed = torch.load(newest(), weights_only=True)
    assert resumed["global_step"] == whole["global_step"] == 4
    assert ("replay" in whole) == (options[0] == "--model.algorithm=dqn")
    for part in ("state_dict", "experience", "target", "replay"):
        for name, value in whole.get(part, {}).items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(resumed[part][name])), name
    moments = [each["optimizer_states"][0]["state"] for each in (whole, resumed)]
    assert all(torch.equal(each["exp_avg"], moments[1][place]["exp_avg"]) for place, each in moments[0].items())


def test_a_run_whose_checkpoints_have_no_replay_fills_another_one(monkeypatch, capsys):
    options = [*flags(**DQN, save_replay="false"), "--data.passes=4"]
    fit(*options)
    assert torch.load(newest(), weights_only=True)["replay"] is None
    assert "has no replay" not in capsys.readouterr().out  # of the test
    lengths, step = [], QLearning.training_step

    def look(model, *arguments):
        loss = step(model, *arguments)
        lengths.append(len(model.replay))
        return loss

    monkeypatch.setattr(QLearning, "training_step", look)
    fit(*options, "--ckpt_path=last", "--trainer.max_epochs=3")
    assert "the checkpoint has no replay (save_replay false): another one is filled first" in capsys.readouterr().out
    assert lengths == [60, 60]  # 64 after the first turn, of which 60 are kept


@pytest.mark.parametrize("recurrent", [{}, SEQUENCES], ids=["feed-forward", "lstm"])
def test_dqn_brings_values_to_those_of_the_target_network(recurrent, monkeypatch):
    sample, drawn, seen, targets = Replay.sample, [], [], []

    def record(replay, *sizes):
        drawn.append(sample(replay, *sizes))
        return drawn[-1]

    mean_error = QLearning.mean_error

    def look(model, *drawn):
        weights = {name: value.clone() for name, value in model.network.state_dict().items()}
        loss = mean_error(model, *drawn)
        seen.append((float(loss.detach()), weights))
        targets.append({name: value.clone() for name, value in model.target.items()})
        return loss

    monkeypatch.setattr(Replay, "sample", record)
    monkeypatch.setattr(QLearning, "mean_error", look)
    options = {**DQN, **recurrent, "target_updates": 6, "discount": 0.9, "reward_scale": 2.0, "learning_rate": 0.05}
    model = trained(steps=4, **options)
    burn_in, steps = recurrent.get("burn_in", 0), recurrent.get("sequence_steps", 1)
    assert len(drawn) == 4 and drawn[0]["actions"].shape == (burn_in + steps, 4 * 16 // steps)  # of four updates
    drawn = [{name: value[:, k * 16 // steps :][:, : 16 // steps] for name, value in each.items()}
             for each in drawn for k in range(4)]  # fmt: skip
    resets = sum(int(each["resets"].sum()) for each in drawn)
    assert resets and any(each["terminated"].any() for each in drawn)

    network = copy.deepcopy(model.network).double()
    large = 0
    for each, (loss, weights), target in zip(drawn, seen, targets, strict=True):
        inputs = [each[name] for name in ("observations", "previous", "begins")]
        with torch.no_grad():
            network.load_state_dict(target)
            ahead = network(*inputs)[0].amax(2)
            network.load_state_dict(weights)
            values = network(*(rows[:-1] for rows in inputs))[0]
        expected, number = 0.0, 0
        for step in range(burn_in, burn_in + steps):
            for k in range(16 // steps):
                if each["resets"][step, k]:
                    continue
                following = 0.0 if each["terminated"][step, k] else 0.9 * float(ahead[step + 1, k])
                error = (
                    float(values[step, k, each["actions"][step, k]]) - 2.0 * float(each["rewards"][step, k]) - following
                )
                expected += error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5
                number += 1
                large += abs(error) > 1
        assert loss == pytest.approx(expected / number, rel=1e-5)
    assert large

    for update, target in enumerate(targets):  # renewed at the start of a turn, six updates or more after the last
        old = seen[[0, 0, 8, 12][update // 4]][1]
        assert all(torch.equal(value, target[name]) for name, value in old.items())
    assert not torch.equal(seen[0][1]["output.bias"], seen[1][1]["output.bias"])


def test_a_recurrent_dqn_learns_nothing_from_its_burn_in(monkeypatch):
    calls = []

    class Look(Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.network.register_forward_hook(
                lambda network, inputs, _: calls.append((len(inputs[0]), torch.is_grad_enabled(), network.training))
            )

    data = EnvironmentDataModule(**DATA)
    model = QLearning(hidden_size=4, start="torch", **DQN, **SEQUENCES)
    Trainer(max_steps=1, callbacks=[Look()], **QUIET).fit(model, data)
    assert set(calls[:-9]) == {(1, False, False)}  # acting
    assert calls[-9:] == [(8, False, False), *[(3, False, False), (4, True, True)] * 4]  # target's, burn-in and loss


class Blinking(gymnasium.Env):
    """Images of bits; an episode has seven steps, and action 1 is the right one."""

    observation_space, action_space = gymnasium.spaces.Box(0, 1, (5, 6, 2), np.bool_), gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.random((5, 6, 2)) < 0.5, {}

    def step(self, action):
        self.steps += 1
        return self.np_random.random((5, 6, 2)) < 0.5, float(action == 1), self.steps == 7, False, {}


def test_dqn_learns_from_stacked_images(capsys):
    gymnasium.register("Blinking-v0", Blinking)
    try:
        options = {**DQN, "learning_rate": 0.01, "discount": 0.0, "eval_epsilon": 0.0}
        images = [
            "--data.environment=Blinking-v0",
            "--data.frame_stack=2",
            "--data.passes=16",
            "--trainer.max_epochs=4",
        ]
        assert fit(*images, *flags(**options))["test/mean_return"] > 5
    finally:
        gymnasium.registry.pop("Blinking-v0")
    assert "images 4 x 5 x 6 of 2 frames, 3 actions" in capsys.readouterr().out


def test_the_defaults_are_those_of_the_algorithm():
    h = QLearning().hparams
    assert (h.norm, h.start, h.learning_rate, h.trace, h.replay_size) == ("layer", "torch", 1e-3, 0.95, None)
    h = QLearning(algorithm="dqn").hparams
    assert (h.norm, h.start, h.learning_rate, h.trace) == ("weight", "data", 3e-4, None)
    assert (h.replay_size, h.replay_start, h.target_updates, h.save_replay) == (1_000_000, 50_000, 10_000, True)
    assert (h.sequence_steps, h.burn_in) == (None, None)
    h = QLearning(algorithm="dqn", core="gru", burn_in=0).hparams
    assert (h.sequence_steps, h.burn_in) == (80, 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"algorithm": "dqn", "trace": 0.5}, "trace must be left out with the algorithm dqn, .* option of pqn"),
        ({"replay_size": 9}, "replay_size must be left out with the algorithm pqn, .* of dqn"),
        ({"core": "lstm", "burn_in": 9}, "burn_in must be left out with the algorithm pqn"),
        ({"algorithm": "dqn", "burn_in": 9}, "sequence_steps and burn_in are of a recurrence: they need core lstm or"),
        ({"algorithm": "sarsa"}, "algorithm must be one of pqn, dqn, got 'sarsa'"),
        ({"algorithm": "dqn", "target_updates": 0}, "target_updates must be at least 1, got 0"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        QLearning(**options)


def test_dqn_has_the_turn_of_the_paper_where_none_is_given(capsys):
    small = ["--data.epoch_frames=16", "--data.val_episodes=1", "--data.test_episodes=1", "--trainer.max_epochs=1"]
    for number, frames, copies in (([], 32, 8), (["--data.num_envs=2"], 16, 2)):
        main(["fit", *small, *flags(algorithm="dqn", replay_start=99), *number])
        turn = f"{frames} frames of {copies} copies, in turns of 4 steps of each and then {copies} updates of 64 steps"
        assert turn in capsys.readouterr().out


def test_a_replay_that_memory_does_not_hold_is_refused_before_the_first_step(capsys):
    with pytest.raises(SystemExit) as stop:
        fit("--model.algorithm=dqn", "--model.replay_size=1000000000000000")
    assert stop.value.code == 1 and "more than the" in capsys.readouterr().err
    assert not list(Path("runs").glob("*/*"))


def test_a_second_fit_may_have_other_environments():
    model = trained(core="lstm")
    Trainer(max_steps=1, **QUIET).fit(model, EnvironmentDataModule(**{**DATA, "num_envs": 2}))
    assert model.experience["actions"].shape == (8, 2)


def test_a_run_that_logs_no_steps_trains():
    trainer = Trainer(max_steps=2, log_every_n_steps=0, **QUIET)
    trainer.fit(QLearning(hidden_size=4), EnvironmentDataModule(**DATA))
    assert trainer.global_step == 2 and "train/epsilon" not in trainer.callback_metrics


def test_seeds_repeat_and_differ():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(trained(steps=3).network.output.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


# ---- evaluation


@pytest.mark.parametrize("core", ["none", "gru"])
def test_an_episode_does_not_depend_on_those_beside_it(core):
    model = trained(core=core, eval_epsilon=0.3)
    together = play(model, Episodes(tuple(range(6)), 40))
    for seed in range(6):
        alone = play(model, Episodes((seed,), 40))
        assert (alone[0][0], alone[1][0]) == (together[0][seed], together[1][seed])
    assert (together[1] <= 40).all()
    assert play(model, Episodes((3,), 5))[1].tolist() == [5]


def test_what_is_played_is_what_the_network_prefers():
    model = trained()
    returns, steps, (seen,) = play(model, Episodes((7,), 50), watched=1)
    environment = make_environment("CartPole-v1")
    now, won = environment.reset(7), 0.0
    for row in seen[:-1]:
        np.testing.assert_array_equal(row, now)
        now, reward, *_ = environment.step(int(model(torch.from_numpy(now)[None]).argmax()))
        won += reward
    np.testing.assert_array_equal(seen[-1], now)
    assert returns[0] == won and steps[0] == len(seen) - 1


@pytest.mark.figures
def test_the_animation_shows_the_episodes(folder):
    image = pytest.importorskip("PIL.Image")
    file = animate(trained(), folder / "a.gif", number=2, most=5)
    with image.open(file) as found:
        assert found.n_frames >= 6


# ---- what is refused


def test_a_model_without_environments_is_refused():
    with pytest.raises(TypeError, match="Q-learning acts in an environment: call the Trainer with an EnvironmentData"):
        Trainer(max_steps=1, **QUIET).fit(QLearning(), ImageDataModule())
    with pytest.raises(ValueError, match="no network yet: fit the model first, or load a checkpoint of it"):
        Trainer(**QUIET).test(QLearning(), EnvironmentDataModule(**DATA))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Pendulum-v1", "the actions of Pendulum-v1 must be numbered (Discrete), got Box"),
        ("Blackjack-v", "gymnasium has no environment Blackjack-v"),
        ("MinAtar/Pong-v0", "expected MinAtar/GAME-v0"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused_before_the_first_step(name, text, capsys, monkeypatch):
    monkeypatch.setattr(QLearning, "training_step", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(SystemExit) as stop:
        fit(f"--data.environment={name}")
    assert stop.value.code == 1 and text in capsys.readouterr().err
    assert not list(Path("runs").glob("*/*"))


def test_fine_tuning_starts_from_the_weights_and_hyper_parameters():
    fit()
    path = newest()
    weights = torch.load(path, weights_only=True)["state_dict"]
    tuned = QLearning(init_from=str(path), learning_rate=1e-5)
    assert tuned.hparams.hidden_size == 6
    Trainer(max_epochs=0, **QUIET).fit(tuned, EnvironmentDataModule(**DATA))
    assert all(torch.equal(value, weights[name]) for name, value in tuned.state_dict().items())
    assert tuned.network.is_initialised
    other = QLearning(init_from=str(path), algorithm="dqn", replay_size=60)  # with the defaults of dqn
    dqn = QLearning(algorithm="dqn", replay_size=60, hidden_size=6, norm=tuned.hparams.norm)
    assert other.hparams == dqn.hparams
    fit(f"--model.init_from={path}", *flags(**DQN))
    back = QLearning(init_from=str(newest()), algorithm="pqn")
    assert back.hparams == QLearning(hidden_size=6).hparams
    assert QLearning(init_from=str(newest())).hparams.target_updates == DQN["target_updates"]
    with pytest.raises(ValueError, match=r"--model\.hidden_size"):
        Trainer(max_epochs=0, **QUIET).fit(QLearning(hidden_size=5, init_from=str(path)), EnvironmentDataModule(**DATA))


# ---- by name, what it is for


@pytest.mark.slow
def test_the_pole_is_balanced():
    means = [main(["fit", f"--seed_everything={seed}"])["test/mean_return"] for seed in range(5)]
    assert min(means) >= 475, means


@pytest.mark.slow
def test_the_pole_is_balanced_by_dqn():
    assert main(["fit", "--config=dqn_cartpole"])["test/mean_return"] >= 475
