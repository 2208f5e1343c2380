"""Benchmarks of variants that compute the same: paired rounds, processes that take turns, tables and a figure."""

from wnseq.training.benchmark._command import Benchmark, run
from wnseq.training.benchmark._memory import MEGABYTE, peak_memory
from wnseq.training.benchmark._processes import TrainingProcess, TurnTaker
from wnseq.training.benchmark._recurrence import RecurrentTask, State
from wnseq.training.benchmark._results import doubts, groups, phase_columns, plot_ratios, quartiles, table, write_csv
from wnseq.training.benchmark._rounds import (
    Row,
    TimedCall,
    Times,
    check_same,
    summarise,
    take_turns,
    time_rounds,
    timed,
    torch_threads,
)

__all__ = [
    "MEGABYTE",
    "Benchmark",
    "RecurrentTask",
    "Row",
    "State",
    "TimedCall",
    "Times",
    "TrainingProcess",
    "TurnTaker",
    "check_same",
    "doubts",
    "groups",
    "peak_memory",
    "phase_columns",
    "plot_ratios",
    "quartiles",
    "run",
    "summarise",
    "table",
    "take_turns",
    "time_rounds",
    "timed",
    "torch_threads",
    "write_csv",
]
