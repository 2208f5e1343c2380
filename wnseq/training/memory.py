"""Memory that a training step frees, kept for the next step."""

import ctypes
import os
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # numbers of mallopt's parameters, from malloc.h
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for this process, where it is glibc and the user has not told it.

    By default glibc hands each freed block of 32 MB and more back to the kernel, which clears the pages of the next one
    anew, at each step for each temporary as large as a softmax over a vocabulary. The process then holds as much memory
    as it needed at its peak, until it ends.

    Returns:
        Whether it was told: not outside glibc, and not where one of the variables ``MALLOC_MMAP_THRESHOLD_`` and
        ``MALLOC_TRIM_THRESHOLD_`` is set, which is left as it is.

    Source:
        The GNU C Library's manual, section 3.2.3.5, Malloc Tunable Parameters.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, 2**30)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))
