"""The C library keeps what was freed: counted in page faults, in one process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from wnseq.training import allocator

COUNT = """
import resource, torch
from wnseq.training.allocator import keep_freed_memory

def least_faults():
    faults = []
    for k in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(2**24 - k * 2**20)  # 64 MB, then less: a small block may be cut from the one that was freed
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults)

print(least_faults())
keep_freed_memory()
print(least_faults())
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def test_freed_memory_is_used_again_without_page_faults() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in allocator.VARIABLES}
    environment |= {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": ""}
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    before, after = map(int, done.stdout.split())
    assert before > 100 > after  # pages of 4 KB, or of 64 KB


@pytest.mark.parametrize("name", allocator.VARIABLES)
def test_the_users_thresholds_are_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda *_: pytest.fail("set"))
    monkeypatch.setenv(name, "131072")
    allocator.keep_freed_memory()
