"""Which checkpoints of a folder are newest, and whole. Nothing here imports Lightning."""

from pathlib import Path

from wnseq._checksums import find_damage

__all__ = ["newest_first", "newest_whole"]


def newest_first(*folders: Path) -> list[Path]:
    """Return the checkpoints of folders by their age, the newest first."""
    found = [path for folder in folders for path in sorted(folder.glob("*.ckpt"))]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def newest_whole(*folders: Path, but: Path | None = None) -> Path | None:
    """Return the newest checkpoint of folders that is whole, or None."""
    return next((path for path in newest_first(*folders) if path != but and not find_damage(path)), None)
