# ruff: noqa: RUF001 (letters of other alphabets are meant)
import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wnseq.data import _files
from wnseq.data.text import decoding
from wnseq.data.text.decoding import check_encoding, likely_encoding
from wnseq.data.text.stream import Text

FRENCH = "Le garçon a mangé des crêpes à l’école, où il n’était jamais allé : « Noël » coûte 5 €.\n"
CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰馀成岁律吕调阳。今天天气很好。\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n"
ENGLISH = "All happy families are alike.\n"
# encoding of the file -> text, the encoding that is named
FILES = {
    "cp1252": (FRENCH, "cp1252"),
    "gbk": (CHINESE, "gb18030"),
    "shift_jis": (JAPANESE, "cp932"),
    "cp1251": (RUSSIAN, "cp1251"),
    "utf-16": (ENGLISH, "utf-16"),
    "utf-16-le": (ENGLISH, "utf-16le"),
    "utf-16-be": (RUSSIAN, "utf-16be"),
    "utf-32": (CHINESE, "utf-32"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "texts"


def read(path: Path, encoding: str | None = None) -> str:
    return "".join(Text.of_file(path, encoding).chunks())


@pytest.mark.parametrize("encoding", FILES)
def test_another_encoding_is_named_with_its_command(tmp_path: Path, encoding: str) -> None:
    text, named = FILES[encoding]
    path = tmp_path / "in.txt"
    path.write_bytes((text * 20).encode(encoding))
    with pytest.raises(ValueError, match=rf"in\.txt is not UTF-8 text.*probably {named}, .*--data\.encoding") as caught:
        read(path)
    assert text[:10] in str(caught.value)
    assert read(path, named) == text * 20
    command = re.search(r"`(iconv -f \S+ -t UTF-8) ", str(caught.value))
    if command and shutil.which("iconv"):
        converted = subprocess.run([*command[1].split(), str(path)], capture_output=True, check=True).stdout.decode()
        assert converted.removeprefix("\ufeff") == text * 20


@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN], ids=["english", "russian"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_characters_without_a_byte_order_mark_are_recognised(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "in.txt").write_bytes((text * 20).encode(encoding))
    assert read(tmp_path / "in.txt", "auto") == text * 20


def test_a_stray_byte_of_0_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes((RUSSIAN * 9).encode() + b"\0" + (RUSSIAN * 9).encode())
    with pytest.raises(
        ValueError, match=r"bytes that are 0\. The rest is UTF-8: remove them, e\.g\. by `tr -d"
    ) as caught:
        read(tmp_path / "in.txt", "auto")
    command = re.search(r"`(tr -d '\S+') ", str(caught.value))
    assert command is not None
    made = subprocess.run(["sh", "-c", f"{command[1]} < in.txt"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert made.decode() == RUSSIAN * 18


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251"])
def test_an_encoding_is_recognised_behind_much_ascii(tmp_path: Path, encoding: str) -> None:
    text, named = FILES[encoding]
    (tmp_path / "in.txt").write_bytes((ENGLISH * 40_000 + text * 5).encode(encoding))
    with pytest.raises(ValueError, match=f"probably {named}"):
        read(tmp_path / "in.txt")


@pytest.mark.parametrize("encoding", FILES)
@pytest.mark.parametrize("block", [1, 7, 1 << 18])
def test_a_file_is_read_in_its_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, block: int
) -> None:
    monkeypatch.setattr(decoding, "BLOCK", block)
    monkeypatch.setattr(_files, "BLOCK", block)
    text = FILES[encoding][0] * 3
    (tmp_path / "in.txt").write_bytes(text.encode(encoding))
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(text.encode(encoding)))
    assert read(tmp_path / "in.txt", encoding) == read(tmp_path / "in.txt.gz", encoding) == text


@pytest.mark.parametrize("encoding", [None, "utf-8", "UTF8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_character(tmp_path: Path, cache: Path, encoding: str | None) -> None:
    (tmp_path / "in.txt").write_bytes(FRENCH.encode("utf-8-sig"))
    assert read(tmp_path / "in.txt", encoding) == FRENCH
    assert not cache.exists()


@pytest.mark.parametrize("name", ["in.txt", "in.txt.gz"])
def test_a_gzipped_file_is_unpacked_whatever_its_name(tmp_path: Path, cache: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(FRENCH.encode("utf-8-sig")))
    assert [read(tmp_path / name) for _ in range(2)] == [FRENCH] * 2
    assert len(list(cache.glob("*.txt"))) == 1


@pytest.mark.parametrize("encoding", [None, "cp1252", "auto"])
def test_a_file_that_fills_the_disk_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, encoding: str | None
) -> None:
    monkeypatch.setattr(_files, "MOST_UNPACKED", 1000)
    monkeypatch.setattr(_files, "BLOCK", 100)
    (tmp_path / "fair").write_bytes(gzip.compress(ENGLISH.encode() * 50))
    assert read(tmp_path / "fair", encoding) == ENGLISH * 50
    made = len(list(cache.iterdir()))
    (tmp_path / "in").write_bytes(gzip.compress(b"a" * 100_000))
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'in'} unpacks to more than [\d,]+ bytes, 100 times its size"):
        read(tmp_path / "in", encoding)
    assert len(list(cache.iterdir())) == made


def test_a_changed_file_is_converted_again(tmp_path: Path) -> None:
    for text in (FRENCH, FRENCH.upper()):
        (tmp_path / "in.txt").write_bytes(text.encode("cp1252"))
        assert read(tmp_path / "in.txt", "cp1252") == text


def test_what_is_nearly_utf8_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes((RUSSIAN * 9).encode() + b"\xd0\n" + (RUSSIAN * 9).encode())
    with pytest.raises(ValueError, match=r"The rest is UTF-8: mend or remove .*`iconv -c -f UTF-8 -t UTF-8"):
        read(tmp_path / "in.txt")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"PK\x03\x04...", "is no text but a zip archive or an office document"),
        (b"%PDF-1.7\n", "is no text but a PDF document"),
        (b"\x89PNG\r\n\x1a\n", "is no text but a PNG image"),
        (bytes(range(256)) * 9, "it has bytes that are 0. No encoding was recognised: it may be no text"),
        (b"\xff\xfe", "it begins with ff fe or fe ff"),
        (gzip.compress(b"\x93NUMPY", mtime=0), "is no text but a NumPy array"),
        (
            gzip.compress(FRENCH.encode(), mtime=0)[:-9],
            r"can't be read as a gzipped text: it is damaged.*Delete it and get",
        ),
        (gzip.compress(FRENCH.encode("cp1252"), mtime=0), "probably cp1252"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "in").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path / 'in'))} .*{text}"):
        read(tmp_path / "in")
    assert not list(tmp_path.glob("cache/texts/.*"))


def test_a_wrong_encoding_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "in.txt").write_bytes(CHINESE.encode())
    with pytest.raises(ValueError, match=r"in\.txt is not cp1251 text: it can't be decoded at or after byte 0"):
        read(tmp_path / "in.txt", "cp1251")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["latin-99", "rot13", "zip", "", "a\0b"])
def test_unknown_encodings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"There is no text encoding .*Known are utf-8, utf-16, cp1252"):
        check_encoding(name)
    check_encoding(None)
    check_encoding("utf-16")


@pytest.mark.parametrize("text", ["Übersicht;Urteil\n", "naïve", FRENCH.replace("« ", "").replace(" »", "")])
def test_an_accent_among_ascii_letters_is_of_western_europe(text: str) -> None:
    assert likely_encoding(text.encode("cp1252")) == ("cp1252", text.strip()[:40])


def test_a_cut_character_at_the_end_does_not_matter() -> None:
    assert likely_encoding((CHINESE.strip() * 50).encode("gbk")[:-1]) is not None
    assert likely_encoding(b"\xff\xd8" + bytes(range(256))) is None
