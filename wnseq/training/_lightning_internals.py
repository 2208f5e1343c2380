"""The only place that touches private names: Lightning's command line and loops, and argparse's list of options."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import CombinedLoader


class FlagsFirstCLI(LightningCLI):
    """LightningCLI in which the flags of the command line overrule the hyper-parameters of a checkpoint."""

    def _parse_ckpt_path(self) -> None:
        """Do nothing, where Lightning (since 2.5.5) lets the hyper-parameters overrule the flags."""


def subparsers(parser: Any) -> Mapping[str, Any]:
    """Return the parsers of a parser's subcommands by name."""
    return next(action.choices for action in parser._actions if isinstance(action.choices, dict))


def option_names(parser: Any) -> Iterable[str]:
    """Return the options of a parser as they are typed: ``--trainer.max_epochs``."""
    names: Iterable[str] = parser._option_string_actions
    return names


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders of training batches that ``Trainer.fit`` was called with, before Lightning prepares them."""
    given = trainer.fit_loop._data_source.dataloader()
    combined = given if isinstance(given, CombinedLoader) else CombinedLoader(given)
    return list(combined.flattened)
