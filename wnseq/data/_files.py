"""The folders of data and caches, and files that are never half-written."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pooch

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EROFS, errno.EPERM)
UNWRITABLE = (*FULL, *FORBIDDEN)


def data_root(root: str | None = None) -> Path:
    """Return the folder of the standard corpora and image sets: the argument, else ``$WNSEQ_DATA``, else ``./data``."""
    return Path(root or os.environ.get("WNSEQ_DATA") or "data").expanduser()


def cache_folder() -> Path:
    """Return the folder of what can be made again: ``$WNSEQ_CACHE``, else the user's cache folder.

    It is not in the data folder, which is often shared and read-only.
    """
    chosen = os.environ.get("WNSEQ_CACHE")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("wnseq"))


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when it is complete and on the disk.

    Args:
        path: The final name; missing parent folders are made.

    Raises:
        OSError: The disk is full; no file is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise explain_os_errors(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def explain_os_errors(error: OSError, path: Path) -> OSError:
    """Return an error with the remedy for a full disk or a read-only folder; any other error as it is."""
    if error.errno in FULL:
        remedy = "the disk is full; nothing was kept under that name. Free some space"
    elif error.errno in FORBIDDEN:
        remedy = "the folder can't be written to"
    else:
        return error
    return OSError(
        error.errno,
        f"{path} could not be written: {remedy}, or name another folder in WNSEQ_CACHE (caches)"
        " or --data.root (downloads).",
    )


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
