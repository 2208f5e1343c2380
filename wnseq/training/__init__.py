"""What Lightning and matplotlib need from us. Nothing here knows a network.

The callbacks are those of :mod:`wnseq.training.callbacks`, imported when one is first used: ``wnseq`` without arguments
must not wait for Lightning.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wnseq.training.callbacks import (
        Checkpoint,
        DataInit,
        EpochMeans,
        EpochTime,
        GateMonitor,
        PolyakAverage,
        Renormalize,
        ResumeEpoch,
        RngState,
        RowLengths,
        ScheduleChange,
        TerminateOnNaN,
        Throughput,
    )

__all__ = [
    "Checkpoint",
    "DataInit",
    "EpochMeans",
    "EpochTime",
    "GateMonitor",
    "PolyakAverage",
    "Renormalize",
    "ResumeEpoch",
    "RngState",
    "RowLengths",
    "ScheduleChange",
    "TerminateOnNaN",
    "Throughput",
]


def __getattr__(name: str) -> Any:
    """Import a callback when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wnseq.training import callbacks

    return getattr(callbacks, name)
