"""``python -m wnseq``."""

import subprocess
import sys


def test_it_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "wnseq", "run", "languge_model"], capture_output=True, text=True)
    said = "wnseq: error: there is no recipe 'languge_model'. Did you mean language_model?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
