"""What a command line measured on what, and a check of the processes that it would start."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator

__all__ = ["check_processes", "describe_measured"]


def describe_measured(path: str | None, info: Mapping[str, Any], data: Any, part: str) -> Iterator[str]:
    """Yield lines about which checkpoint an evaluation measured on what, for the screen.

    Args:
        path: The checkpoint; None without one.
        info: What it holds under ``wnseq``.
        data: The data module that was measured.
        part: Its part: ``val`` or ``test``.
    """
    if path is not None:
        yield f"{'checkpoint':<11}  {os.path.relpath(path)}"
    if hasattr(data, "describe_part"):
        yield f"{'measured on':<11}  {data.describe_part(part)}"
    for name, now in data.provenance().items() if hasattr(data, "provenance") else ():
        before = info.get(name, now)
        if name.endswith("_sha256") and before != now:
            kind = name.removesuffix("_sha256")
            yield f"{'trained on':<11}  {kind} {info.get(kind)} (sha256 {before[:12]}), which is another one"


def check_processes(trainer: Trainer) -> Trainer:
    """Return a Trainer, unless it would start more processes on a CPU than it has cores, which may wait for ever.

    Raises:
        ValueError: It would.
    """
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > (os.cpu_count() or 1):
        raise ValueError(
            f"--trainer.devices {trainer.num_devices} on a CPU are as many processes, and there are {os.cpu_count()} "
            "cores: give at most that many, or leave it out"
        )
    return trainer
