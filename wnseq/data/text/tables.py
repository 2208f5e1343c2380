"""Tables of labelled text: CSV, TSV and JSON lines, with the columns of the text and of its label."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wnseq.data.text.decoding import not_utf8, utf8_file
from wnseq.data.text.jsonl import ENDINGS as JSONL
from wnseq.data.text.jsonl import parse_record
from wnseq.errors import FileFormatError

ENDINGS = (".csv", ".tsv", *JSONL)
LONGEST = 1 << 30  # characters of a field; Python's own limit is 131,072


class Row(NamedTuple):
    """A text, its label if it has one, and where it is from, for the errors."""

    text: str
    label: str | None
    origin: str


def read_table(path: str | Path, text: str, label: str, encoding: str | None = None) -> list[Row]:
    """Return the rows of a table.

    The ending of its name, before a ``.gz``, says what it is. In a CSV, fields may be quoted and then hold line breaks;
    it is separated by semicolons if its first line has more of them than commas outside of quotes. In a TSV a quote is
    a sign like any other. JSON lines have an object each.

    Args:
        path: The file.
        text: Column of the text: its name in the first line, or its number, from 1, if the first line is no header.
            Several, separated by commas, are joined by spaces; of several separated by ``|`` the first that is there
            counts.
        label: Column of the label, as ``text``.
        encoding: Encoding of the file; None for UTF-8, ``auto`` for the one that it is most likely in.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table, lacks a column, or a row has another number of fields, or no text.
    """
    path = Path(path).expanduser()
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(ENDINGS):
        raise ValueError(f"{path} is no table of labelled text: its name must end in {', '.join(ENDINGS)} (or .gz).")
    if not path.is_file():
        raise FileNotFoundError(f"There is no table at {path} (looked in {Path.cwd()}).")
    if text.replace(",", "").isdecimal() != label.isdecimal():
        raise ValueError(
            f"The columns are {text!r} and {label!r}: both must be names in the first line, or both numbers."
        )
    source, start = utf8_file(path, encoding)
    with source.open("rb") as file:
        file.seek(start)
        lines = io.TextIOWrapper(file, "utf-8", newline="")
        rows = _records(path, lines, text, label) if name.endswith(JSONL) else _fields(path, lines, name, text, label)
        try:
            found = list(rows)
        except UnicodeDecodeError as error:
            raise not_utf8(
                str(path), error.object, f"byte 0x{error.object[error.start]:02x} can't be decoded"
            ) from None
    if not found:
        raise ValueError(f"{path} has no rows; a classifier needs labelled texts.")
    return found


def is_separated(path: Path) -> bool:
    """Return True if a file's name says CSV or TSV, gzipped or not."""
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))


def clean_label(value: Any) -> str | None:
    """Return a label as text, the same for 1, 1.0 and "1"; None where there is none.

    Example:
        >>> clean_label(1.0), clean_label(" good "), clean_label(True), clean_label("")
        ('1', 'good', 'true', None)
    """
    if value is None or value != value:  # NaN, as which Python's json writes what is missing
        return None
    words = str(value).lower() if isinstance(value, bool) else str(value)
    whole = re.sub(r"^(-?\d+)\.0+$", r"\1", _clean(words.strip()))
    return whole.removeprefix("-") if whole == "-0" else whole or None


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # JSON can escape half of a surrogate pair


def _fields(path: Path, lines: io.TextIOWrapper, name: str, text: str, label: str) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV."""
    first = lines.readline()
    options: dict[str, Any] = {"strict": True, "skipinitialspace": True}
    bare = re.sub(r'"(?:[^"]|"")*("|$)', "", first)  # without what is quoted
    if name.endswith(".tsv"):
        options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    elif bare.count(";") > bare.count(","):
        options["delimiter"] = ";"
    reader = csv.reader(_after(first, lines), **options)
    limit, number = csv.field_size_limit(LONGEST), 1
    try:
        header = next(reader, [])
        numbered = label.isdecimal()
        names = [str(place) for place in range(1, len(header) + 1)] if numbered else [each.strip() for each in header]
        texts, labels = _find(path, names, text), _find(path, names, label)
        rows = iter([header]) if numbered else iter(())
        number = 1 if numbered else reader.line_num + 1
        while True:
            row = next(rows, None) or next(reader, None)
            if row is None:
                return
            if row:
                if len(row) != len(header):
                    raise FileFormatError(
                        f"{path}: line {number:,} has {len(row)} fields, the first line {len(header)}. A field with a "
                        f"line break, or with the separator, must be quoted, which a .csv can be and a .tsv cannot."
                    )
                joined = " ".join(row[place] for place in texts)
                yield Row(joined, clean_label(row[labels[0]]), f"{path}: line {number:,}")
            number = reader.line_num + 1
    except csv.Error as error:
        raise FileFormatError(
            f"{path}: line {number:,} is no row of a CSV ({error}). A quote inside a quoted field is written twice."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _after(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _find(path: Path, names: Sequence[str], wanted: str) -> list[int]:
    """Return the places of the columns."""
    for choice in wanted.split("|"):
        each = [choice] if choice in names else choice.split(",")
        if all(name in names for name in each):
            return [names.index(name) for name in each]
    raise ValueError(
        f"{path} has no column {wanted!r}: it has {', '.join(names) or 'none'}. Name the columns by --data.text and "
        "--data.label; of a file without a header by their numbers, from 1."
    )


def _records(path: Path, lines: Iterator[str], text: str, label: str) -> Iterator[Row]:
    """Yield the rows of JSON lines."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = parse_record(path, number, line.encode())
        names = list(record)
        values = [record[names[place]] for place in _find(path, names, text)]
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) < len(values):
            raise FileFormatError(f"{path}: line {number:,} has no text in the field {text!r}.")
        if isinstance(value := record.get(label), list | dict):
            raise FileFormatError(f"{path}: line {number:,} has a {type(value).__name__} in the field {label!r}.")
        yield Row(_clean(" ".join(texts)), clean_label(value), f"{path}: line {number:,}")


def text_of_table(path: Path, text: str, encoding: str | None = None) -> bytes:
    """Return the text of a table without its labels, a row a line, in UTF-8."""
    label = text.split(",")[0] if text.replace(",", "").isdecimal() else text  # which every table has
    rows = read_table(path, text, label, encoding)
    return "".join(f"{' '.join(row.text.split())}\n" for row in rows if row.text.strip()).encode()
