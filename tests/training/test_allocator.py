"""The C library told to keep what was freed: counted in page faults, in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from wnseq.training.allocator import VARIABLES, keep_freed_memory

FAULTS = """
import resource, sys, torch
from wnseq.training.allocator import keep_freed_memory
told = sys.argv[1] == "keep" and keep_freed_memory()
faults = []
for k in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24 - k * 2**20)  # 64 MB, then less: a small block may take a bite out of the one that was freed
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(told, min(faults))
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults(how: str, **variables: str) -> tuple[bool, int]:
    environment = {**{name: value for name, value in os.environ.items() if name not in VARIABLES}, **variables}
    environment |= {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": ""}
    command = [sys.executable, "-c", FAULTS, how]
    told, count = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    return told == "True", int(count)


def test_freed_memory_is_used_again_without_page_faults() -> None:
    assert faults("leave")[1] > 100  # of 4 KB, or of 64 KB
    told, count = faults("keep")
    assert told and count < 100


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_told_the_library_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "131072")
    assert not keep_freed_memory()
