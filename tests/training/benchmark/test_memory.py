"""The peak of a call's memory."""

import math
import sys
from pathlib import Path

import pytest
import torch

from wnseq.training import benchmark
from wnseq.training.benchmark import _memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_the_peak_is_what_a_call_needs_for_a_moment() -> None:
    peak = benchmark.peak_memory(lambda: torch.ones(16, 2**20).add_(1).sum().item(), torch.device("cpu"))
    assert peak == pytest.approx(67, abs=4)  # 64 MiB


def test_there_is_no_peak_where_it_can_not_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory.ctypes, "CDLL", lambda name: None)
    assert benchmark.peak_memory(lambda: None, torch.device("cpu")) is None
    monkeypatch.setattr(_memory, "Path", lambda name: Path("nowhere"))
    assert math.isnan(_memory.process_peak())
