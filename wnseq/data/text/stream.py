"""A text as byte ranges of files, read in bounded memory."""

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wnseq.data.text.decoding import HEAD, not_utf8, utf8_file
from wnseq.data.text.jsonl import is_jsonl, text_of_records
from wnseq.data.text.tables import is_separated, text_of_table

BLOCK = 1 << 18  # bytes read at once; encoding takes about twenty times as much memory
LONGEST = 1 << 24  # characters; a longer run without white space is cut anywhere


@dataclass(frozen=True)
class Piece:
    """One run of bytes: of a file, or held in memory.

    Args:
        source: A file, or the bytes themselves.
        start: First byte.
        stop: One past the last byte.
        name: Name for error messages.
    """

    source: Path | bytes
    start: int
    stop: int
    name: str

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes, at most ``BLOCK`` at a time."""
        if isinstance(self.source, bytes):
            for start in range(self.start, self.stop, BLOCK):
                yield self.source[start : min(start + BLOCK, self.stop)]
            return
        with self.source.open("rb") as file:
            file.seek(self.start)
            left = self.stop - self.start
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise OSError(f"{self.source} became shorter while it was read: {left:,} bytes are missing.")
                left -= len(block)
                yield block


@dataclass(frozen=True)
class Text:
    """Pieces read one after the other as one UTF-8 text.

    Args:
        pieces: The byte ranges, in order; each begins and ends between two characters.
    """

    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, source: Path | bytes) -> "Text":
        """Return a whole file, or the given bytes, as a text."""
        if isinstance(source, bytes):
            return cls((Piece(source, 0, len(source), "the embedded text"),))
        return cls((Piece(source, 0, source.stat().st_size, str(source)),))

    @classmethod
    def of_file(cls, path: Path, encoding: str | None = None, field: str | None = None) -> "Text":
        """Return a file as a text, without a byte order mark, unpacked if it is gzipped.

        Args:
            path: The file.
            encoding: Its encoding; None for UTF-8, ``auto`` for the one it is most likely in.
            field: Of a file of JSON lines, the key of the text in each record; of a CSV or TSV, the column of the text,
                of which each row then is a line.

        Raises:
            ValueError: The file is no text in that encoding, or JSON lines without that field.
        """
        if field is not None and is_separated(path):
            rows = text_of_table(path, field, encoding)
            return cls((Piece(rows, 0, len(rows), str(path)),))
        source, start = utf8_file(path, encoding)
        if is_jsonl(path):
            source, start = text_of_records(source, start, field, path), 0
        return cls((Piece(source, start, source.stat().st_size, str(path)),))

    @property
    def size(self) -> int:
        """Length in bytes."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def __add__(self, other: "Text") -> "Text":
        return Text(self.pieces + other.pieces)

    def slice(self, start: int, stop: int) -> "Text":
        """Return the bytes from ``start`` to ``stop`` as a text of their own."""
        pieces, offset = [], 0
        for piece in self.pieces:
            length = piece.stop - piece.start
            low, high = max(start - offset, 0), min(stop - offset, length)
            if low < high:
                pieces.append(replace(piece, start=piece.start + low, stop=piece.start + high))
            offset += length
        return Text(tuple(pieces))

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes, at most ``BLOCK`` at a time."""
        for piece in self.pieces:
            yield from piece.blocks()

    def read(self) -> bytes:
        """Return all bytes at once, of a text that fits into memory."""
        return b"".join(self.blocks())

    def sha256(self) -> str:
        """Return the hash of the bytes: that of the file, if the text is one file."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def chunks(self) -> Iterator[str]:
        """Yield the characters in chunks, cut after a line where there is one, else before a space.

        Raises:
            ValueError: The bytes are not UTF-8.

        Note:
            No tokenizer has a token across such a cut, so encoding chunk by chunk is encoding the text.
        """
        rest = ""
        for decoded in self._decoded():
            rest += decoded
            cut = _cut(rest)
            if cut:
                yield rest[:cut]
                rest = rest[cut:]
        if rest:
            yield rest

    def check(self) -> None:
        """Read the text once, to find what is not UTF-8 before anything is done with it.

        Raises:
            ValueError: The bytes are not UTF-8.
        """
        for _ in self._decoded():
            pass

    def boundary(self, position: int) -> int:
        """Return the first line start after a byte position; if there is none, the next word's or character's."""
        ahead = self.slice(position, min(position + BLOCK, self.size)).read()
        for end in (b"\n", b" "):
            if 0 < (start := ahead.find(end) + 1) < len(ahead):
                return position + start
        return position + _continuation_bytes(ahead)

    def character_boundary(self, position: int) -> int:
        """Return the first character start at or after a byte position."""
        return position + _continuation_bytes(self.slice(position, position + 4).read())

    def _decoded(self) -> Iterator[str]:
        for piece in self.pieces:
            decoder = codecs.getincrementaldecoder("utf-8")()
            position = piece.start
            for block in piece.blocks():
                pending = len(decoder.getstate()[0])
                try:
                    yield decoder.decode(block, final=position + len(block) == piece.stop)
                except UnicodeDecodeError as error:
                    where = position - pending + error.start
                    reason = f"byte 0x{error.object[error.start]:02x} at position {where:,} can't be decoded"
                    line = error.object.rfind(b"\n", 0, max(0, error.start - HEAD // 2)) + 1
                    raise not_utf8(piece.name, error.object[line:], reason) from None
                position += len(block)


def _cut(text: str) -> int:
    """Return where a chunk may end: after the last line, else before the last run of spaces; 0 if nowhere yet."""
    if newline := text.rfind("\n") + 1:
        return newline
    space = text.rfind(" ")
    while space > 0 and text[space - 1] == " ":
        space -= 1
    if space > 0:
        return space
    return len(text) if len(text) >= LONGEST else 0


def _continuation_bytes(data: bytes) -> int:
    """Count the leading bytes that continue a character of the bytes before."""
    return next((index for index, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
