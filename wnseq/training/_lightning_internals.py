"""The only place that touches private names: Lightning's command line, and argparse's list of options below it."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.cli import LightningCLI


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
