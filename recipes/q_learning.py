"""Q-learning of control tasks and games, feed-forward or with a weight-normalised LSTM or GRU.

The last experiment of Salimans & Kingma 2016 (arXiv 1602.07868), section 5.4, at a size that a CPU finishes, by the
method of Gallici et al. 2025 (PQN, arXiv 2407.04811): Q(λ) over many copies of an environment, without a replay and
without a target network. With no arguments it learns to balance a pole. It needs gymnasium: pip install 'wnseq[rl]'.

On a CPU:
    wnseq run q_learning
    wnseq run q_learning --config breakout    (after pip install minatar --no-deps)
    wnseq run q_learning --config repeat_previous    (after pip install popgym)
Fine-tuning:
    wnseq run q_learning --model.init_from CHECKPOINT --model.learning_rate 1e-4
Playing, from a checkpoint alone:
    wnseq run q_learning predict --ckpt_path CHECKPOINT

Expect a mean return of 500, the largest there is, after half a minute of one CPU core.

Deviations from the papers:
1. The paper of weight normalisation has Atari games, a replay and a target network.
2. With norm weight or batch there is no layer normalisation, which PQN stands on; a convolution's is over pixels too.
3. With the start from data the first turn, of random actions, is not learnt from; the last layer's deviation is 0.1.
4. An episode that is cut by a time limit goes on in the returns with the value of its last observation.
5. The checkpoint with the largest mean return of a validation is tested.
"""

import csv
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

import wnseq
from wnseq.data.environments import (
    EnvironmentDataModule,
    EnvironmentSpec,
    Episodes,
    Update,
    draw_episodes,
    make_environment,
)
from wnseq.init import data_init
from wnseq.nn import RECURRENT_LAYERS
from wnseq.training import plots
from wnseq.training.callbacks import Renormalize, Throughput, UnusedParameters, build_network_first
from wnseq.training.cli.recipe import RecipeCLI, run
from wnseq.training.evaluation import EvaluationTotals, evaluation_mode, evaluation_stage
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint, load_initial_weights
from wnseq.training.hparams import check_arguments
from wnseq.training.initialisation import BatchInitialised
from wnseq.training.resume import open_checkpoint
from wnseq.training.run_info import checkpoint_info, find_datamodule, print_header
from wnseq.training.schedules import schedule_steps, total_steps, use_found_learning_rate

State = tuple[Tensor, ...]
SIZES = ("norm", "core", "hidden_size", "num_layers")


