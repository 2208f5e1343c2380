"""The loggers of a run: its own, those that the user adds by a short name, and what they are shown at the end."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

from wnseq.training.cli.arguments import option_values
from wnseq.training.run_log import RunLog

__all__ = ["expand_logger_names", "log_results", "log_texts", "make_loggers"]

OPTIONS = ("--trainer.logger", "--trainer.logger+")
# what a user calls it -> Lightning's class, and the package that it needs
OTHERS = {
    "wandb": ("WandbLogger", "wandb"),
    "mlflow": ("MLFlowLogger", "mlflow"),
    "comet": ("CometLogger", "comet_ml"),
}


def make_loggers(
    folder: Path, users: Logger | Iterable[Logger] | bool | None, purge_step: int | None = None
) -> list[Logger] | bool:
    """Return the loggers of a run: of ``metrics.csv``, of TensorBoard if that is installed, and the user's.

    Args:
        folder: The folder of the run.
        users: What ``--trainer.logger`` gave: loggers in addition; False for none at all.
        purge_step: Step from which on TensorBoard forgets what the folder has, in a resumed run.
    """
    if users is False:
        return False
    loggers: list[Logger] = [RunLog(folder)]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard", purge_step=purge_step))
    added = [users] if isinstance(users, Logger) else [] if users is None or users is True else list(users)
    return [*loggers, *added]


def expand_logger_names(arguments: Sequence[str]) -> list[str]:
    """Return a command line with Lightning's class in the place of a logger's short name, such as ``wandb``.

    Raises:
        ValueError: The logger's package is not installed, or every run has that logger.
    """
    words = list(arguments)
    for place, before, value in option_values(arguments, OPTIONS):
        if value in ("csv", "tensorboard"):
            missing = value == "tensorboard" and find_spec("tensorboard") is None
            how = "once it is installed: pip install tensorboard" if missing else "without being asked"
            raise ValueError(f"--trainer.logger {value}: a run logs to {value} {how}. Leave the option out.")
        name = value.rpartition(".")[2].lower().removesuffix("logger")
        if name in OTHERS:
            class_name, package = OTHERS[name]
            if find_spec(package) is None:
                raise ValueError(f"--trainer.logger {value} needs a package that is missing: pip install {package}")
            words[place] = f"{before}lightning.pytorch.loggers.{class_name}"
    return words


def log_results(loggers: Iterable[Logger], folder: Path, step: int) -> None:
    """Show the figures (``.png``) and texts (``.txt``) of a run's folder to each logger that can keep them.

    These are TensorBoard's, MLflow's, and those that have ``log_image`` and ``log_text``, as Weights & Biases' has.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in (".png", ".txt"))
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            _log_to_tensorboard(logger.experiment, files, step)
        elif isinstance(logger, MLFlowLogger):
            for path in files:
                logger.experiment.log_artifact(logger.run_id, str(path))
        elif hasattr(logger, "log_image") and hasattr(logger, "log_text"):
            for path in files:
                if path.suffix == ".png":
                    logger.log_image(path.stem, [str(path)], step=step)
                else:
                    logger.log_text(path.stem, columns=["text"], data=[[path.read_text("utf-8")]], step=step)


def log_texts(loggers: Iterable[Logger], texts: Sequence[str], step: int) -> None:
    """Show samples of a step of training to each logger that keeps texts: TensorBoard's, those with ``log_text``."""
    for logger in loggers if texts else ():
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("samples", "\n\n---\n\n".join(texts), step)
        elif hasattr(logger, "log_text"):
            logger.log_text("samples", columns=["text"], data=[[text] for text in texts], step=step)


def _log_to_tensorboard(writer: Any, files: Iterable[Path], step: int) -> None:
    for path in files:
        if path.suffix == ".png":
            from matplotlib.image import imread  # it is there, since it has drawn the figure

            writer.add_image(path.stem, imread(path)[..., :3], step, dataformats="HWC")
        else:
            writer.add_text(path.stem, path.read_text("utf-8"), step)
    writer.close()
