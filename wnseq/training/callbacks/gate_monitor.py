"""A log of the gates of weight-normalised recurrent modules: their scales, how fast they turn, what their units do."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from wnseq._files import atomic_write
from wnseq._recurrence.steps import GATES
from wnseq.functional import row_norm
from wnseq.nn._module import WNModule
from wnseq.training.gate_statistics import UnitStatistics, equilibrium_turn
from wnseq.training.plots._gates import GATE_COLUMNS, plot_gates
from wnseq.training.plots._saturation import plot_saturation
from wnseq.training.plots._timescales import plot_timescales

__all__ = ["GateMonitor", "gate_weights", "row_angles"]

GATE_WEIGHTS = ("weight_ih", "weight_hh")  # a projection belongs to no gate


class GateMonitor(Callback):
    """Log what gates learn as ``gates.csv`` and ``units.csv``, and draw ``gates.png``, ``timescales.png`` and
    ``saturation.png`` at the end.

    angle = ∠(v before the step, v after it), in radians, the mean over the rows of the gate

    It measures each gate of each input and recurrent weight of every weight-normalised recurrent module and cell. The
    files are in ``trainer.log_dir``, the folder of the Trainer's first logger; without a logger it is
    ``default_root_dir``. ``gates.csv`` has a row for each gate and measurement: ``step``, ``weight`` (as in the state
    dict, without ``_v`` and ``_g``), ``gate``, the means ``g``, ``v_norm`` and ``radians_per_step``, and
    ``equilibrium_radians``, where v decays: :func:`wnseq.training.gate_statistics.equilibrium_turn`. Every other logger
    than a CSVLogger has the same under ``gates/<weight>/<gate>/<column>``. ``units.csv`` has a row for each gate of
    each unit of the modules, not of cells, as they read the beginning of the last validation: ``layer``, ``gate``,
    ``unit``, ``mean``, and the shares of positions where it is ``shut``, below 0.1, and ``open``, above 0.9. A model
    without such modules has no files.

    Args:
        every_n_steps: Steps between two measurements of v and g. One costs about as much as composing the weights;
            that of the units, once in each validation, reads 2048 positions step by step.

    Raises:
        ValueError: ``every_n_steps`` is less than 1.

    Note:
        The angle is that of one step, the last before the measurement. So nothing is kept between measurements, and a
        resumed run measures the same as an uninterrupted one. At step 0 there is no angle. Sharded parameters are not
        measured, and a line says so.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GateMonitor()], logger=False, accelerator="cpu")
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ValueError(f"GateMonitor: every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._log: Path | None = None  # None if there is nothing to measure
        self._units: UnitStatistics | None = None
        self._before: dict[str, Tensor] = {}  # copies of v, during a step that will be measured
        self._equilibrium: dict[str, float | None] = {}  # the turn of each v that the optimiser leads to in that step
        self._copied_at = 0  # the step of those copies
        self._began, self._stride = 0, 1  # the step at the begin of a batch, and how many the last one took

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._log, self._units, self._before = None, None, {}
        self._stride = max(1, len(trainer.optimizers))
        folder = trainer.log_dir or trainer.default_root_dir  # on every rank, since Lightning broadcasts it
        found = list(gate_weights(pl_module))
        if not found or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if any(v.ndim != 2 or hasattr(v, "full_tensor") for _, _, v, _ in found):
            print("no gates.csv: the parameters are sharded, and one process sees a part of each gate")
            return
        self._log, self._units = Path(folder) / "gates.csv", UnitStatistics(pl_module)
        _start_log(self._log, trainer.global_step)
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: D102
        now = self._began = trainer.global_step
        if self._log is None or self._before:  # a copy outlives a batch whose gradient is only accumulated
            return
        if (now + self._stride) // self.every_n_steps > now // self.every_n_steps:
            self._before = {name: v.detach().clone() for name, _, v, _ in gate_weights(pl_module)}
            self._equilibrium = equilibrium_turns(trainer, pl_module)
            self._copied_at = now

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stride = trainer.global_step - self._began or self._stride
        if self._before and trainer.global_step > self._copied_at:
            self._measure(trainer, pl_module)
            self._before = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._units is not None and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._units.watch()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._units is not None and self._log is not None:
            missed = self._units.missed_compiled(pl_module)
            self._units.stop()
            self._units.write(self._log.with_name("units.csv"))
            if missed:
                print(
                    "units.csv is not of this validation: the model was compiled as a whole, and calls no hooks of its "
                    "recurrent layers; compile those alone, as in model.rnn.compile()"
                )
                self._units = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: D102
        if self._units is not None:
            self._units.stop()
            self._units = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._log is not None:
            plot_gates(self._log.parent)
            is_text = getattr(getattr(trainer, "datamodule", None), "tokenizer", None) is not None
            plot_timescales(self._log.parent, is_text=is_text)
            plot_saturation(self._log.parent)
        self._log = self._units = None

    @torch.no_grad()
    def _measure(self, trainer: Trainer, model: nn.Module) -> None:
        if self._log is None:
            return
        step = trainer.global_step
        figures: dict[str, float] = {}
        labels, means = [], []
        for name, gates, v, g in gate_weights(model):
            length = row_norm(v)
            angle = row_angles(self._before[name], v) if self._before else torch.zeros_like(length)
            rows = torch.stack([g.to(length.dtype), length, angle])  # (3, G·H)
            means.append(rows.view(3, len(gates), -1).mean(2).cpu())  # (3, G)
            labels += [(name, gate) for gate in gates]
        values = torch.cat(means, 1).t().tolist()
        with self._log.open("a", newline="", encoding="utf-8") as file:
            for (name, gate), (g_mean, v_norm, angle_mean) in zip(labels, values, strict=True):
                turn = self._equilibrium.get(name) if self._before else None
                found = dict(
                    zip(GATE_COLUMNS[3:], (g_mean, v_norm, angle_mean if self._before else None, turn), strict=True)
                )
                cells = ("" if value is None else f"{value:.7g}" for value in found.values())
                csv.writer(file).writerow([step, name, gate, *cells])
                figures |= {f"gates/{name}/{gate}/{column}": v for column, v in found.items() if v is not None}
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # gates.csv lies beside its file
                logger.log_metrics(figures, step)


def gate_weights(model: nn.Module) -> Iterator[tuple[str, tuple[str, ...], Tensor, Tensor]]:
    """Yield ``(name, gates, v, g)`` of each input and recurrent weight of a model's weight-normalised recurrences."""
    for path, module in model.named_modules():
        if isinstance(module, WNModule) and hasattr(module, "gate_g"):
            for weight in module.weight_names:
                if weight.startswith(GATE_WEIGHTS):
                    yield f"{path}.{weight}".lstrip("."), GATES[module.kind], *module.v_and_g(weight)


def equilibrium_turns(trainer: Trainer, model: nn.Module) -> dict[str, float | None]:
    """Return the turn in equilibrium of each weight of :func:`gate_weights`, by name, at the rate of the next step."""
    groups = {
        id(parameter): equilibrium_turn(optimizer, group)
        for optimizer in trainer.optimizers
        for group in getattr(optimizer, "param_groups", ())
        for parameter in group["params"]
    }
    return {name: groups.get(id(v)) for name, _, v, _ in gate_weights(model)}


def row_angles(before: Tensor, after: Tensor) -> Tensor:
    """Return the angles in radians between the rows of two matrices; 0 where a row is zero.

    ∠(a, b) = 2·atan2(‖ ‖b‖a − ‖a‖b ‖, ‖ ‖b‖a + ‖a‖b ‖)

    Shape:
        - before, after: ``(R, C)``
        - output: ``(R,)``, at least in float32

    Note:
        arccos of the cosine cannot resolve angles below 3e-4 in float32. This form resolves 1e-7; equal rows give 0.

    Source:
        Kahan 2006, How futile are mindless assessments of roundoff in floating-point computation?, section 12.
    """
    a, b = row_norm(after).unsqueeze(1) * before, row_norm(before).unsqueeze(1) * after
    return 2 * torch.atan2(row_norm(a - b), row_norm(a + b))


def _start_log(log: Path, step: int) -> None:
    """Start a log. In the folder of a run that is resumed at ``step``, keep its rows until then that are whole."""
    kept: list[list[str]] = []
    if step > 0 and log.is_file():
        with log.open(newline="", encoding="utf-8") as file:
            whole = (row for row in csv.reader(file) if len(row) == len(GATE_COLUMNS) and row[0].isdecimal())
            kept = [row for row in whole if int(row[0]) <= step]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([GATE_COLUMNS, *kept])
    with atomic_write(log) as binary:
        binary.write(text.getvalue().encode())
