from pathlib import Path

import pytest

from wnseq.data._files import cache_folder, data_root


def test_the_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("WNSEQ_CACHE")
    assert cache_folder().name == "wnseq"


def test_the_root_is_the_argument_else_the_variable_else_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEQ_DATA", "/somewhere")
    assert data_root("here") == Path("here")
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv("WNSEQ_DATA")
    assert data_root() == Path("data")
