"""Ctrl-C while the command imports what it needs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("failure", "shown"), [("KeyboardInterrupt", False), ("ZeroDivisionError", True)])
def test_ctrl_c_in_the_imports_leaves_no_traceback(tmp_path: Path, failure: str, shown: bool) -> None:
    (tmp_path / "torch.py").write_text(f"raise {failure}")
    done = subprocess.run(
        [sys.executable, "-m", "wnseq"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert ("Traceback" in done.stderr) == shown
    assert done.returncode == (1 if shown or os.name != "posix" else -signal.SIGINT)
