"""How the Trainer reads and writes checkpoints: whole or not at all, and never damaged without a word."""

import errno
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from wnseq._files import atomic_write, explain_os_errors
from wnseq.errors import FileFormatError

__all__ = ["REMEDY", "WholeCheckpointIO", "check_archive", "find_damage", "newest_whole"]

REMEDY = (
    "Python objects are never loaded. Expected a file written by fit, such as best.ckpt or last.ckpt of a run, or "
    "torch.save(model.state_dict(), path)."
)


def check_archive(path: Path) -> None:
    """Check the checksums of a file of ``torch.save``, which ``torch.load`` does not.

    It takes about as long as ``torch.load``. A file of torch before 1.6, which is no zip archive, has none.

    Raises:
        FileFormatError: The file is empty, cut short or damaged; with the newest whole one beside it.
        OSError: It can't be read.
    """
    if damage := find_damage(path):
        good = newest_whole(path.parent, but=path)
        way_on = f" The newest whole checkpoint beside it is {good}." if good else ""
        raise FileFormatError(f"{path} can't be read as a checkpoint: {damage}.{way_on} {REMEDY}")


def find_damage(path: Path) -> str:
    """Return what is wrong with a file of ``torch.save``, or nothing."""
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        return "it is empty"
    if start != b"PK":
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except Exception as error:  # zipfile raises nearly anything on a damaged file
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek before 0
            raise
        return f"it is damaged or cut short ({type(error).__name__}: {error})"
    return f"it is damaged (the checksum of {member} is wrong)" if member else ""


def newest_whole(folder: Path, but: Path | None = None) -> Path | None:
    """Return the newest checkpoint of a folder that is whole, or None."""
    others = sorted(path for path in folder.glob("*.ckpt") if path != but)
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in others if not find_damage(path)), None)


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin with files that appear when they are whole and on the disk, and are checked when read.

    Lightning alone writes to the folder for temporary files and moves the file from there: across file systems a kill
    leaves a part of it, and a power cut an empty file.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(plugins=[WholeCheckpointIO()], accelerator="cpu", logger=False)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a full disk raises OSError with the newest one that is whole."""
        if "://" in str(path):  # of fsspec, whose stores write whole objects
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        try:
            with atomic_write(target) as file:
                torch.save(checkpoint, file)
        except OSError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            good = newest_whole(target.parent)
            way_on = f"and resume with --ckpt_path {good}, which is whole." if good else "and start the run again."
            raise explain_os_errors(cause, target, way_on) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Check a checkpoint and load it."""
        if "://" not in str(path):
            check_archive(Path(path))
        loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return loaded
