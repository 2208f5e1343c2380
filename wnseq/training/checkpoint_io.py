"""How the Trainer reads and writes checkpoints: whole or not at all, and never damaged without a word."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from wnseq._checksums import CheckedFile
from wnseq._files import atomic_write, explain_os_errors
from wnseq.errors import FileFormatError, reading
from wnseq.training.archives import newest_whole
from wnseq.training.signals import held_signals

__all__ = ["REMEDY", "WholeCheckpointIO", "load_checked", "open_checked"]

REMEDY = (
    "Python objects are never loaded. Expected a file written by fit, such as best.ckpt or last.ckpt of a run, or "
    "torch.save(model.state_dict(), path)."
)


@contextmanager
def open_checked(path: Path) -> Iterator[BinaryIO]:
    """Open a file of ``torch.save`` for a block with ``torch.load``, which makes no use of the checksums.

    The pickle is checked before the block, the tensors while they are loaded, so that what is loaded is what was
    checked. A file of torch before 1.6, which is no zip archive, has no checksums.

    Raises:
        FileFormatError: The file is empty, cut short or damaged, which may show at the end of the block; with the
            newest whole one beside it.
        OSError: It can't be read.
    """
    with CheckedFile(path) as file, held_signals() as file.before_reading:  # torch would turn them into other errors
        _refuse(path, file.damage)
        try:
            yield file
        except Exception:
            if file.error is not None:
                raise file.error from None
            _refuse(path, file.damage)  # the reason, most likely
            raise
        _refuse(path, file.check_rest())


def _refuse(path: Path, damage: str) -> None:
    if damage:
        good = newest_whole(path.parent, but=path)
        way_on = f" The newest whole checkpoint beside it is {good}." if good else ""
        raise FileFormatError(f"{path} can't be read as a checkpoint: {damage}.{way_on} {REMEDY}")


def load_checked(path: Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
    """Return what ``torch.load`` makes of a file whose checksums are right.

    Raises:
        FileFormatError: It is damaged, or torch can't read it.
        OSError: It can't be read.
    """
    with open_checked(path) as file, reading(path, "a checkpoint", REMEDY):
        return torch.load(file, map_location=map_location, weights_only=weights_only)


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin with files that appear when they are whole and on the disk, and are checked when read.

    Lightning alone writes to the folder for temporary files and moves the file from there: across file systems a kill
    leaves a part of it, and a power cut an empty file.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(plugins=[WholeCheckpointIO()], accelerator="cpu", logger=False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[Path, dict[str, Any]] = {}

    def give(self, path: Path, checkpoint: dict[str, Any]) -> None:
        """Hand over what the program has read from a file already, for the next load of that path."""
        self._read[path] = checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a full disk raises OSError with the newest one that is whole."""
        if "://" in str(path):  # of fsspec, whose stores write whole objects
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        self._read.pop(target, None)
        try:
            with atomic_write(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            inner = error.__cause__ or error.__context__  # torch's own error, where its writer met the system's
            cause = inner if isinstance(inner, OSError) else error
            if not isinstance(cause, OSError):
                raise
            good = newest_whole(target.parent)
            way_on = f"and resume with --ckpt_path {good}, which is whole." if good else "and start the run again."
            raise explain_os_errors(cause, target, way_on) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Check a checkpoint and load it, onto the CPU by default."""
        if "://" in str(path):
            loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
            return loaded
        given = self._read.pop(Path(path), None)
        if given is not None and map_location is None:
            return given
        loaded = load_checked(Path(path), "cpu" if map_location is None else map_location, weights_only)
        return loaded
