"""Progress of a run: epoch, loss, speed, time spent and left; a bar in a terminal, lines in a file."""

import re
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import BarColumn, ProgressColumn, Task
from rich.text import Text

__all__ = ["PlainProgress", "RichProgress", "Timing", "format_epoch", "format_metrics", "format_number", "format_time"]


def format_time(seconds: float) -> str:
    """Format a time as minutes and seconds, with hours if there are any.

    Example:
        >>> format_time(75), format_time(3675)
        ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_number(value: float) -> str:
    """Format a number with four significant digits, thousands with separators.

    Example:
        >>> format_number(21345.67), format_number(1.72345), format_number(3e-05)
        ('21,346', '1.723', '3e-05')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Timing:
    """The seconds a fit has taken, and an estimate of those it still needs."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._started = time.monotonic()
        self._first_step = trainer.global_step  # not 0 in a resumed run
        self._steps = trainer.estimated_stepping_batches

    @property
    def elapsed(self) -> float:
        """Seconds since the fit began."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float | None:
        """Seconds to the end at the pace so far, validation included; None before the first step, or without an end."""
        done = self._trainer.global_step - self._first_step
        if done <= 0 or self._steps == float("inf"):
            return None
        return self.elapsed * max(0.0, self._steps - self._trainer.global_step) / done

    def __str__(self) -> str:
        return format_time(self.elapsed) + (f" · {format_time(self.left)} left" if self.left is not None else "")


def format_epoch(epoch: int, trainer: Trainer) -> str:
    """Format an epoch, counted from 1: ``epoch 3/10``."""
    last = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
    return f"epoch {epoch + 1}{last}"


def format_metrics(metrics: dict[str, Any], trainer: Trainer, monitor: str) -> dict[str, str]:
    """Format the metrics that the model logs to the progress bar, and the monitored one."""
    metrics = {name: value for name, value in metrics.items() if name != "v_num"}  # the logger's version
    if monitor in trainer.callback_metrics:
        metrics[monitor] = trainer.callback_metrics[monitor]
    return {
        re.sub(r"^train/(\w+)_per_s$", r"\1/s", name): format_number(float(value)) for name, value in metrics.items()
    }


class PlainProgress(ProgressBar):
    """Print a plain line after each epoch and each validation inside an epoch, for output that goes to a file.

    Args:
        monitor: The validation metric to show, in addition to those that the model logs with ``prog_bar=True``.
    """

    def __init__(self, monitor: str) -> None:
        super().__init__()
        self._monitor = monitor
        self._timing: Timing | None = None
        self._prints = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._timing = Timing(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._print_line(
                trainer, pl_module, f"{format_epoch(trainer.current_epoch, trainer)} step {trainer.global_step}"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._print_line(trainer, pl_module, format_epoch(trainer.current_epoch, trainer))

    @property
    def is_enabled(self) -> bool:
        """Return True if a bar would be disturbed by lines that the model prints: never."""
        return False

    def disable(self) -> None:
        """Print nothing. Lightning calls this on all ranks but the first, and while it tunes."""
        self._prints = False

    def enable(self) -> None:
        """Print lines again."""
        self._prints = True

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:  # noqa: D102
        return format_metrics(super().get_metrics(trainer, pl_module), trainer, self._monitor)

    def _print_line(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        if not self._prints:
            return
        metrics = self.get_metrics(trainer, pl_module)
        print(" · ".join([name, *(f"{key} {value}" for key, value in metrics.items()), str(self._timing)]), flush=True)


class _EpochColumn(ProgressColumn):
    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer

    def render(self, task: Task) -> Text:
        epoch = re.match(r"Epoch (\d+)", task.description)  # not the trainer's, which is ahead at an epoch's end
        return Text(format_epoch(int(epoch[1]), self._trainer) if epoch else task.description.lower())


class _TimingColumn(ProgressColumn):
    max_refresh = 0.5

    def __init__(self, bar: "RichProgress") -> None:
        super().__init__()
        self._bar = bar

    def render(self, task: Task) -> Text:
        training = task.description.startswith("Epoch") and self._bar.timing is not None
        return Text(str(self._bar.timing) if training else format_time(task.elapsed or 0), style="dim")


class RichProgress(RichProgressBar):
    """Lightning's rich bar with other columns: epoch, bar, time spent and left, metrics.

    Args:
        monitor: As in PlainProgress.
    """

    def __init__(self, monitor: str) -> None:
        super().__init__(leave=True, theme=RichProgressBarTheme(metrics="", metrics_text_delimiter=" · "))
        self._monitor = monitor
        self.timing: Timing | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.timing = Timing(trainer)
        super().on_train_start(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:  # noqa: D102
        metrics = format_metrics(super().get_metrics(trainer, pl_module), trainer, self._monitor)
        monitored = self._monitor.partition("/")[2]
        return {name.removesuffix(f"/{monitored}"): value for name, value in metrics.items()}  # a bar is short

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:  # noqa: D102
        return [_EpochColumn(trainer), BarColumn(bar_width=10), _TimingColumn(self)]
