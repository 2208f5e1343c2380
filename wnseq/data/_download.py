"""Downloads: mirrors in order, resumed, checked against a hash, never half-written."""

import logging
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path

import pooch
from filelock import FileLock, Timeout
from tqdm import tqdm  # type: ignore[import-untyped]

from wnseq._files import UNWRITABLE, atomic_write, explain_os_errors
from wnseq.data._files import cache_folder
from wnseq.errors import FileFormatError, reading

AGENT = "wnseq"  # some mirrors refuse Python's default
BLOCK = 1 << 16
ATTEMPTS = 3  # a dropped connection is resumed where it broke off
TIMEOUT = 30  # seconds without a byte


def fetch(urls: Sequence[str], path: Path, known_hash: str, *, progress: bool = True) -> Path:
    """Download a file unless it is there already with the right hash.

    Of several processes on one machine one downloads, while the others wait for it.

    Args:
        urls: Mirrors, tried in order.
        path: The file, which is also returned; until it is complete it is ``path`` + ``.part``, and the next call
            resumes that.
        known_hash: ``sha256:…`` or ``md5:…`` in hexadecimal.
        progress: Whether to show a bar.

    Raises:
        OSError: No mirror delivered the file, or the disk is full.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    lock = cache_folder() / "locks" / f"{sha256(str(path.resolve()).encode()).hexdigest()}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock, path.name):
            return _fetch(urls, path, known_hash, progress)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise explain_os_errors(error, Path(error.filename or path)) from error


@contextmanager
def _locked(lock: Path, name: str) -> Iterator[None]:
    """Hold a lock that the system releases if the process dies."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"waiting for another process that downloads {name}", file=sys.stderr)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _fetch(urls: Sequence[str], path: Path, known_hash: str, progress: bool) -> Path:
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in urls:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(url, known_hash, fname=path.name, path=path.parent, downloader=_Resuming(part, progress))
        except ValueError as error:  # pooch names both hashes, and has deleted what came
            reasons.append(f"{url}: {str(error).split('. ')[0]}")
        except (HTTPException, OSError) as error:
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                raise
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
        else:
            return path
    raise OSError(
        f"{path.name} could not be downloaded. {'; '.join(reasons)}. "
        f"Check the network and run again (a partial download is continued), or put the file at {path} yourself."
    )


class _Resuming:
    """A downloader for pooch that appends to the ``.part`` file and renames it when it is complete."""

    def __init__(self, part: Path, progress: bool) -> None:
        self.part = part
        self.progress = progress

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download one address into the file that pooch checks and renames."""
        for attempt in range(ATTEMPTS):
            try:
                self._continue(url)
                break
            except (HTTPException, ConnectionError, TimeoutError):
                if attempt + 1 == ATTEMPTS:
                    raise
        self.part.replace(output_file)

    def _continue(self, url: str) -> None:
        done = self.part.stat().st_size if self.part.exists() else 0
        request = urllib.request.Request(url, headers={"User-Agent": AGENT})
        if done:
            request.add_header("Range", f"bytes={done}-")
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if done and error.code == 416:  # nothing follows: the part is complete, or its hash is wrong
                return
            raise
        with response:
            if response.status != 206:
                done = 0  # this server sends the file from its beginning
            length = response.headers.get("Content-Length")
            total = done + int(length) if length else None
            bar = tqdm(
                total=total,
                initial=done,
                desc=self.part.stem,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=not self.progress,
            )
            with bar, self.part.open("ab" if done else "wb") as file:
                while block := response.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
        size = self.part.stat().st_size
        if total is not None and size < total:
            raise ConnectionError(f"the connection broke off after {size:,} of {total:,} bytes")


def unpack(archive: Path, member: str, path: Path) -> Path:
    """Copy one member of a zip to a file of its own.

    Args:
        archive: The ``.zip`` file.
        member: Its name inside the archive.
        path: The copy, which is also returned; names inside the archive never become paths.

    Raises:
        ValueError: The archive is damaged, or has no such member.
    """
    with reading(archive, "a zip archive", "Delete it and run again."), zipfile.ZipFile(archive) as opened:
        if member not in opened.namelist():
            raise FileFormatError(f"{archive} has no member {member!r}; it is not the expected archive. Delete it.")
        with opened.open(member) as source, atomic_write(path) as target:
            shutil.copyfileobj(source, target, BLOCK)
    return path
