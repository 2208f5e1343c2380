import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wnseq._files import atomic_write, remove_abandoned


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"text")
        assert not path.exists()
    assert path.read_bytes() == b"text"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, r"file\.bin could not be written: the disk is full.*WNSEQ_CACHE"),
        (errno.EROFS, r"file\.bin could not be written: the folder can't be written to.*WNSEQ_CACHE"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=text) as caught, atomic_write(tmp_path / "file.bin") as file:
        file.write(b"text")
    assert caught.value.errno == number
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from wnseq._files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WRITER, str(tmp_path / "file.bin")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"writing\n"
        assert remove_abandoned(tmp_path) == []
        (left,) = tmp_path.iterdir()
        process.kill()
        process.wait()
    assert remove_abandoned(tmp_path) == [left]
    assert list(tmp_path.iterdir()) == []
