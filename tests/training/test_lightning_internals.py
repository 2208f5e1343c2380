"""The private names that the command line needs still mean what it takes them for, and are in one file."""

import ast
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from wnseq.training import _lightning_internals as internals

FOLDER = Path(internals.__file__).parent


def test_options_and_subcommands_are_found() -> None:
    parser = LightningArgumentParser(prog="program")
    fit = LightningArgumentParser()
    fit.add_argument("--step", "-s", type=int)
    parser.add_subcommands().add_subcommand("fit", fit)
    assert internals.subparsers(parser)["fit"] is fit
    assert {"--step", "-s"} <= set(internals.option_names(fit))
    assert "--step" not in internals.option_names(parser)


def test_lightning_still_has_the_method_that_is_overridden() -> None:
    assert callable(LightningCLI._parse_ckpt_path)


@pytest.mark.parametrize("given", [DataLoader([1, 2]), [DataLoader([1]), DataLoader([2])], CombinedLoader([[3], [4]])])
def test_the_loaders_of_a_fit_are_found(given: Any) -> None:
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.fit_loop._data_source.instance = given
    found = internals.train_loaders(trainer)
    assert len(found) == (1 if isinstance(given, DataLoader) else 2)
    assert not isinstance(given, DataLoader) or found[0] is given


def test_a_signal_reaches_the_handler_and_a_stop_the_loop() -> None:
    trainer, got = Trainer(accelerator="cpu", logger=False), []
    internals.replace_sigterm_handler(trainer, lambda number, frame: got.append(number))
    trainer._signal_connector.register_signal_handlers()
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        trainer._signal_connector.teardown()
    assert got == [signal.SIGTERM] and not trainer.received_sigterm
    internals.stop_after_batch(trainer)
    assert trainer.received_sigterm


def private_names(source: str) -> list[str]:
    """Return the private attributes that are read from anything but ``self``."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if ast.unparse(node.value) not in ("self", "super()")
    ]


def test_no_other_file_reads_private_names() -> None:
    sources = {path.name: path.read_text("utf-8") for path in FOLDER.rglob("*.py")}
    found = {name for name, source in sources.items() if private_names(source)}
    assert found == {"_lightning_internals.py"}
