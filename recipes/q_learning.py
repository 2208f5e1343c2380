"""Q-learning of control tasks and games, feed-forward or with a weight-normalised LSTM or GRU.

The last experiment of Salimans & Kingma 2016 (arXiv 1602.07868), section 5.4, by two methods. dqn is the paper's: Mnih
et al. 2015 with a replay, a target network and Adamax. pqn is that of Gallici et al. 2025 (arXiv 2407.04811), at a size
that a CPU finishes: Q(λ) over many copies of an environment, with neither. With no arguments it learns to balance a
pole by pqn. It needs gymnasium: pip install 'wnseq[rl]'.

On a CPU:
    wnseq run q_learning
    wnseq run q_learning --config breakout    (after pip install minatar --no-deps)
    wnseq run q_learning --config repeat_previous    (after pip install popgym)
    wnseq run q_learning --config dqn_cartpole
Fine-tuning:
    wnseq run q_learning --model.init_from CHECKPOINT --model.learning_rate 1e-4
Playing, from a checkpoint alone:
    wnseq run q_learning predict --ckpt_path CHECKPOINT

Expect a mean return of 500, the largest there is, after half a minute of one CPU core.

Deviations from the papers:
1. With norm weight or batch there is no layer normalisation, which PQN stands on; a convolution's is over pixels too.
2. pqn's start from data is from a turn of random actions, which is not learnt from; dqn's is from the first batch of
   the replay. The last layer's deviation is 0.1.
3. An episode that is cut by a time limit goes on in the returns with the value of its last observation.
4. The checkpoint with the largest mean return of a validation is tested.
5. dqn acts with eight copies and then takes eight updates; the target network is renewed between two such turns. Small
   images have MinAtar's network, of one convolution and one hidden layer.
6. dqn's rewards are scaled, not clipped, and the norm of its gradient is clipped at 10, as PQN's is.
7. A recurrent dqn learns from sequences of R2D2's length (Kapturowski et al. 2019), but from a state of zeros and a
   burn-in, without stored states, priorities and double Q-learning.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.func import functional_call

import wnseq
from wnseq.data.environments import (
    EnvironmentDataModule,
    EnvironmentSpec,
    Episodes,
    Replay,
    Turn,
    draw_episodes,
    draw_passes,
    play_episodes,
    play_turn,
    print_episodes,
)
from wnseq.init import data_init
from wnseq.nn import RECURRENT_LAYERS
from wnseq.training import plots
from wnseq.training.callbacks import Renormalize, Throughput, UnusedParameters, build_network_first
from wnseq.training.cli.recipe import RecipeCLI, run
from wnseq.training.evaluation import ReturnTotals, evaluation_mode
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint, load_initial_weights
from wnseq.training.hparams import check_arguments, defaults_by
from wnseq.training.initialisation import BatchInitialised
from wnseq.training.inner_steps import check_inner_steps, scale_learning_rate, take_step
from wnseq.training.resume import open_checkpoint
from wnseq.training.returns import q_lambda_returns
from wnseq.training.run_info import checkpoint_info, find_datamodule, print_header
from wnseq.training.schedules import schedule_steps, total_steps, use_found_learning_rate

State = tuple[Tensor, ...]
Drawn = tuple[tuple[Any, ...], Tensor, Tensor, Tensor]  # inputs of the network, actions, resets and returns
INPUTS = ("observations", "previous", "begins")
SIZES = ("norm", "core", "hidden_size", "num_layers")
DEFAULTS = {  # of each algorithm, as published; what the other lacks is refused there
    "pqn": {"norm": "layer", "learning_rate": 1e-3, "trace": 0.95, "reward_scale": 0.1, "epsilon": 0.05,
            "exploration": 0.2, "eval_epsilon": 0.0},
    "dqn": {"norm": "weight", "learning_rate": 3e-4, "reward_scale": 1.0, "epsilon": 0.1, "exploration": 0.02,
            "eval_epsilon": 0.05, "target_updates": 10_000, "replay_size": 1_000_000, "replay_start": 50_000,
            "save_replay": True, "sequence_steps": None, "burn_in": None},
}  # fmt: skip
DQN_TURN = {"data.num_envs": 8, "data.rollout_steps": 4, "data.passes": 16, "data.batch_size": 64,
            "trainer.log_every_n_steps": 50}  # eight updates of 64 steps every 32 frames  # fmt: skip


class QLearning(CheckedLoading, LightningModule):
    """A network of action values and how it is trained.

    Args:
        norm: ``weight`` for weight normalisation; ``layer`` or ``batch`` for that normalisation of each hidden layer;
            ``none``. By default layer; weight.
        algorithm: ``pqn``, or ``dqn``, with a replay and a target network. It decides the defaults of options without
            one, first pqn's, then dqn's; an option of one algorithm is refused by the other.
        start: ``data`` for pre-activations of mean 0 and deviation 1 on the first observations, set by
            ``wnseq.data_init``; ``torch`` for torch's draw. By default data with the norm weight, else torch.
        renormalize: Whether the norm of every direction v is restored after each step; with the norm weight alone.
        core: Recurrence between the hidden layers and the action values; it has the last action as an input too.
        hidden_size: Features of a hidden layer and of the recurrent state.
        num_layers: Hidden layers of observations that are no images; images have convolutions, Mnih et al.'s from 36
            pixels on and else MinAtar's, and one hidden layer.
        learning_rate: Step size, 1e-3; 3e-4. RAdam's, which falls to zero linearly, with pqn; Adamax's with dqn.
        discount: γ, by which a reward counts less for each step that it is ahead.
        trace: λ, the share of pqn's returns that goes on beyond the next step, 0.95.
        reward_scale: What rewards are multiplied by in training, 0.1; 1. An error above 1 counts linearly with dqn.
        epsilon: Share of random actions at the end of the exploration, and from then on; it starts at 1. 0.05; 0.1.
        exploration: Share of the training in which it falls, 0.2; 0.02.
        eval_epsilon: Share of random actions in an evaluation, 0; 0.05.
        target_updates: Updates for which dqn's target network stays as it is, 10,000.
        replay_size: Steps that dqn keeps, 1,000,000.
        replay_start: Steps that dqn acts, by the first ε, before it learns, 50,000; they are no frames of an epoch.
        save_replay: Whether dqn's checkpoints hold the replay, true. Without it a resumed run fills another one first.
        sequence_steps: Steps of a sequence that a recurrent dqn learns from, 80.
        burn_in: Steps before them that bring its state up to date from zero, 40.
        init_from: Checkpoint to start from: one of this recipe, whose hyper-parameters then hold where none are given,
            or a plain torch state dict with the same names.

    Raises:
        ValueError: An argument is out of its range, or a checkpoint does not fit.
    """

    resume_may_change = ("save_replay",)
    evaluation_may_change = ("eval_epsilon",)
    lent_with: ClassVar = {"algorithm": {name for names in DEFAULTS.values() for name in names} - set(SIZES)}

    @fill_from_checkpoint
    @defaults_by("algorithm", DEFAULTS)
    def __init__(
        self,
        norm: Literal["weight", "layer", "batch", "none"] | None = None,
        algorithm: Literal["pqn", "dqn"] = "pqn",
        start: Literal["data", "torch"] | None = None,
        renormalize: bool = False,
        core: Literal["none", "lstm", "gru"] = "none",
        hidden_size: int = 128,
        num_layers: int = 2,
        learning_rate: float | None = None,
        discount: float = 0.99,
        trace: float | None = None,
        reward_scale: float | None = None,
        epsilon: float | None = None,
        exploration: float | None = None,
        eval_epsilon: float | None = None,
        target_updates: int | None = None,
        replay_size: int | None = None,
        replay_start: int | None = None,
        save_replay: bool | None = None,
        sequence_steps: int | None = None,
        burn_in: int | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        start = start or ("data" if norm == "weight" else "torch")
        if core == "none" and (sequence_steps is not None or burn_in is not None):
            raise ValueError("sequence_steps and burn_in are of a recurrence: they need core lstm or gru")
        if algorithm == "dqn" and core != "none":
            sequence_steps, burn_in = sequence_steps or 80, 40 if burn_in is None else burn_in
        self.save_hyperparameters(ignore=["init_from"])
        sizes = ("hidden_size", "num_layers", "target_updates", "replay_size", "replay_start", "sequence_steps")
        shares = ("discount", "trace", "epsilon", "exploration", "eval_epsilon")
        check_arguments(
            QLearning,
            self.hparams,
            **dict.fromkeys(sizes, "at least 1"),
            **dict.fromkeys(("learning_rate", "reward_scale"), "greater than 0"),
            **dict.fromkeys(shares, "at least 0 and at most 1"),
            burn_in="at least 0",
        )
        if renormalize and norm != "weight":
            raise ValueError(f"renormalize must be false unless the norm is weight, got true with {norm}")
        self.init_from = init_from
        self.network: Network | None = None
        self.totals = ReturnTotals()
        self.experience: dict[str, Tensor] = {}
        self.replay: Replay | None = None
        self.target: dict[str, Tensor] = {}

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
        h, is_fit = self.hparams, self.trainer.state.fn == TrainerFn.FITTING
        if is_fit:
            self.experience = {}  # of another fit; that of a resumed one is loaded after this
            self.replay = Replay(data.spec, data.num_envs, h.replay_size) if h.algorithm == "dqn" else None
        if self.network is None and (is_fit or self.init_from is not None):
            self.build(data.spec)
        if self.init_from is not None:
            load_initial_weights(self.get_submodule("network"), self.init_from, SIZES)
            self.init_from = None  # once: the next fit goes on
        if h.algorithm == "pqn":
            data.check_whole_passes()
        if h.core != "none":
            data.check_whole_sequences(h.sequence_steps or data.rollout_steps)
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
        for tensors in (self.experience, self.target):  # of a checkpoint, which was read onto the CPU
            tensors.update({name: value.to(self.device) for name, value in tensors.items()})
        h, core = self.hparams, "" if self.hparams.core == "none" else f" and a {self.hparams.core}"
        if self.replay is not None:
            self.print(self.replay)
        print_header(self, f"{h.hidden_size} hidden units{core}, norm {h.norm}, start {h.start}, by {h.algorithm}")

    def configure_optimizers(self) -> Any:
        """Set up RAdam and its schedule, or Adamax."""
        check_inner_steps(self.trainer)
        self.total, weights = total_steps(self.trainer), self.network.parameters()
        if self.hparams.algorithm == "dqn":
            return torch.optim.Adamax(weights, self.hparams.learning_rate, betas=(0.5, 0.999), foreach=True)
        optimizer = torch.optim.RAdam(weights, self.hparams.learning_rate, foreach=True)
        return schedule_steps(optimizer, self.trainer, lambda done: max(0.0, 1 - done))

    # ---- acting

    def current_epsilon(self) -> float:
        """Return the share of random actions at this step of the training."""
        h, done = self.hparams, self.trainer.global_step / self.total
        return max(h.epsilon, 1 - (1 - h.epsilon) * done / h.exploration) if h.exploration else h.epsilon

    def act(self, epsilon: float) -> dict[str, Tensor]:
        """Step the environments through a turn, on from the one before; return what was observed, done and won."""
        data, network, state = self.trainer.datamodule, self.network, parts(self.experience, "next.state")
        state = state or network.zero_state(data.num_envs)
        previous, has_next = self.experience.get("next.previous"), self.replay is None  # whose value pqn's returns need
        with evaluation_mode(network):
            turn, after = play_turn(
                self.play_step, data.environments, data.rollout_steps, epsilon, previous, state, has_next=has_next
            )
        turn = {name: value.to(self.device) for name, value in turn.items()}
        states = {"state": state or (), "next.state": after or ()}
        return turn | {f"{name}.{k}": part for name, each in states.items() for k, part in enumerate(each)}

    def play_step(self, *step: Tensor | State | None) -> tuple[Tensor, State | None]:
        """Compute the action values of observations that are played, and the recurrent state after them."""
        return self.network(*(each.to(self.device) if isinstance(each, Tensor) else each for each in step))

    def collect(self) -> None:
        """Act for a turn: compute the returns that its values must reach, or add it to the replay."""
        if self.replay is not None:
            epsilon, least = self.current_epsilon(), min(self.hparams.replay_start, self.replay.size)
            while len(self.replay) < least:
                self.remember(self.act(epsilon))  # at the first step, ε is 1
            self.remember(self.act(epsilon))
            return
        if not self.network.is_initialised:
            if self.hparams.start == "data":
                self.experience = self.act(1.0)
            initialise_from_batch(self.network, self.hparams.start, self.experience)
        turn, h = self.act(self.current_epsilon()), self.hparams
        rewards, values, terminated = (turn.pop(name) for name in ("rewards", "values", "terminated"))
        returns = q_lambda_returns(rewards * h.reward_scale, values, terminated, turn["resets"], h.discount, h.trace)
        self.experience = {**turn, "returns": returns}

    def remember(self, turn: dict[str, Tensor]) -> None:
        """Add a turn to the replay; keep what the next one goes on from."""
        names = ("observations", "begins", "actions", "rewards", "terminated")
        for step in zip(*(turn[name].cpu().numpy() for name in names), strict=True):
            self.replay.add(*step)
        self.experience = {name: value for name, value in turn.items() if name.startswith("next.")}

    # ---- learning

    def training_step(self, batch: Turn, index: int) -> Tensor:
        """Act for a turn and learn from it: take its updates but the last, of which Lightning gets the loss."""
        self.collect()
        draw = self.draw_turn if self.replay is None else self.draw_replay
        for update, drawn in enumerate(draw(batch)):
            done = (self.trainer.global_step * batch.updates + update) / (self.total * batch.updates)
            scale_learning_rate(self, max(0.0, 1 - done))
            loss = self.mean_error(*drawn)
            if update < batch.updates - 1:
                take_step(self, loss)
        if (every := self.trainer.log_every_n_steps) and (self.trainer.global_step + 1) % every == 0:  # logs are slow
            self._log_training(loss)
        return loss

    def mean_error(self, inputs: tuple[Any, ...], actions: Tensor, resets: Tensor, returns: Tensor) -> Tensor:
        """Compute the mean error of the values of some actions, squared or Huber's, but of those that only begin."""
        values, _ = self.network(*inputs)
        taken = values.float().gather(2, actions.unsqueeze(2)).squeeze(2)
        errors = 0.5 * (taken - returns) ** 2 if self.replay is None else F.huber_loss(taken, returns, reduction="none")
        return (errors * ~resets).sum() / (~resets).sum().clamp(min=1)

    def draw_turn(self, batch: Turn) -> Iterator[Drawn]:
        """Draw the parts of passes over a turn, of steps or of whole rollouts."""
        names, start = (*INPUTS, "actions", "resets", "returns"), parts(self.experience, "state") or ()
        turn = [*(self.experience[name] for name in names), *start]
        for drawn in draw_passes(turn, batch, in_sequence=self.hparams.core != "none"):
            yield (*drawn[:3], drawn[6:] or None), *drawn[3:6]

    def draw_replay(self, batch: Turn) -> Iterator[Drawn]:
        """Draw steps or sequences from the replay; their returns are r + γ·max Q of the target network."""
        h, steps, burn_in = self.hparams, self.hparams.sequence_steps or 1, self.hparams.burn_in or 0
        number, first = self.trainer.datamodule.batch_size // steps, self.trainer.global_step * batch.updates
        drawn = self.replay.sample(number * batch.updates, burn_in + steps)
        drawn = {name: value.to(self.device) for name, value in drawn.items()}
        if not self.network.is_initialised:
            initialise_from_batch(self.network, h.start, {name: value[:, :number] for name, value in drawn.items()})
        if first // h.target_updates > (first - batch.updates) // h.target_updates:
            self.target = {name: value.clone() for name, value in self.network.state_dict().items()}
        inputs, skipped = [drawn[name] for name in INPUTS], 1 if self.network.core is None else 0
        with evaluation_mode(self.network):
            ahead, _ = functional_call(self.network, self.target, tuple(each[skipped:] for each in inputs))
        rewards, terminated, *rest = (drawn[name][burn_in:] for name in ("rewards", "terminated", "actions", "resets"))
        returns = rewards * h.reward_scale + h.discount * ahead.float().amax(2)[-steps:] * ~terminated
        by_update = [each.split(number, 1) for each in (*inputs, *rest, returns)]
        for *begun, actions, resets, reached in zip(*by_update, strict=True):
            with evaluation_mode(self.network):
                _, state = self.network(*(each[:burn_in] for each in begun)) if burn_in else (None, None)
            yield (*(each[burn_in:-1] for each in begun), state), actions, resets, reached

    def _log_training(self, loss: Tensor) -> None:
        self.log(f"train/{'squared' if self.replay is None else 'huber'}_error", loss, batch_size=1)
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
        self.totals.add_episodes(*play(self, batch)[:2])

    def on_validation_epoch_end(self) -> None:
        """Log mean and deviation of the returns, and the mean length."""
        self.log_dict(self.totals.metrics(self.trainer), batch_size=1)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Episodes, index: int) -> Tensor:
        """Print a row for each episode; return their returns."""
        returns, steps, _ = play(self, batch)
        print_episodes(batch, returns, steps, has_header=index == 0)
        return torch.from_numpy(returns)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone, and what the next turn goes on from."""
        checkpoint["wnseq"] = checkpoint_info(self, "q_learning", environment=self.environment.state())
        after = [name for name in self.experience if name.startswith("next.")]
        checkpoint["experience"] = {name: self.experience[name].cpu() for name in after}
        if self.replay is not None:
            checkpoint["target"] = {name: value.cpu() for name, value in self.target.items()}
            checkpoint["replay"] = self.replay.state_dict() if self.hparams.save_replay else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint, and restore the experience if a training goes on."""
        info = open_checkpoint(self, checkpoint, "q_learning")
        if self.network is None:
            self.build(EnvironmentSpec.from_state(info["environment"]))
        if (data := find_datamodule(self)) is not None:
            self.environment.check_same(data.spec)
        self.experience = checkpoint["experience"]
        if self.replay is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.target = checkpoint["target"]
            if checkpoint["replay"] is not None:
                self.replay.load_state_dict(checkpoint["replay"])
            else:
                self.print("the checkpoint has no replay (save_replay false): another one is filled first")