class QLearning(CheckedLoading, LightningModule):
    """A network of action values and how it is trained.

    Args:
        norm: ``weight`` for weight normalisation; ``layer`` or ``batch`` for that normalisation of each hidden layer;
            ``none``.
        start: ``data`` for pre-activations of mean 0 and deviation 1 on the first observations, set by
            ``wnseq.data_init``; ``torch`` for torch's draw. By default data with the norm weight, else torch.
        renormalize: Whether the norm of every direction v is restored after each step; with the norm weight alone.
        core: Recurrence between the hidden layers and the action values; it has the last action as an input too.
        hidden_size: Features of a hidden layer and of the recurrent state.
        num_layers: Hidden layers of observations that are no images; images have a convolution and one hidden layer.
        learning_rate: RAdam's step size; it falls to zero linearly.
        discount: γ, by which a reward counts less for each step that it is ahead.
        trace: λ, the share of the returns that goes on beyond the next step.
        reward_scale: What rewards are multiplied by in training.
        epsilon: Share of random actions at the end of the exploration, and from then on; it starts at 1.
        exploration: Share of the training in which it falls.
        eval_epsilon: Share of random actions in an evaluation.
        init_from: Checkpoint to start from: one of this recipe, whose hyper-parameters then hold where none are given,
            or a plain torch state dict with the same names.

    Raises:
        ValueError: An argument is out of its range, or a checkpoint does not fit.
    """

    resume_may_change = ("eval_epsilon",)

    @fill_from_checkpoint
    def __init__(
        self,
        norm: Literal["weight", "layer", "batch", "none"] = "layer",
        start: Literal["data", "torch"] | None = None,
        renormalize: bool = False,
        core: Literal["none", "lstm", "gru"] = "none",
        hidden_size: int = 128,
        num_layers: int = 2,
        learning_rate: float = 1e-3,
        discount: float = 0.99,
        trace: float = 0.95,
        reward_scale: float = 0.1,
        epsilon: float = 0.05,
        exploration: float = 0.2,
        eval_epsilon: float = 0.0,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        start = start or ("data" if norm == "weight" else "torch")
        self.save_hyperparameters(ignore=["init_from"])
        share = "at least 0 and at most 1"
        check_arguments(
            QLearning,
            self.hparams,
            hidden_size="at least 1",
            num_layers="at least 1",
            learning_rate="greater than 0",
            discount=share,
            trace=share,
            reward_scale="greater than 0",
            epsilon=share,
            exploration=share,
            eval_epsilon=share,
        )
        if renormalize and norm != "weight":
            raise ValueError(f"renormalize must be false unless the norm is weight, got true with {norm}")
        self.init_from = init_from
        self.network: Network | None = None
        self.totals = EvaluationTotals()
        self.experience: dict[str, Tensor] = {}

    def build(self, environment: EnvironmentSpec) -> None:
        """Make the network for an environment."""
        h, self.environment = self.hparams, environment
        self.network = Network(environment, h.norm, h.core, h.hidden_size, h.num_layers)

    def build_from_data(self) -> None:
        """Make the network for the environment of the Trainer, if there is none, and start it from ``init_from``."""
        data = find_datamodule(self)
        if not isinstance(data, EnvironmentDataModule):
            raise TypeError(
                f"Q-learning acts in an environment: call the Trainer with an EnvironmentDataModule, got {data!r}"
            )
        is_fit = self.trainer.state.fn == TrainerFn.FITTING
        if is_fit:
            self.experience = {}  # of another fit; that of a resumed one is loaded after this
        if self.network is None and (is_fit or self.init_from is not None):
            self.build(data.spec)
            if self.init_from is not None:
                load_initial_weights(self.get_submodule("network"), self.init_from, SIZES)
        if self.hparams.core != "none":
            data.check_whole_rollouts()
        if self.network is not None:
            self.environment.check_same(data.spec)

    def configure_callbacks(self) -> list[Callback]:
        """Make the network before the callbacks of the Trainer look at it; hold the norms of v."""
        build_network_first(self.trainer)
        if self.hparams.renormalize and not any(isinstance(each, Renormalize) for each in self.trainer.callbacks):
            self.trainer.callbacks.insert(1, Renormalize())  # before those that stop a run or save its weights
        return [UnusedParameters()]

    def forward(self, observations: Tensor) -> Tensor:
        """Map observations ``(N, …)`` to action values, ``(N, A)``; a recurrence starts from zero."""
        none = observations.new_zeros(1, len(observations), dtype=torch.long)
        return self.network(observations[None], none, none == 0)[0][0]

    def on_fit_start(self) -> None:
        """Print what is trained on what."""
        use_found_learning_rate(self)
        h, core = self.hparams, "" if self.hparams.core == "none" else f" and a {self.hparams.core}"
        print_header(self, f"{h.hidden_size} hidden units{core}, norm {h.norm}, start {h.start}")

    def configure_optimizers(self) -> Any:
        """Set up RAdam and its schedule."""
        self.total = total_steps(self.trainer)
        optimizer = torch.optim.RAdam(self.network.parameters(), self.hparams.learning_rate, foreach=True)
        return schedule_steps(optimizer, self.trainer, lambda done: max(0.0, 1 - done))

    # ---- acting

    def current_epsilon(self) -> float:
        """Return the share of random actions at this step of the training."""
        h, done = self.hparams, self.trainer.global_step / self.total
        return max(h.epsilon, 1 - (1 - h.epsilon) * done / h.exploration) if h.exploration else h.epsilon

    @torch.no_grad()
    def act(self, epsilon: float) -> dict[str, Tensor]:
        """Step the environments through a turn; return what was observed, done and won, ``(T, N, …)``.

        Returns:
            ``observations``, with ``previous``, the action before each, and ``begins``, where an episode begins;
            ``actions``, ``rewards``, ``terminated``, and ``resets``, where a step only begins an episode; ``values``,
            the largest action values and that of what follows, ``(T + 1, N)``; recurrent states as ``state.0`` and on.
        """
        data = self.trainer.datamodule
        environments, steps = data.environments, data.rollout_steps
        names = ("observations", "previous", "begins", "actions", "rewards", "terminated", "resets", "values")
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        previous = self.experience.get("next.previous", torch.zeros(environments.number, dtype=torch.long))
        state = parts(self.experience, "next.state")
        before = state if state is not None else self.network.zero_state(environments.number)
        with evaluation_mode(self.network):
            for step in range(steps + 1):
                now = torch.from_numpy(environments.observations).to(self.device)
                begins = torch.from_numpy(environments.begins).to(self.device)
                values, state_after = self.network(now[None], previous[None].to(self.device), begins[None], state)
                rows["values"].append(values[0].amax(1).float())
                if step == steps:
                    break
                random = torch.rand(environments.number) < epsilon
                drawn = torch.randint(self.environment.num_actions, (environments.number,))
                actions = torch.where(random, drawn, values[0].argmax(1).cpu())
                done = environments.step(actions.numpy())
                won = map(torch.from_numpy, (done.rewards, done.terminated, done.begins))
                for name, value in zip(names, [now, previous, begins, actions, *won], strict=False):
                    rows[name].append(value)
                previous, state = actions, state_after
        kept = {"next.previous": previous, **{f"next.state.{k}": part for k, part in enumerate(state or ())}}
        states = {f"state.{k}": part for k, part in enumerate(before or ())}
        return {**{name: torch.stack(each).to(self.device) for name, each in rows.items()}, **states, **kept}

    def collect(self) -> None:
        """Act for a turn, and compute the returns that its values are to reach."""
        if not self.network.is_initialised:
            if self.hparams.start == "data":
                self.experience = self.act(1.0)
            initialise_from_batch(self.network, self.hparams.start, self.experience)
        turn, h = self.act(self.current_epsilon()), self.hparams
        rewards, values, terminated = (turn.pop(name) for name in ("rewards", "values", "terminated"))
        returns = q_lambda_returns(rewards * h.reward_scale, values, terminated, turn["resets"], h.discount, h.trace)
        self.experience = {**turn, "returns": returns}

    # ---- learning

    def training_step(self, batch: Update, index: int) -> Tensor:
        """Compute the mean squared error of one part of a turn; before its first part, act for the turn."""
        if batch.part == 0:
            self.collect()
        turn, is_recurrent = self.experience, self.hparams.core != "none"
        if batch.part % batch.parts_per_pass == 0:
            turn["order"] = torch.randperm(turn["actions"][0 if is_recurrent else ...].numel())
        chosen = turn["order"].chunk(batch.parts_per_pass)[batch.part % batch.parts_per_pass].to(self.device)
        names = ("observations", "previous", "begins", "actions", "resets", "returns")
        if is_recurrent:  # whole rollouts, from the state at their start
            picked = [turn[name][:, chosen] for name in names]
            state = tuple(part[:, chosen] for part in parts(turn, "state"))
        else:
            picked, state = [turn[name].flatten(0, 1)[chosen].unsqueeze(0) for name in names], None
        observations, previous, begins, actions, resets, returns = picked
        values, _ = self.network(observations, previous, begins, state)
        taken = values.float().gather(2, actions.unsqueeze(2)).squeeze(2)
        loss = (0.5 * (taken - returns) ** 2 * ~resets).sum() / (~resets).sum().clamp(min=1)
        if (every := self.trainer.log_every_n_steps) and (self.trainer.global_step + 1) % every == 0:  # logs are slow
            self._log_training(loss)
        return loss

    def _log_training(self, loss: Tensor) -> None:
        self.log("train/squared_error", loss, batch_size=1)
        self.log("train/epsilon", self.current_epsilon(), batch_size=1)
        if finished := self.trainer.datamodule.environments.finished:
            self.log("train/mean_return", float(np.mean(finished)), prog_bar=True, batch_size=1)
            self.log("train/return_deviation", float(np.std(finished)), prog_bar=True, batch_size=1)

    # ---- evaluation

    def on_validation_epoch_start(self) -> None:
        """Forget the totals of the evaluation before, which may have been interrupted."""
        self.totals.reset()

    def validation_step(self, batch: Episodes, index: int) -> None:
        """Play the episodes of a batch, and add their returns to the totals of the validation or the test."""
        returns, steps, _ = play(self, batch)
        self.totals.add(returns=returns.sum(), squares=(returns**2).sum(), steps=steps.sum(), episodes=len(returns))

    def on_validation_epoch_end(self) -> None:
        """Log mean and deviation of the returns, and the mean length."""
        stage, totals = evaluation_stage(self.trainer), self.totals.reduce(self.trainer)
        returns, squares, steps = (totals[name] / totals["episodes"] for name in ("returns", "squares", "steps"))
        values = {
            "mean_return": returns,
            "return_deviation": max(0.0, squares - returns**2) ** 0.5,
            "mean_steps": steps,
        }
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, batch_size=1)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Episodes, index: int) -> Tensor:
        """Print a row for each episode; return their returns."""
        returns, steps, _ = play(self, batch)
        table = csv.writer(sys.stdout, lineterminator="\n")
        if index == 0:
            table.writerow(["episode", "return", "steps"])
        for place, (won, length) in enumerate(zip(returns.tolist(), steps.tolist(), strict=True)):
            table.writerow([batch.seeds[place], f"{won:.4g}", length])
        return torch.from_numpy(returns)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone, and the turn that is being learnt from."""
        checkpoint["wnseq"] = checkpoint_info(self, "q_learning", environment=self.environment.state())
        checkpoint["experience"] = {name: value.cpu() for name, value in self.experience.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint, and restore the turn if a training goes on."""
        info = open_checkpoint(self, checkpoint, "q_learning")
        if self.network is None:
            self.build(EnvironmentSpec.from_state(info["environment"]))
        if (data := find_datamodule(self)) is not None:
            self.environment.check_same(data.spec)
        self.experience = {name: value.to(self.device) for name, value in checkpoint["experience"].items()}


