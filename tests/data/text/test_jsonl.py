import gzip
import json
from pathlib import Path

import pytest

from wnseq.data.text.corpora import open_corpus
from wnseq.data.text.jsonl import is_jsonl
from wnseq.data.text.stream import Text

RECORDS = [{"id": 1, "text": "the first\nof two lines\n"}, {"id": 2, "text": "größer"}, {"id": 3, "text": ""}]
LINES = "\n".join(json.dumps(record) for record in RECORDS) + "\n\n"
JOINED = "the first\nof two lines\n\ngrößer\n\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["a.jsonl", "A.NDJSON", "a.jsonl.gz"])
def test_each_record_is_a_document_that_ends_in_a_blank_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(LINES.encode()) if name.endswith("gz") else b"\xef\xbb\xbf" + LINES.encode())
    assert is_jsonl(path)
    assert [Text.of_file(path, field="text").read().decode() for _ in range(2)] == [JOINED, JOINED]


def test_another_field_is_another_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "one", "b": "two"}\n')
    assert [Text.of_file(tmp_path / "a.jsonl", field=field).read() for field in "ab"] == [b"one\n\n", b"two\n\n"]


@pytest.mark.parametrize(
    ("content", "field", "text"),
    [
        (LINES, None, r"a\.jsonl has JSON lines: name the field .* by --data\.field \(the first record has id, text\)"),
        (LINES, "texts", r"a\.jsonl: line 1 has no text in the field 'texts'; its fields are id, text"),
        (LINES, "id", r"line 1 has no text in the field 'id'"),
        ('{"text": "a"}\n{"text"', "text", r"a\.jsonl: line 2 is not JSON"),
        ("[1]\n", "text", r"line 1 is a list, expected a JSON object"),
        ("[" * 100_000, "text", r"line 1 is not JSON"),
    ],
)
def test_lines_that_have_no_text_are_refused(tmp_path: Path, content: str, field: str | None, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=text):
        Text.of_file(tmp_path / "a.jsonl", field=field)


def test_a_folder_has_json_lines_with_a_field_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a line of text\n" * 99)
    (tmp_path / "in" / "b.jsonl").write_text(LINES)
    without, with_field = (open_corpus(str(tmp_path / "in"), field=field) for field in (None, "text"))
    assert "not read: b.jsonl (JSON lines need --data.field)" in without.files
    assert with_field.parts["test"].read().decode().endswith(JOINED)
    (tmp_path / "in" / "a.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"it has b\.jsonl\. Name the field of the JSON lines by --data\.field"):
        open_corpus(str(tmp_path / "in"))
