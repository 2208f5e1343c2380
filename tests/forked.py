"""``run`` and ``Popen`` of Python programs, as in subprocess, but in a fork of this process: nothing is imported again.

For what needs a process of its own, such as a rank, or one that is killed; what is printed or loaded as a process
starts needs subprocess. So does a machine with a GPU, whose autograd cannot be forked, and the names are those there.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

Command = Sequence[str | Path]


def _work(
    command: Command, output: int, errors: int, cwd: str | Path | None, environment: Mapping[str, str], leads: bool
) -> None:
    """Run ``[sys.executable, script or "-c", …]`` or ``[script, …]`` in the place of what the parent was doing."""
    words = [str(word) for word in command]
    words = words[words[0] == sys.executable :]
    if leads:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    warnings.resetwarnings()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or ".")
    torch.set_num_threads(1)  # threads do not outlive a fork
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


class _Popen:
    """The part of ``subprocess.Popen`` that is used here."""

    def __init__(
        self,
        command: Command,
        stdout: IO[Any],
        stderr: IO[Any] | int,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        pass_fds: Sequence[int] = (),  # a fork has them all
    ) -> None:
        errors = stdout if isinstance(stderr, int) else stderr
        arguments = (command, stdout.fileno(), errors.fileno(), cwd, {**(env or os.environ)}, start_new_session)
        self._process = multiprocessing.get_context("fork").Process(target=_work, args=arguments)
        sys.stdout.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12, of the threads that stay behind
            self._process.start()
        self.kill = self._process.kill

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"no end after {timeout} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.is_alive() and self._process.pid:
            os.kill(self._process.pid, number)

    def __enter__(self) -> "_Popen":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


def _run(command: Command, capture_output: bool, text: bool, **options: Any) -> subprocess.CompletedProcess[str]:
    assert capture_output and text
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        status = _Popen(command, stdout=output, stderr=errors, **options).wait()
        said = [Path(f"/proc/self/fd/{file.fileno()}").read_text("utf-8") for file in (output, errors)]
    return subprocess.CompletedProcess(command, status, *said)


STDOUT = subprocess.STDOUT
CAN_FORK = sys.platform == "linux" and not torch.cuda.is_available()
Popen: Any = _Popen if CAN_FORK else subprocess.Popen
run: Any = _run if CAN_FORK else subprocess.run
