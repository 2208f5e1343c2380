"""The folders of data and of caches, and the checksums of cached files."""

import gzip
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pooch

from wnseq._files import atomic_write
from wnseq.errors import FileFormatError, reading

BLOCK = 1 << 20
MOST_UNPACKED = 1 << 30  # bytes that any file may unpack to
MOST_TIMES = 100  # a larger one, times its own size: text reaches 20
Content = TypeVar("Content")
_said: set[Path] = set()


def data_root(root: str | None = None) -> Path:
    """Return the folder of the standard corpora and image sets: the argument, else ``$WNSEQ_DATA``, else ``./data``."""
    return Path(root or os.environ.get("WNSEQ_DATA") or "data").expanduser()


def cache_folder() -> Path:
    """Return the folder of what can be made again: ``$WNSEQ_CACHE``, else the user's cache folder.

    It is not in the data folder, which is often shared and read-only. A user without a home has a folder for temporary
    files, which is said once.
    """
    if chosen := os.environ.get("WNSEQ_CACHE"):
        return Path(chosen).expanduser()
    with suppress(RuntimeError, KeyError):  # what is raised for a user that the system does not know
        return Path(pooch.os_cache("wnseq"))
    folder = Path(tempfile.gettempdir(), f"wnseq-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is another user's; name a folder for caches in WNSEQ_CACHE")
    if folder not in _said:
        _said.add(folder)
        print(f"caches go to {folder}: there is no home folder, and WNSEQ_CACHE names none", file=sys.stderr)
    return folder


def read_cached(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """Return what ``read`` makes of a cached file; None if there is none, or a damaged one, which is printed."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file raises nearly anything
        print(f"{path} is damaged, and made again", file=sys.stderr, flush=True)
        return None


def unpacked_blocks(path: Path, kind: str) -> Iterator[bytes]:
    """Yield the content of a gzipped file in blocks.

    Args:
        path: The file.
        kind: What it is, for the error, with its article.

    Raises:
        FileFormatError: It is damaged; or it unpacks to more than 1 GiB and 100 times its size, as a file that was made
            to fill the disk does.
    """
    most, size = max(MOST_UNPACKED, MOST_TIMES * path.stat().st_size), 0
    with reading(path, kind, "Delete it and get it again."), gzip.open(path) as file:
        while block := file.read(BLOCK):
            if (size := size + len(block)) > most:
                raise FileFormatError(
                    f"{path} unpacks to more than {most:,} bytes, {most / path.stat().st_size:,.0f} times its size: it "
                    "may be made to fill the disk. Unpack it first, if it is what you want."
                )
            yield block


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file, read in blocks."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found = zlib.crc32(block, found)
    return found


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values and their checksum."""
    with atomic_write(path) as file:
        file.write(json.dumps({"crc32": _crc32(values), "values": values}).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the values in a file of :func:`write_json`.

    Raises:
        FileFormatError: The checksum is that of others.
    """
    stored = json.loads(path.read_text("utf-8"))
    values: dict[str, Any] = stored["values"]
    if stored["crc32"] != _crc32(values):
        raise FileFormatError(f"{path} has another checksum than its values")
    return values


def _crc32(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def cached_text(target: Path, write: Callable[[Path], None]) -> Path:
    """Return a cached text, which ``write`` writes if there is none or it is damaged."""
    about = target.with_suffix(".json")

    def is_whole(path: Path) -> bool:
        if read_json(about)["crc32"] != checksum(path):
            raise FileFormatError(f"{path} has another checksum than it was written with")
        return True

    if not (target.exists() and read_cached(target, is_whole)):
        write(target)
        write_json(about, {"crc32": checksum(target)})
    return target
