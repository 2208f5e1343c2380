"""Experience of an environment for Q-learning, as turns of acting and learning that resume to the bit."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from wnseq.data._position import DataPosition, EpochLoader, check_evaluation
from wnseq.data.environments.play import Episodes, Turn
from wnseq.data.environments.several import Environments, make_environments
from wnseq.data.environments.single import EnvironmentSpec, make_environment

__all__ = ["EnvironmentDataModule"]

FIRST_SEEDS = {"val": 1_000_000, "test": 2_000_000}  # the episodes of an evaluation are always the same
# must be as before in a resumed run
RESUMED = ("environment", "frame_stack", "num_envs", "rollout_steps", "passes", "batch_size", "epoch_frames")


class EnvironmentDataModule(LightningDataModule):
    """Copies of an environment, and the turns in which they are stepped and learnt from.

    A turn is ``rollout_steps`` steps of each copy, then updates of ``batch_size`` steps: so many that a step is learnt
    from ``passes`` times, in passes over the turn, or on an average where steps are drawn from a replay. The step that
    begins an episode after another one counts as one.

    Args:
        environment: A name of gymnasium's registry, such as CartPole-v1; popgym-RepeatPreviousEasy-v0 and its kin, with
            POPGym installed; MinAtar/Breakout-v0 (six actions; -v1 the smallest set), with MinAtar installed.
        num_envs: Copies.
        rollout_steps: Steps of each copy in a turn.
        passes: Passes over the steps of a turn; how often a step is learnt from.
        batch_size: Steps of an update: a whole part of a turn; a recurrent network's are whole rollouts. From a replay
            they are a whole part of ``passes`` turns.
        epoch_frames: Steps of all copies between two validations, rounded to whole turns.
        val_episodes: Episodes of a validation, the same in each.
        test_episodes: Episodes of the test, and of ``predict``.
        eval_batch_size: Episodes that are played at once; changes the speed alone.
        eval_max_steps: Steps after which an evaluation cuts an episode.
        seed: Seed of the episodes of training; by default that of torch.
        frame_stack: Latest observations that are stacked into one, as games of one picture a step need it.

    Raises:
        TypeError: An argument is no integer.
        ValueError: An argument is out of range, or the environment is not to be learnt by Q-learning.
        ModuleNotFoundError: The package that has it is not installed.

    Example:
        >>> data = EnvironmentDataModule(num_envs=4, rollout_steps=8, batch_size=16, passes=2, epoch_frames=64)
        >>> list(data.train_dataloader())
        [Turn(updates=4, updates_per_pass=2, frames=32), Turn(updates=4, updates_per_pass=2, frames=32)]
    """

    environments: Environments

    def __init__(
        self,
        environment: str = "CartPole-v1",
        num_envs: int = 32,
        rollout_steps: int = 64,
        passes: int = 4,
        batch_size: int = 128,
        epoch_frames: int = 16384,
        val_episodes: int = 20,
        test_episodes: int = 100,
        eval_batch_size: int = 100,
        eval_max_steps: int = 10000,
        seed: int | None = None,
        frame_stack: int = 1,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_envs", num_envs, 1),
            ("rollout_steps", rollout_steps, 1),
            ("passes", passes, 1),
            ("batch_size", batch_size, 1),
            ("epoch_frames", epoch_frames, 1),
            ("val_episodes", val_episodes, 1),
            ("test_episodes", test_episodes, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("eval_max_steps", eval_max_steps, 1),
            ("seed", seed, 0),
            ("frame_stack", frame_stack, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int | None):
                raise TypeError(f"EnvironmentDataModule: {name} must be an integer, got {value!r}")
            if value is not None and value < least:
                raise ValueError(f"EnvironmentDataModule: {name} must be at least {least}, got {value}")
        self.environment = environment
        self.num_envs = num_envs
        self.rollout_steps = rollout_steps
        self.passes = passes
        self.batch_size = batch_size
        self.epoch_frames = epoch_frames
        self.val_episodes = val_episodes
        self.test_episodes = test_episodes
        self.eval_batch_size = eval_batch_size
        self.eval_max_steps = eval_max_steps
        self.seed = seed
        self.frame_stack = frame_stack
        self.position = DataPosition()
        self._spec: EnvironmentSpec | None = None

    @property
    def spec(self) -> EnvironmentSpec:
        """What a network must know of the environment."""
        wanted = (self.environment, self.frame_stack)
        if self._spec is None or (self._spec.name, self._spec.frame_stack) != wanted:
            self._spec = make_environment(*wanted).spec
        return self._spec

    def setup(self, stage: str | None = None) -> None:
        """Make the environments of a training; Lightning restores those of a resumed run after this.

        Raises:
            ValueError: It trains or predicts, and the Trainer has several processes.
        """
        if stage in ("fit", "predict") and self.trainer is not None and self.trainer.world_size > 1:
            raise ValueError(
                f"Q-learning trains and predicts in one process, got {self.trainer.world_size}: --trainer.devices 1. "
                "Runs with other seeds can use the other devices"
            )
        if stage != "fit":
            return
        self.position.reset()
        seed = torch.initial_seed() if self.seed is None else self.seed
        self.environments = make_environments(self.environment, self.num_envs, seed, self.frame_stack)

    def _epoch_turns(self) -> int:
        """Return the turns of an epoch."""
        return max(1, round(self.epoch_frames / (self.num_envs * self.rollout_steps)))

    def _turn_updates(self) -> int:
        """Return the updates of a turn."""
        steps = self.num_envs * self.rollout_steps * self.passes
        if steps % self.batch_size:
            raise ValueError(
                f"batch_size must divide the {steps} steps that a turn learns from (num_envs {self.num_envs} times "
                f"rollout_steps {self.rollout_steps} times passes {self.passes}), got {self.batch_size}"
            )
        return steps // self.batch_size

    def check_whole_passes(self) -> None:
        """Check that the updates of a pass over a turn take each of its steps once.

        Raises:
            ValueError: They do not.
        """
        frames = self.num_envs * self.rollout_steps
        if frames % self.batch_size:
            raise ValueError(
                f"batch_size must divide the {frames} steps of a turn (num_envs {self.num_envs} times rollout_steps "
                f"{self.rollout_steps}), got {self.batch_size}"
            )

    def check_whole_sequences(self, steps: int) -> None:
        """Check that an update takes whole sequences of some steps, as a recurrence needs.

        Raises:
            ValueError: It does not.
        """
        if self.batch_size % steps:
            raise ValueError(
                f"batch_size must be a multiple of the {steps} steps of a sequence (rollout_steps; sequence_steps with "
                f"dqn) for a recurrent network, got {self.batch_size}"
            )

    def describe(self) -> str:
        """Return two lines about the experience, for the screen."""
        turns, turn = self._epoch_turns(), self.num_envs * self.rollout_steps
        return (
            f"{self.spec}\nan epoch: {turns * turn:,} frames of {self.num_envs} copies, in turns of "
            f"{self.rollout_steps} steps of each and then {self._turn_updates()} updates of {self.batch_size} steps"
        )

    def describe_part(self, part: str) -> str:
        """Return one line about what an evaluation plays: ``val`` or ``test``."""
        return f"{self.environment}, {self._number(part)} episodes of at most {self.eval_max_steps:,} steps"

    def provenance(self) -> dict[str, str]:
        """Return which environment it is, for loggers and checkpoints."""
        return {"environment_name": self.environment}

    def checkpoint_options(self) -> dict[str, Any]:
        """Return the options that become the defaults of a command with a checkpoint."""
        names = (*RESUMED, "val_episodes", "test_episodes", "eval_max_steps", "seed")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch as it is: it has no tensors, in which Lightning would search each one."""
        return batch

    def train_dataloader(self) -> EpochLoader[Turn]:
        """Return the turns of an epoch."""
        updates, turns = self._turn_updates(), self._epoch_turns()
        turn = Turn(updates, max(1, updates // self.passes), self.num_envs * self.rollout_steps)
        return EpochLoader(self.position, turns, lambda _, first: iter([turn] * (turns - first)), self.trainer)

    def val_dataloader(self) -> "EpisodeLoader":
        """Return the episodes of a validation."""
        return EpisodeLoader(self, "val")

    def test_dataloader(self) -> "EpisodeLoader":
        """Return the episodes of the test."""
        return EpisodeLoader(self, "test")

    def predict_dataloader(self) -> "EpisodeLoader":
        """Return the episodes of the test."""
        return EpisodeLoader(self, "test")

    def _number(self, part: str) -> int:
        return self.val_episodes if part == "val" else self.test_episodes

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next update and the state of the environments; before a training nothing."""
        if not hasattr(self, "environments"):
            return {}
        position = self.position.state_dict(self.trainer, self._settings() | self._evaluation_settings())
        return {**position, "environments": self.environments.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from what ``state_dict`` returned.

        Raises:
            ValueError: The turns are other ones now, or the validation is.
        """
        if state_dict and self.position.load_state_dict(state_dict, self.trainer, self._settings):
            check_evaluation(state_dict, self._evaluation_settings())
            self.environments.load_state_dict(state_dict["environments"])

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in RESUMED}

    def _evaluation_settings(self) -> dict[str, Any]:
        return {"val_episodes": self.val_episodes, "eval_max_steps": self.eval_max_steps}


class EpisodeLoader:
    """The episodes of an evaluation."""

    def __init__(self, data: EnvironmentDataModule, part: str) -> None:
        self.data = data
        self.seeds = range(FIRST_SEEDS[part], FIRST_SEEDS[part] + data._number(part))

    def __len__(self) -> int:
        return -(-len(self.seeds) // self.data.eval_batch_size)

    def __iter__(self) -> Iterator[Episodes]:
        size = self.data.eval_batch_size
        for first in range(0, len(self.seeds), size):
            yield Episodes(tuple(self.seeds[first : first + size]), self.data.eval_max_steps)