def parts(tensors: dict[str, Tensor], name: str) -> State | None:
    """Return the tensors ``name.0``, ``name.1`` …; None if there are none."""
    return tuple(value for key, value in tensors.items() if key.startswith(f"{name}.")) or None


def q_lambda_returns(
    rewards: Tensor, values: Tensor, terminated: Tensor, resets: Tensor, discount: float, trace: float
) -> Tensor:
    """Compute the returns of Q(λ).

    G_t = r_t + γ·((1 − λ)·V_(t+1) + λ·G_(t+1)), without what follows where the episode ends; and G_t = V_t where the
    step is a reset, so that an episode that was cut goes on with the value of its last observation

    Args:
        rewards: r.
        values: V, the largest action values.
        terminated: Whether the episode ends with the step.
        resets: Whether the step has no effect but to begin the next episode.
        discount: γ.
        trace: λ.

    Shape:
        - values: ``(T + 1, N)``; the others, and the returns, ``(T, N)``

    Source:
        Gallici et al. 2025, arXiv 2407.04811, section 3.2; Daley & Amato 2019, arXiv 1810.09967.
    """
    returns, ahead = torch.empty_like(rewards), values[-1]
    for step in reversed(range(len(rewards))):
        mixed = (1 - trace) * values[step + 1] + trace * ahead
        ahead = rewards[step] + discount * mixed * ~terminated[step]
        returns[step] = ahead = torch.where(resets[step], values[step], ahead)
    return returns


