"""Text files as UTF-8: which encoding a file is in, and a converted copy of one in another encoding or gzipped."""

import codecs
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from wnseq._files import atomic_write
from wnseq.data._files import cache_folder, cached_text, unpacked_blocks
from wnseq.errors import FileFormatError, reading

BLOCK = 1 << 18  # bytes read at once
HEAD = 1 << 16  # bytes by which a file's kind and encoding are recognised
SHOWN = 40  # characters of the decoded text in an error
GZIP = b"\x1f\x8b"
AUTO = "auto"  # instead of an encoding: the one that a file is most likely in
KINDS_OF_FILES = {
    b"PK\x03\x04": "a zip archive or an office document",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet table",
    b"SQLite format 3": "an SQLite database",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x93NUMPY": "a NumPy array",
}


def check_encoding(name: str | None) -> None:
    """Check that Python knows a text encoding.

    Raises:
        ValueError: It does not.
    """
    try:
        if name not in (None, AUTO):
            "a".encode(name)  # codecs.lookup knows rot13 and zip as well
    except (LookupError, UnicodeError, ValueError) as error:
        raise ValueError(
            f"There is no text encoding {name!r}. Known are utf-8, utf-16, cp1252, cp1251, gb18030, shift_jis, big5, "
            "koi8-r and the others of Python's module codecs."
        ) from error


