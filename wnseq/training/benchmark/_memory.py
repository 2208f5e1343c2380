"""The memory that a call needs at its peak."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MEGABYTE = 1e6


def peak_memory(call: Callable[[], Any], device: torch.device) -> float | None:
    """Return by how many MB a call's peak exceeds the memory in use before, or None where it can't be measured.

    Args:
        call: Called twice: memory that it keeps for the next call does not count.
        device: Where it runs. On a CPU the figure is the process's, as Linux counts it.
    """
    call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = process_memory("VmRSS")
        call()
        return (process_memory("VmHWM") - before) / MEGABYTE
    except (OSError, AttributeError, TypeError):  # neither Linux nor glibc
        return None


def process_peak() -> float:
    """Return the most MB that the process has had in memory, or NaN where it can't be measured."""
    try:
        return process_memory("VmHWM") / MEGABYTE
    except OSError:  # not Linux
        return float("nan")


def process_memory(name: str) -> int:
    """Return the process's memory on Linux in bytes: resident now (``VmRSS``) or at its peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
