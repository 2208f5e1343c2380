"""JSON lines as text: the field of every record, each a document that ends in a blank line."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from wnseq._files import atomic_write
from wnseq.data._files import cache_folder, cached_text
from wnseq.errors import FileFormatError

ENDINGS = (".jsonl", ".ndjson")
FORMAT = 1  # of the cached text; changes with everything that changes its content


def is_jsonl(path: Path) -> bool:
    """Return True if a file's name says JSON lines, gzipped or not."""
    return path.name.lower().removesuffix(".gz").endswith(ENDINGS)


def text_of_records(source: Path, start: int, field: str | None, name: Path) -> Path:
    """Return a file in the cache with the text of a field, made now or found.

    Args:
        source: UTF-8 file of JSON lines.
        start: Byte where its first line begins.
        field: Key of the text in each record.
        name: File that the user gave, for the errors.

    Raises:
        ValueError: There is no field given, a line is no JSON object, or its field is no text.
    """
    with source.open("rb") as file:
        file.seek(start)
        if field is None:
            fields = ", ".join(parse_record(name, 1, file.readline()))
            raise ValueError(
                f"{name} has JSON lines: name the field that holds the text by --data.field (the first record has "
                f"{fields or 'none'}). To read it as it is, give it a name that ends in .txt."
            )
        digest = sha256(f"{FORMAT} {field} ".encode())
        while block := file.read(1 << 18):
            digest.update(block)

        def write(target: Path) -> None:
            file.seek(start)
            with atomic_write(target) as out:
                out.writelines(_documents(name, file, field))

        return cached_text(cache_folder() / "texts" / f"{digest.hexdigest()}.txt", write)


def _documents(name: Path, lines: Iterator[bytes], field: str) -> Iterator[bytes]:
    """Yield the text of each record that has any."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = parse_record(name, number, line)
        if not isinstance(text := record.get(field), str):
            known = ", ".join(record)
            raise FileFormatError(
                f"{name}: line {number:,} has no text in the field {field!r}; its fields are {known}."
            )
        if text := text.strip("\n"):
            yield f"{text}\n\n".encode("utf-8", "replace")  # JSON can escape half of a surrogate pair


def parse_record(name: Path, number: int, line: bytes) -> dict[str, object]:
    """Return the JSON object of a line; the errors call the file by its name."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{name}: line {number:,} is not JSON ({error}).") from error
    if not isinstance(record, dict):
        raise FileFormatError(f"{name}: line {number:,} is a {type(record).__name__}, expected a JSON object.")
    return record
