from pathlib import Path

import pytest

from wnseq.training.json_files import read_json, write_json


def test_a_value_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new/command.json"
    assert read_json(path) is None
    write_json(path, ["--rate", "0.5", {"ü": 1}])
    assert read_json(path) == ["--rate", "0.5", {"ü": 1}] and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", [b"", b'{"a": ', b"\xff\xfe"])
def test_a_damaged_file_is_named_and_removed(tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "finished.json"
    path.write_bytes(text)
    assert read_json(path) is None
    assert capsys.readouterr().out == f"{path} is damaged, and made again\n" and not path.exists()
