import hashlib
import random
from itertools import pairwise
from pathlib import Path

import pytest

from wnseq.data.text import stream
from wnseq.data.text.stream import Text

PROSE = "Über den Fluß — “Wörter”, 漢字 und 😀.\nZweite   Zeile\r\n\n  eingerückt\n" * 20


@pytest.fixture(params=[1, 2, 3, 7, 64, 1 << 20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(stream, "BLOCK", request.param)
    return int(request.param)


def test_chunks_are_the_text(tmp_path: Path, block: int) -> None:
    (tmp_path / "a.txt").write_bytes(PROSE.encode())
    text = Text.of(tmp_path / "a.txt") + Text.of(PROSE.encode())
    assert text.size == 2 * len(PROSE.encode())
    assert "".join(text.chunks()) == 2 * PROSE
    assert text.read().decode() == 2 * PROSE
    assert text.sha256() == hashlib.sha256(2 * PROSE.encode()).hexdigest()


def test_chunks_end_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK", 40)
    text = Text.of(("a line\nand some  words without an end " + "of line " * 20).encode())
    chunks = list(text.chunks())
    assert len(chunks) > 3
    assert all(chunk.endswith("\n") or following.startswith(" ") for chunk, following in pairwise(chunks))
    assert not any(chunk.endswith(" ") for chunk in chunks[:-1])  # a run of spaces is not torn apart


def test_a_run_without_spaces_is_cut_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK", 10)
    monkeypatch.setattr(stream, "LONGEST", 30)
    chunks = list(Text.of(b"x" * 100).chunks())
    assert [len(chunk) for chunk in chunks] == [30, 30, 30, 10]


def test_slices_of_joined_pieces_are_slices_of_the_bytes() -> None:
    parts = [b"first ", b"second ", b"third"]
    text = Text.of(parts[0]) + Text.of(parts[1]) + Text.of(parts[2])
    whole = b"".join(parts)
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 1):
            assert text.slice(start, stop).read() == whole[start:stop]
    assert text.slice(3, 15).slice(2, 9).read() == whole[3:15][2:9]


def test_boundaries_are_line_starts_else_words_else_characters() -> None:
    assert Text.of(b"one\ntwo\nthree").boundary(1) == 4
    assert Text.of(b"one\ntwo three").boundary(5) == 8
    assert Text.of("xäöü".encode()).boundary(2) == 3
    assert Text.of("xäöü".encode()).character_boundary(4) == 5
    assert Text.of("xäöü".encode()).character_boundary(3) == 3


@pytest.mark.parametrize("broken", [b"\xff", b"\xe4hnlich", b"\xe2\x82"])
def test_other_encodings_are_refused(tmp_path: Path, block: int, broken: bytes) -> None:
    path = tmp_path / "latin.txt"
    ahead = "ordentlich ü\n" * random.Random(0).randrange(50)
    path.write_bytes(ahead.encode() + broken)
    where = f"byte 0x{broken[0]:02x} at position {len(ahead.encode()):,}"
    with pytest.raises(ValueError, match=rf"latin\.txt is not UTF-8 text: {where} can't be decoded.*iconv"):
        list(Text.of(path).chunks())


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"twelve bytes")
    text = Text.of(path)
    path.write_bytes(b"two")
    with pytest.raises(OSError, match="became shorter while it was read: 9 bytes are missing"):
        text.read()