CHANNELS = 16


class Network(BatchInitialised):
    """Sequences of observations to action values."""

    def __init__(self, environment: EnvironmentSpec, norm: str, core: str, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.largest, self.num_actions = environment.largest or 1, environment.num_actions
        linear, conv = (wnseq.WNLinear, wnseq.WNConv2d) if norm == "weight" else (nn.Linear, nn.Conv2d)
        layers: list[nn.Module] = []
        features = environment.shape[0]
        if len(environment.shape) == 3:
            layers += [conv(features, CHANNELS, 3), *norms(norm, CHANNELS, nn.BatchNorm2d), nn.ReLU(), nn.Flatten()]
            features, num_layers = CHANNELS * (environment.shape[1] - 2) * (environment.shape[2] - 2), 1
        for _ in range(num_layers):
            layers += [linear(features, hidden_size), *norms(norm, hidden_size, nn.BatchNorm1d), nn.ReLU()]
            features = hidden_size
        self.body = nn.Sequential(*layers)
        self.core: nn.Module | None = None
        if core != "none":
            layer = RECURRENT_LAYERS[core, "weight" if norm == "weight" else "none"]
            self.core = layer(features + self.num_actions, hidden_size)
            features = hidden_size
        self.output = linear(features, self.num_actions)

    def forward(
        self, observations: Tensor, previous: Tensor, begins: Tensor, state: State | None = None
    ) -> tuple[Tensor, State | None]:
        """Map sequences of observations to action values.

        Shape:
            - observations: ``(T, N, …)``
            - previous: the action before each observation; begins: whether an episode begins with it; ``(T, N)``
            - state: the recurrent state before the first, each part ``(1, N, H)``; None for zeros
            - action values: ``(T, N, A)``; and the state after the last
        """
        dtype = next(self.parameters()).dtype
        x = self.body(observations.flatten(0, 1).to(dtype) / self.largest).unflatten(0, observations.shape[:2])
        if self.core is None:
            return self.output(x), None
        last = F.one_hot(previous, self.num_actions) * ~begins.unsqueeze(2)
        hx = state if state is None or len(state) > 1 else state[0]
        x, after = self.core(torch.cat((x, last.to(x.dtype)), 2), hx, reset=begins)
        return self.output(x), after if isinstance(after, tuple) else (after,)

    def zero_state(self, number: int) -> State | None:
        """Return the state of sequences that begin; None without a recurrence."""
        if self.core is None:
            return None
        zeros = next(self.parameters()).new_zeros(1, number, self.core.hidden_size)
        return (zeros, zeros) if isinstance(self.core, wnseq.WNLSTM | wnseq.LSTM) else (zeros,)


def norms(norm: str, features: int, batch_norm: type[nn.Module]) -> list[nn.Module]:
    """Return the normalisation of a layer's outputs, if it has any."""
    if norm == "layer":
        return [nn.GroupNorm(1, features)]  # over channels and pixels
    return [batch_norm(features)] if norm == "batch" else []


@torch.no_grad()
def initialise_from_batch(network: Network, how: str, turn: dict[str, Tensor]) -> None:
    """Initialise a network in place; one without weight normalisation gets the function of one that has it.

    Args:
        network: Network to initialise.
        how: ``data``, or ``torch`` for nothing.
        turn: A turn of random actions, for ``data``.
    """
    if how == "data":
        data_init(network, (turn["observations"], turn["previous"], turn["begins"]), {"output": 0.1, "*": 1.0})
    network.mark_initialised()


def play(model: QLearning, episodes: Episodes, watched: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Play some episodes side by side, each by its own seed, so that none depends on the others.

    Args:
        model: The model.
        episodes: Their seeds, and the steps after which one is cut.
        watched: Episodes whose observations are returned.

    Returns:
        Their returns and their lengths, ``(N,)``, and the observations of the first ones, each ``(T, …)``.
    """
    network, epsilon, count = model.network, model.hparams.eval_epsilon, len(episodes.seeds)
    environments = [make_environment(model.environment.name) for _ in episodes.seeds]
    randoms = [np.random.default_rng(seed) for seed in episodes.seeds]
    now = np.stack([each.reset(seed) for each, seed in zip(environments, episodes.seeds, strict=True)])
    returns, steps, seen = np.zeros(count), np.zeros(count, int), [[row.copy()] for row in now[:watched]]
    alive, previous, state = np.arange(count), torch.zeros(count, dtype=torch.long), network.zero_state(count)
    with evaluation_mode(network):
        while len(alive):
            inputs = torch.from_numpy(now[alive])[None].to(model.device), previous[None].to(model.device)
            begins = torch.full((1, len(alive)), bool(steps[alive[0]] == 0), device=model.device)
            values, state = network(*inputs, begins, state)
            actions, keeps = values[0].argmax(1).tolist(), []
            for place, number in enumerate(alive):
                if epsilon and randoms[number].random() < epsilon:
                    actions[place] = int(randoms[number].integers(model.environment.num_actions))
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


@torch.no_grad()
def play_checkpoint(checkpoint: str | Path, episodes: int = 10, seed: int = 0) -> np.ndarray:
    """Play some episodes by a checkpoint alone; return their returns."""
    model = QLearning.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    return play(model, Episodes(tuple(range(seed, seed + episodes)), 10000))[0]


def animate(model: QLearning, file: Path, number: int = 6, most: int = 150) -> Path:
    """Write a GIF of the first steps of some episodes, side by side."""
    _, _, seen = play(model, Episodes(tuple(range(number)), most), watched=number)
    return plots.save_animation(draw_episodes(model.environment, seen), None, file, columns=3)


class QLearningCLI(RecipeCLI):
    """The command line of this recipe."""

    mode = "max"

    def callbacks(self) -> list[Callback]:
        """Return the throughput in frames."""
        return [Throughput("frames", lambda batch: batch.frames)]

    def report(self) -> None:
        """Print the returns of the test, and animate some episodes."""
        mean, deviation = (self.metrics[f"test/{name}"] for name in ("mean_return", "return_deviation"))
        print(f"\nreturns of {self.datamodule.describe_part('test')}: {mean:.4g} ± {deviation:.2g}")
        if self.run_dir is not None:
            try:
                print(animate(self.model, self.run_dir / "episodes.gif"))
            except ModuleNotFoundError:
                print("no animation: it needs matplotlib (pip install 'wnseq[plots]')")


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the final metrics."""
    return run(
        QLearning,
        EnvironmentDataModule,
        recipe="q_learning",
        args=args,
        monitor="val/mean_return",
        cli_class=QLearningCLI,
        defaults={"trainer.max_epochs": 10, "trainer.gradient_clip_val": 10.0, "trainer.log_every_n_steps": 50},
    )


if __name__ == "__main__":
    main()
