"""Files that are never half-written, under their name only when they are whole and on the disk."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no such locks, and keeps what a killed process left
    fcntl = None  # type: ignore[assignment]

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EROFS, errno.EPERM)
UNWRITABLE = (*FULL, *FORBIDDEN)
CACHES = "or name another folder in WNSEQ_CACHE (caches) or --data.root (downloads)."


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when it is complete and on the disk.

    Args:
        path: The final name; missing parent folders are made.

    Raises:
        OSError: The disk is full, or the folder read-only; no file is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        with temporary.open("wb") as file:
            _lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise explain_os_errors(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, *, waits: bool = False) -> Iterator[int]:
    """Hold the lock of a folder, which ends with the process.

    Args:
        folder: The folder.
        waits: Whether to wait for another process that holds it.

    Yields:
        A descriptor that holds it, in processes that inherit it too; 0 if another process holds it.
    """
    if fcntl is None:
        yield -1
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        held = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            held = 0
        except OSError:
            pass  # a file system without locks
        yield held
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, name: str = "") -> list[Path]:
    """Remove unfinished files that no process writes any more, of one name or of any; return them."""
    removed = []
    unfinished = [path for path in folder.glob(".*.tmp") if path.name.startswith(f".{name}")]
    for path in sorted(unfinished) if fcntl is not None else []:
        with suppress(OSError), path.open("rb") as file:
            if _lock(file.fileno()):
                path.unlink()
                removed.append(path)
    return removed


def explain_os_errors(error: OSError, path: Path, remedy: str = CACHES) -> OSError:
    """Return an error with the remedy for a full disk or a read-only folder; any other error as it is."""
    if error.errno in FULL:
        problem = "the disk is full; nothing was kept under that name. Free some space"
    elif error.errno in FORBIDDEN:
        problem = "the folder can't be written to"
    else:
        return error
    return OSError(error.errno, f"{path} could not be written: {problem}, {remedy}")


def _lock(descriptor: int) -> bool:
    """Return True if the file could be locked until it is closed; not if another process holds the lock."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
