"""Lightning callbacks that the recipes share."""

from wnseq.training.callbacks.basic import (
    Checkpoint,
    EpochTime,
    RngState,
    TerminateOnNaN,
    Throughput,
)
from wnseq.training.callbacks.build_network import BuildNetwork, build_network_first
from wnseq.training.callbacks.ema import PolyakAverage
from wnseq.training.callbacks.epoch_means import EpochMeans
from wnseq.training.callbacks.gate_monitor import GateMonitor
from wnseq.training.callbacks.graceful_stop import GracefulShutdown
from wnseq.training.callbacks.progress import PlainProgress, RichProgress
from wnseq.training.callbacks.resume_epoch import ResumeEpoch
from wnseq.training.callbacks.row_lengths import RowLengths
from wnseq.training.callbacks.schedule_change import ScheduleChange
from wnseq.training.callbacks.unused_parameters import UnusedParameters
from wnseq.training.callbacks.weight_norm import DataInit, Renormalize
from wnseq.training.ranks import all_gather_object

__all__ = [
    "BuildNetwork",
    "Checkpoint",
    "DataInit",
    "EpochMeans",
    "EpochTime",
    "GateMonitor",
    "GracefulShutdown",
    "PlainProgress",
    "PolyakAverage",
    "Renormalize",
    "ResumeEpoch",
    "RichProgress",
    "RngState",
    "RowLengths",
    "ScheduleChange",
    "TerminateOnNaN",
    "Throughput",
    "UnusedParameters",
    "all_gather_object",
    "build_network_first",
]
