"""The folder of a run: its name, its number, and what a finished run has left in it."""

import inspect
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

__all__ = ["make_run_folder", "name_of_runs", "run_files"]


def name_of_runs(model_class: type, recipe: str) -> str:
    """Return the name of the folder of a recipe's runs: that of the file that holds its model, without ``.py``.

    So a recipe that was copied and changed keeps its runs, and its ``best`` and ``last``, apart.

    Args:
        model_class: The recipe's model.
        recipe: Name of the recipe, for a model that is in no file, as in a notebook.
    """
    try:
        return Path(inspect.getfile(model_class)).stem
    except (TypeError, OSError):
        return recipe


def make_run_folder(parent: Path) -> Path:
    """Make and return ``parent/<n>`` with the next free number n; two runs started at once get two folders.

    Note:
        Only the first rank makes it. Ranks that were started by another program than Lightning can't ask it before they
        meet, and may return a later number. They must write nothing there.
    """
    taken = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    number = max(taken, default=0) + 1
    mkdir = rank_zero_only(Path.mkdir)
    while True:
        folder = parent / str(number)
        try:
            mkdir(folder, parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def run_files(folder: Path) -> dict[str, Path]:
    """Return the files of a run that a user looks at, by name, if they exist."""
    files = {"log": "metrics.csv", "TensorBoard": "tensorboard", "figure": "curves.png", "gates": "gates.png"}
    files |= {name: f"{name}.png" for name in ("timescales", "saturation", "embedding")} | {"samples": "samples.txt"}
    return {name: folder / file for name, file in files.items() if (folder / file).exists()}