def parts(tensors: dict[str, Tensor], name: str) -> State | None:
    """Return the tensors ``name.0``, ``name.1`` …; None if there are none."""
    return tuple(value for key, value in tensors.items() if key.startswith(f"{name}.")) or None


MINATAR = ((16, 3, 1),)  # channels, kernel and stride of convolutions, for small images
ATARI = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # of Mnih et al. 2015, for images of at least 36 pixels


class Network(BatchInitialised):
    """Sequences of observations to action values."""

    def __init__(self, environment: EnvironmentSpec, norm: str, core: str, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.largest, self.num_actions = environment.largest or 1, environment.num_actions
        linear, conv = (wnseq.WNLinear, wnseq.WNConv2d) if norm == "weight" else (nn.Linear, nn.Conv2d)
        layers: list[nn.Module] = []
        features, *size = environment.shape
        if size:
            if min(size) < 3:
                raise ValueError(f"images must have at least 3 x 3 pixels, got the {environment}")
            for channels, kernel, stride in ATARI if min(size) >= 36 else MINATAR:
                layers += [conv(features, channels, kernel, stride), *norms(norm, channels, nn.BatchNorm2d), nn.ReLU()]
                features, size = channels, [(pixels - kernel) // stride + 1 for pixels in size]
            layers.append(nn.Flatten())
            features, num_layers = features * math.prod(size), 1
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
        x = observations.flatten(0, 1).to(dtype)
        x = self.body(x if self.largest == 1 else x / self.largest).unflatten(0, observations.shape[:2])
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
    """Initialise a network in place from a turn of random actions, with any norm as the same function."""
    if how == "data":
        data_init(network, (turn["observations"], turn["previous"], turn["begins"]), {"output": 0.1, "*": 1.0})
    network.mark_initialised()


def play(model: QLearning, episodes: Episodes, watched: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Play some episodes; return their returns, their lengths, and the observations of the first ones."""
    with evaluation_mode(model.network):
        return play_episodes(model.play_step, model.environment, episodes, model.hparams.eval_epsilon, watched)


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

    def choose_defaults(self, options: Any, defaults: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """Return dqn's turn, and how often it logs."""
        algorithm = options.model.algorithm
        if "model.algorithm" not in given:
            algorithm = defaults.get("model.algorithm", algorithm)
        return DQN_TURN if algorithm == "dqn" else {}

    def report(self) -> None:
        """Print the returns of the test, and animate some episodes."""
        if "test/mean_return" in self.metrics:  # not with limit_test_batches 0
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
        defaults={"trainer.max_epochs": 10, "trainer.gradient_clip_val": 10.0, "trainer.log_every_n_steps": 1},
    )


if __name__ == "__main__":
    main()
