"""The folder of a run: its number, its logs, and what a finished run has left in it."""

from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["make_loggers", "make_run_folder", "run_files"]


def make_run_folder(parent: Path) -> Path:
    """Make and return ``parent/<n>`` with the next free number n; two runs started at once get two folders."""
    taken = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    number = max(taken, default=0) + 1
    mkdir = rank_zero_only(Path.mkdir)  # the first rank makes the folder; the others learn its path
    while True:
        folder = parent / str(number)
        try:
            mkdir(folder, parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def make_loggers(folder: Path) -> list[Logger]:
    """Return a logger that writes ``metrics.csv``, and one for TensorBoard if that is installed."""
    loggers: list[Logger] = [CSVLogger(folder, name="", version="")]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    return loggers


def run_files(folder: Path) -> dict[str, Path]:
    """Return the files of a run that a user looks at, by name, if they exist."""
    files = {"log": "metrics.csv", "TensorBoard": "tensorboard", "figure": "curves.png", "gates": "gates.png"}
    return {name: folder / file for name, file in files.items() if (folder / file).exists()}
