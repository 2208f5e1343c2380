"""What the command does before it imports torch."""

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


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages")
@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        (["-m", "wnseq"], None, "1"),
        (["-m", "wnseq"], "0", "0"),
        (["recipes/own.py"], None, "1"),
        (["own.py"], None, "None"),
    ],
    ids=["command", "given", "recipe", "program"],
)
def test_the_command_asks_for_huge_pages(tmp_path: Path, command: list[str], given: str | None, expected: str) -> None:
    name = "THP_MEM_ALLOC_ENABLE"
    (tmp_path / "torch.py").write_text(f"import os\nraise SystemExit(str(os.environ.get({name!r})))")
    (tmp_path / "recipes").mkdir()
    for script in ("own.py", "recipes/own.py"):
        (tmp_path / script).write_text("import wnseq")
    environment = {key: value for key, value in os.environ.items() if key != name} | ({name: given} if given else {})
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    command = [sys.executable, *command]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.strip() == expected
