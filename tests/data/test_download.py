import errno
import hashlib
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import TestCase

import pytest

from wnseq.data._download import fetch, unpack

CONTENT = bytes(range(256)) * 2000
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT: /file with ranges, /whole without, /drops breaking off half-way once, /slow, /other."""

    ranges: list[str | None]
    drops: int

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        if self.path == "/missing":
            self.send_error(404, "Not Found")
            return
        assert "Python" not in self.headers["User-Agent"]
        content = CONTENT[::-1] if self.path == "/other" else CONTENT
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.path != "/whole" else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.path == "/slow":
            time.sleep(0.3)
        if self.path == "/drops" and self.drops:
            type(self).drops -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.ranges, Handler.drops = [], 1
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "set" / "file.bin"


@pytest.mark.parametrize("known", [SHA256, MD5])
def test_a_file_is_fetched_once(server: str, path: Path, known: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert fetch([f"{server}/file"], path, known) == path
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert Handler.ranges == [None]
    assert "file.bin: " in capsys.readouterr().err


@pytest.mark.parametrize("asked", ["/file", "/slow"])
def test_of_several_fetches_at_once_one_downloads(
    server: str, path: Path, asked: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path.parent.mkdir()
    path.with_name("file.bin.part").write_bytes(CONTENT[:1000])
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: fetch([f"{server}{asked}"], path, SHA256), range(4))) == [path] * 4
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert Handler.ranges == ["bytes=1000-"]
    assert asked != "/slow" or capfd.readouterr().err.count("waiting for another process that downloads file.bin") == 3


def test_no_bar_and_no_log_unless_asked(server: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TestCase().assertNoLogs(level="INFO"):
        fetch([f"{server}/file"], path, SHA256, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_partial_download_is_continued(server: str, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("file.bin.part").write_bytes(CONTENT[:1234])
    fetch([f"{server}/file"], path, SHA256)
    assert path.read_bytes() == CONTENT
    assert Handler.ranges == ["bytes=1234-"]


def test_a_server_without_ranges_starts_again(server: str, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("file.bin.part").write_bytes(b"something else")
    fetch([f"{server}/whole"], path, SHA256)
    assert path.read_bytes() == CONTENT


def test_a_whole_part_is_only_checked(server: str, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("file.bin.part").write_bytes(CONTENT)
    fetch([f"{server}/file"], path, SHA256)
    assert path.read_bytes() == CONTENT


def test_a_dropped_connection_is_taken_up_again(server: str, path: Path) -> None:
    fetch([f"{server}/drops"], path, SHA256)
    assert path.read_bytes() == CONTENT
    assert Handler.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_connection_that_keeps_dropping_leaves_its_part(server: str, path: Path) -> None:
    Handler.drops = 99
    with pytest.raises(OSError, match=r"file\.bin could not be downloaded.*broke off after.*of 512,000 bytes.*contin"):
        fetch([f"{server}/drops"], path, SHA256)
    part = path.with_name("file.bin.part").read_bytes()
    assert list(path.parent.iterdir()) == [path.with_name("file.bin.part")]
    assert 0 < len(part) < len(CONTENT)
    assert part == CONTENT[: len(part)]


def test_the_next_mirror_is_tried(server: str, path: Path) -> None:
    fetch([f"{server}/missing", f"{server}/other", f"{server}/file"], path, SHA256)
    assert path.read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_deleted(server: str, path: Path) -> None:
    got = hashlib.sha256(CONTENT[::-1]).hexdigest()
    with pytest.raises(OSError, match=f"/other: SHA256 hash.*{SHA256[7:]} but got {got}.*put the file at"):
        fetch([f"{server}/other"], path, SHA256)
    assert list(path.parent.iterdir()) == []


def test_no_network_is_said_for_each_mirror(path: Path) -> None:
    text = r"127\.0\.0\.1:9/a: .*refused.*127\.0\.0\.1:9/b: .*refused.*Check the network and run again"
    with pytest.raises(OSError, match=text):
        fetch(["http://127.0.0.1:9/a", "http://127.0.0.1:9/b"], path, SHA256)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to stand for a full disk")
def test_a_full_disk_is_named(server: str, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("file.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"file\.bin could not be written: the disk is full") as caught:
        fetch([f"{server}/file", f"{server}/whole"], path, SHA256)
    assert caught.value.errno == errno.ENOSPC
    assert not path.exists()


def test_members_are_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/wiki.train.tokens", CONTENT)
        archive.writestr("../evil", b"evil")
    target = unpack(tmp_path / "a.zip", "folder/wiki.train.tokens", tmp_path / "out" / "train.txt")
    assert target.read_bytes() == CONTENT
    target.unlink()
    assert unpack(tmp_path / "a.zip", "../evil", tmp_path / "out" / "tame").read_bytes() == b"evil"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("member", CONTENT)
    target = tmp_path / "out"
    with pytest.raises(ValueError, match=r"a\.zip has no member 'other'"):
        unpack(tmp_path / "a.zip", "other", target)
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "flipped.zip").write_bytes(whole[:500] + b"!" + whole[501:])
    (tmp_path / "short.zip").write_bytes(whole[:-50])
    for name in ("flipped.zip", "short.zip"):
        with pytest.raises(
            ValueError,
            match=f"{re.escape(name)} can.t be read as a zip archive: it is damaged, .*Delete it and run again",
        ):
            unpack(tmp_path / name, "member", target)
    assert not target.exists()


def test_a_flipped_byte_in_a_deflated_member_names_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", CONTENT)
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:36] + b"\xff" + whole[37:])
    with pytest.raises(
        ValueError, match=r"a\.zip can't be read as a zip archive: .*\(error: Error -3 while decompress"
    ):
        unpack(tmp_path / "a.zip", "member", tmp_path / "out")
    assert not (tmp_path / "out").exists()
