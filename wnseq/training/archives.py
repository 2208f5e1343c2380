"""Which checkpoints of a folder are whole. Nothing here imports Lightning."""

from pathlib import Path

from wnseq._files import find_damage

__all__ = ["newest_whole"]


def newest_whole(folder: Path, but: Path | None = None) -> Path | None:
    """Return the newest checkpoint of a folder that is whole, or None."""
    others = sorted(path for path in folder.glob("*.ckpt") if path != but)
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in others if not find_damage(path)), None)
