"""One process works in a folder at a time."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wnseq.training.child_process import alone_in


@pytest.mark.skipif(os.name != "posix", reason="needs locks of folders")
def test_a_folder_is_held_by_the_process_whose_parent_has_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone_in(tmp_path) as held:
        command = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=held)
    assert capsys.readouterr().out == "" and child.stdin is not None  # here the parent has let go, as a kill would
    threading.Timer(0.2, child.stdin.close).start()
    with alone_in(tmp_path):
        assert child.wait(timeout=5) == 0
    assert f"waiting for another process that works in {tmp_path}" in capsys.readouterr().out
