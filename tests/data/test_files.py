import os
import tempfile
from pathlib import Path

import pytest

from wnseq.data import _files
from wnseq.data._files import cache_folder, cached_text, data_root


def test_the_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("WNSEQ_CACHE")
    assert cache_folder().name == "wnseq"


def test_a_user_without_a_home_has_a_cache_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("WNSEQ_CACHE", raising=False)
    monkeypatch.setattr(_files.pooch, "os_cache", fail)
    monkeypatch.setattr(_files, "_said", set())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_folder() == cache_folder() == tmp_path / f"wnseq-{os.getuid()}"
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err.count("there is no home folder, and WNSEQ_CACHE names none") == 1
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(PermissionError, match=r"is another user's; name a folder for caches in WNSEQ_CACHE"):
        cache_folder()


def test_a_cached_text_is_made_again_when_a_byte_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def write(path: Path) -> None:
        made.append(path.write_text("the text"))

    target = tmp_path / "a.txt"
    for _ in range(2):
        assert cached_text(target, write).read_text() == "the text" and len(made) == 1
    target.write_text("the test")
    assert cached_text(target, write).read_text() == "the text" and len(made) == 2
    assert capsys.readouterr().err == f"{target} is damaged, and made again\n"


def test_the_root_is_the_argument_else_the_variable_else_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEQ_DATA", "/somewhere")
    assert data_root("here") == Path("here")
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv("WNSEQ_DATA")
    assert data_root() == Path("data")
