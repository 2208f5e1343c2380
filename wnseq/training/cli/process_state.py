"""What a run takes from the whole process, what it changes, and how that is restored."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["process_command_line", "restored_process_state"]

# With --trainer.strategy ddp Lightning starts one process for each further device. They go on with the script as this
# process does, and by these variables the next Trainer finds that they exist.
LAUNCHED = {"LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "WORLD_SIZE"}


@contextmanager
def restored_process_state() -> Iterator[None]:
    """Restore the environment, ``sys.argv`` and torch's settings when the block ends.

    Torch's settings are the precision of float32 matrix products, deterministic algorithms and cuDNN's benchmark mode.
    """
    environment, arguments = dict(os.environ), sys.argv
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys() - LAUNCHED:
            del os.environ[name]
        os.environ.update(environment)
        sys.argv = arguments
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(is_deterministic, warn_only=warn_only)


def process_command_line(recipe: str) -> tuple[list[str], str]:
    """Return the arguments of the process, and the words that precede them."""
    program, *args = sys.argv
    typed = sys.orig_argv[-len(args) - 3 :]
    if typed[1:] == ["run", recipe, *args]:
        sys.argv = typed  # the wnseq command has shortened it, and Lightning starts other processes by it
    return args, f"python {program}" if program.endswith(".py") else Path(program).name