def utf8_file(path: Path, encoding: str | None = None) -> tuple[Path, int]:
    """Return a file with a text in UTF-8, and the byte where the text begins, after a byte order mark.

    Args:
        path: A text file, gzipped or not.
        encoding: Its encoding; None for UTF-8, ``auto`` for the one that :func:`detect_encoding` finds.

    Returns:
        The file itself, or, where it is gzipped or in another encoding, a converted copy in the cache.

    Raises:
        ValueError: The beginning is no text, or one in another encoding, which the error names.
    """
    if encoding == AUTO:
        encoding = detect_encoding(path)
    if encoding is not None and codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        encoding = None
    with path.open("rb") as file:
        gzipped = file.read(2) == GZIP
    source = _converted(path, encoding, gzipped) if gzipped or encoding else path
    with source.open("rb") as file:
        head = file.read(HEAD)
    kind = next((name for magic, name in KINDS_OF_FILES.items() if head.startswith(magic)), None)
    if kind is not None:
        raise FileFormatError(f"{path} is no text but {kind}. Extract its text into a UTF-8 file first.")
    if b"\0" in head or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise not_utf8(str(path), head, "it has bytes that are 0" if b"\0" in head else "it begins with ff fe or fe ff")
    return source, len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def detect_encoding(path: Path) -> str | None:
    """Return the encoding that a text file, gzipped or not, is most likely in; None for UTF-8."""
    with path.open("rb") as file:
        gzipped = file.read(2) == GZIP
    decoder, head = codecs.getincrementaldecoder("utf-8")(), b""
    with reading(path, "a text"):
        try:
            for block in _blocks(path, gzipped):
                decoder.decode(block)
                head = head or block[:HEAD]
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            found = likely_encoding(error.object[max(0, error.start - HEAD // 2) :])
        else:
            if not _has_wide_characters(head):
                return None
            found = likely_encoding(head)
    if found is None:
        raise FileFormatError(
            f"{path}: no encoding was recognised. Name it by --data.encoding, e.g. cp1252 or gb18030."
        )
    return found[0]


def not_utf8(name: str, data: bytes, reason: str) -> FileFormatError:
    """Return the error for a file that is not UTF-8, with the encoding that it is most likely in.

    Args:
        name: The file.
        data: Some of its bytes, the offending ones among them.
        reason: Why it is not UTF-8.
    """
    as_utf8 = data.decode("utf-8", "replace")
    bad = as_utf8.count("\N{REPLACEMENT CHARACTER}")
    whole = len(re.findall(r"[^\x00-\x7f]", as_utf8)) - bad
    message = f"{name} is not UTF-8 text: {reason}."
    if bad and whole > bad and b"\0" not in data:
        return FileFormatError(
            f"{message} The rest is UTF-8: mend or remove what is damaged, e.g. by "
            "`iconv -c -f UTF-8 -t UTF-8 in.txt > out.txt`."
        )
    if b"\0" in data and not bad and not _has_wide_characters(data):
        return FileFormatError(f"{message} The rest is UTF-8: remove them, e.g. by `tr -d '\\000' < in.txt > out.txt`.")
    if (found := likely_encoding(data)) is None:
        return FileFormatError(
            f"{message} No encoding was recognised: it may be no text. If it is, name its encoding by --data.encoding."
        )
    encoding, shown = found
    return FileFormatError(
        f"{message} It is probably {encoding}, and would read {shown!r}: give --data.encoding {encoding}, or "
        f"convert it by `iconv -f {encoding.upper()} -t UTF-8 in.txt > out.txt`."
    )


def likely_encoding(data: bytes) -> tuple[str, str] | None:
    """Return the encoding that bytes are most likely in and the beginning of their text, or None if it can't be told.

    It is cp1252, the most common one, where charset-normalizer finds that possible: in a short text it often prefers a
    rare one. So a text of Central Europe or in Turkish may be taken for it.
    """
    from charset_normalizer import from_bytes

    data = data[:HEAD]
    if b"\0" in data or data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data[: len(data) // 4 * 4]
    elif b"\n" in data:
        lines = data.split(b"\n")[:-1] if len(data) == HEAD else data.split(b"\n")  # the last is cut somewhere
        data = b"\n".join(line for line in lines if not line.isascii()) or data  # ASCII is the same in nearly all
    matches = next(filter(None, (list(from_bytes(data[: len(data) - cut])) for cut in range(4))), [])
    if b"\0" not in data and not re.search(rb"[\x80-\xff]{2}", data):
        # single accents between ASCII letters are not the characters of East Asia, of two bytes each
        matches = [match for match in matches if len(str(match)) == len(match.raw)]
        matches = matches or list(from_bytes(data, cp_isolation=["cp1252"]))
    if not matches:
        return None
    best = next((match for match in matches if "cp1252" in match.could_be_from_charset), None)
    encoding = matches[0].encoding if best is None else "cp1252"
    text = data.decode(encoding, "replace").lstrip("\N{ZERO WIDTH NO-BREAK SPACE}").strip()
    return re.sub(r"^(utf)-?(\d+)-?", r"\1-\2", encoding.replace("_", "-")), text[:SHOWN]


def _has_wide_characters(data: bytes) -> bool:
    """Return True if as many bytes are below 9 as in UTF-16 of an alphabet, which may be UTF-8 by its bytes."""
    return len(data.translate(None, bytes(range(9)))) < len(data) * 3 / 4


def _converted(path: Path, encoding: str | None, gzipped: bool) -> Path:
    """Return a copy of a file in the cache, unpacked and in UTF-8, made now or found."""
    digest = sha256(f"{encoding} ".encode())
    for block in _blocks(path, gzipped=False):
        digest.update(block)
    target = cache_folder() / "texts" / f"{digest.hexdigest()}.txt"
    with reading(path, f"{encoding} text" if encoding else "a gzipped text"):
        return cached_text(target, lambda target: _convert(path, encoding, gzipped, target))


def _convert(path: Path, encoding: str | None, gzipped: bool, target: Path) -> None:
    blocks = _blocks(path, gzipped)
    with atomic_write(target) as out:
        if encoding is None:
            out.writelines(blocks)
            return
        for number, text in enumerate(_decoded(path, blocks, encoding)):
            out.write((text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}") if number == 0 else text).encode())


def _blocks(path: Path, gzipped: bool) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked if it is gzipped."""
    if gzipped:
        yield from unpacked_blocks(path, "a gzipped text")
        return
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _decoded(path: Path, blocks: Iterator[bytes], encoding: str) -> Iterator[str]:
    decoder, position = codecs.getincrementaldecoder(encoding)(), 0
    try:
        for block in blocks:
            if text := decoder.decode(block):
                yield text
            position += len(block)
        yield decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise FileFormatError(
            f"{path} is not {encoding} text: it can't be decoded at or after byte {position:,} ({error}). Name another "
            "encoding by --data.encoding, or none for UTF-8."
        ) from error
