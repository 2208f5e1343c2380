"""The folder of a run: its number, its logs, and what a finished run has left in it."""

from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning_utilities.core.imports import RequirementCache


def new_folder(parent: Path) -> Path:
    """Make and return ``parent/<n>`` with the next free number n; two runs started at once get two."""
    taken = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    number = max(taken, default=0) + 1
    make = rank_zero_only(Path.mkdir)  # the first process makes it, and tells the others where things go
    while True:
        folder = parent / str(number)
        try:
            make(folder, parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def loggers(folder: Path) -> list[Logger]:
    """``metrics.csv`` always, TensorBoard's files where it is installed."""
    found: list[Logger] = [CSVLogger(folder, name="", version="")]
    if RequirementCache("tensorboard"):
        found.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    return found


def contents(folder: Path) -> dict[str, Path]:
    """What a run has left for the user, by its name."""
    files = {"log": "metrics.csv", "TensorBoard": "tensorboard", "figure": "curves.png", "gates": "gates.png"}
    return {name: folder / file for name, file in files.items() if (folder / file).exists()}
