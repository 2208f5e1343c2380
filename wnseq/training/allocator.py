"""What the C library does with memory that is freed."""

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # numbers of mallopt's parameters, from malloc.h
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for this process, unless the user has set its thresholds.

    By default glibc returns each freed block of 32 MB and more to the kernel, which clears the pages of the next one,
    at every step for every temporary as large as a softmax over a vocabulary. The process then holds as much memory as
    it needed at its peak, until it ends: only a program's own entry point should call this. It does nothing outside
    glibc, and if ``MALLOC_MMAP_THRESHOLD_`` or ``MALLOC_TRIM_THRESHOLD_`` is set.

    Source:
        The GNU C Library's manual, section 3.2.3.5, Malloc Tunable Parameters.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in VARIABLES):
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(MMAP_THRESHOLD, 2**30)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
