"""Tables of labelled text: what is read, and what is refused with its place."""

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from wnseq.data.text.tables import clean_label, is_separated, read_table, text_of_table

QUOTED = 'text,label,more\n"He said ""yes"",\non two lines",pos,1\n,neg,2\n"plain, text", neg ,3\n'


@pytest.fixture
def table(tmp_path: Path) -> Any:
    def write(name: str, content: str | bytes, **options: Any) -> list[tuple[str, str | None]]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        rows = read_table(path, **{"text": "text", "label": "label", **options})
        return [(row.text, row.label) for row in rows]

    return write


FOUND = [('He said "yes",\non two lines', "pos"), ("", "neg"), ("plain, text", "neg")]


def test_a_csv_keeps_quotes_line_breaks_and_empty_texts(table: Any, tmp_path: Path) -> None:
    assert table("a.csv", QUOTED) == FOUND
    assert table("a.csv.gz", gzip.compress(QUOTED.encode())) == FOUND
    assert table("bom.csv", "\ufeff" + QUOTED.replace("\n", "\r\n")) == [
        (FOUND[0][0].replace("\n", "\r\n"), "pos"),
        *FOUND[1:],
    ]
    rows = read_table(tmp_path / "a.csv", "text", "label")
    assert [row.origin.rpartition(": ")[2] for row in rows] == ["line 2", "line 4", "line 5"]


@pytest.mark.parametrize(
    ("name", "content", "options", "found"),
    [
        ("semicolons.csv", "text;label\na, b;1\n", {}, [("a, b", "1")]),
        ("inside.csv", '"wow; great; nice",1\n"bad, bad",0\n', {"text": "1", "label": "2"},
         [("wow; great; nice", "1"), ("bad, bad", "0")]),
        ("commas.csv", '"a, b, c";1\n', {"text": "1", "label": "2"}, [("a, b, c", "1")]),
        ("blanks.csv", 'text, label\n"a, b", "1"\nc, 0\n', {}, [("a, b", "1"), ("c", "0")]),
        ("bare.csv", '"1","T, t","d"\n', {"text": "2,3", "label": "1"}, [("T, t d", "1")]),
        ("quotes.tsv", 'label\tcontent\n0\t"odd\n', {"text": "sentence|content"}, [('"odd', "0")]),
        ("a,b.csv", '"a,b",label\nx,y\n', {"text": "a,b"}, [("x", "y")]),
        ("lines.jsonl", '{"text": "a\\nb", "label": 1.0}\n\n{"label": true, "text": "\\ud800"}\n', {},
         [("a\nb", "1"), ("?", "true")]),
        ("none.jsonl", '{"text": "a", "label": null}\n{"text": "b", "label": NaN}\n', {}, [("a", None), ("b", None)]),
        ("latin.csv", "text,label\ncafé,ü\n".encode("cp1252"), {"encoding": "cp1252"}, [("café", "ü")]),
        ("utf16.tsv", "text\tlabel\ncafé\tü\n".encode("utf-16"), {"encoding": "utf-16"}, [("café", "ü")]),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() and "\n" not in value else "",
)  # fmt: skip
def test_what_a_table_may_be(table: Any, name: str, content: Any, options: Any, found: Any) -> None:
    assert table(name, content, **options) == found


@pytest.mark.parametrize(
    ("name", "content", "options", "text"),
    [
        ("a.csv", "text,label\na,b,c\n", {}, r"line 2 has 3 fields, the first line 2\. A field with a line break"),
        ("a.tsv", "text\tlabel\n\"a\nb\"\t1\n", {}, r"line 2 has 1 fields"),
        ("a.csv", 'text,label\na,b\n"open,c\n', {}, r"line 3 is no row of a CSV \(unexpected end of data\)"),
        ("a.csv", "words,stars\na,b\n", {}, r"has no column 'text': it has words, stars\. Name the columns by"),
        ("a.csv", "text,label\n", {}, "has no rows"),
        ("a.csv", "", {}, "has no column 'text': it has none"),
        ("a.csv", "a,1\n", {"text": "1"}, "both must be names in the first line, or both numbers"),
        ("a.csv", "a,1\n", {"text": "1", "label": "3"}, "has no column '3': it has 1, 2"),
        ("a.xlsx", "", {}, r"its name must end in \.csv, \.tsv"),
        ("a.csv", "text,label\ncafé und Brötchen, schön\n".encode("cp1252"), {}, "probably cp1252.*data.encoding"),
        ("a.csv", b"PK\x03\x04", {}, "is no text but a zip archive"),
        ("a.jsonl", "{}", {}, "has no column 'text': it has none"),
        ("a.jsonl", "[1]", {}, "line 1 is a list, expected a JSON object"),
        ("a.jsonl", '{"text": 1, "label": 2}', {}, "line 1 has no text in the field 'text'"),
        ("a.jsonl", '{"text": "a", "label": [2]}', {}, "line 1 has a list in the field 'label'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_table_is_refused(table: Any, name: str, content: Any, options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        table(name, content, **options)


def test_a_long_text_is_read_and_python_s_limit_restored(table: Any) -> None:
    before = csv.field_size_limit()
    assert table("a.csv", f"text,label\n{'x' * (before + 1)},1\n") == [("x" * (before + 1), "1")]
    assert csv.field_size_limit() == before


def test_a_missing_one_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no table at nowhere\.csv"):
        read_table("nowhere.csv", "text", "label")


def test_labels_of_numbers_are_one_however_written() -> None:
    assert {clean_label(label) for label in (1, 1.0, "1", " 1.00 ")} == {"1"}
    assert {clean_label(label) for label in (0, -0.0, "-0", "0.0")} == {"0"}
    assert clean_label("-2.0") == "-2" and clean_label("1.5") == "1.5" and clean_label(" ") is None


def test_the_text_of_a_table_for_a_language_model(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(QUOTED)
    assert text_of_table(tmp_path / "a.csv", "text") == b'He said "yes", on two lines\nplain, text\n'
    (tmp_path / "b.csv").write_text("3,a title,a text\n1,another,and more\n")
    assert text_of_table(tmp_path / "b.csv", "2,3") == b"a title a text\nanother and more\n"
    assert is_separated(Path("A.TSV.gz")) and not is_separated(Path("a.jsonl"))
