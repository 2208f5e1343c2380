"""Environments for Q-learning: by name, many at once, the turns in which one acts and learns, and a replay."""

from wnseq.data.environments.datamodule import EnvironmentDataModule
from wnseq.data.environments.pictures import draw_episodes, draw_observation
from wnseq.data.environments.play import Episodes, Turn, draw_passes, play_episodes, play_turn, print_episodes
from wnseq.data.environments.replay import Replay
from wnseq.data.environments.several import Environments, Step, make_environments
from wnseq.data.environments.single import Environment, EnvironmentSpec, make_environment

__all__ = [
    "Environment",
    "EnvironmentDataModule",
    "EnvironmentSpec",
    "Environments",
    "Episodes",
    "Replay",
    "Step",
    "Turn",
    "draw_episodes",
    "draw_observation",
    "draw_passes",
    "make_environment",
    "make_environments",
    "play_episodes",
    "play_turn",
    "print_episodes",
]
