"""Environments for Q-learning: by name, many at once, and the turns in which one acts and learns."""

from wnseq.data.environments.datamodule import EnvironmentDataModule, Episodes, Update
from wnseq.data.environments.pictures import draw_episodes, draw_observation
from wnseq.data.environments.several import Environments, Step, make_environments
from wnseq.data.environments.single import Environment, EnvironmentSpec, make_environment

__all__ = [
    "Environment",
    "EnvironmentDataModule",
    "EnvironmentSpec",
    "Environments",
    "Episodes",
    "Step",
    "Update",
    "draw_episodes",
    "draw_observation",
    "make_environment",
    "make_environments",
]
