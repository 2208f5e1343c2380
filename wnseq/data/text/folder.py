"""Folders as corpora: which files are read, and which part each belongs to.

A folder is all its ``.txt`` and ``.tokens`` files (in any case, gzipped or not) and those of its subfolders, in sorted
order, without hidden files: if names of files or subfolders say train, valid and test they are these parts, else the
text is cut.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ENDINGS = (".txt", ".tokens")
WORDS = {"train": {"train"}, "val": {"valid", "val", "validation", "dev"}, "test": {"test"}}
SHOWN = 3  # names in a list of files


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder.

    Args:
        read: ``train``, ``val`` and ``test`` → files; or ``""`` → all of them, for a text that is cut.
        left: Files that are not read.
    """

    read: Mapping[str, list[Path]]
    left: list[Path]

    def describe(self, folder: Path) -> str:
        """Return one line about what is read and what is not."""
        read = "; ".join(f"{part} {_names(files, folder)}".strip() for part, files in self.read.items())
        left = f"; not read: {_names(self.left, folder)}" if self.left else ""
        return f"files: {read}{left}"


def find_files(folder: Path) -> FolderFiles:
    """Return the files of a folder that are a corpus.

    Raises:
        FileNotFoundError: It has none.
        ValueError: All are empty, one of the three parts is missing, or a name says two parts.
    """
    texts: list[Path] = []
    left: list[Path] = []
    for path in _walk(folder):
        text = path.name.lower().removesuffix(".gz").endswith(ENDINGS)
        (texts if text and path.is_file() and path.stat().st_size else left).append(path)
    if not texts:
        if any(path.name.lower().endswith(ENDINGS) for path in left):
            raise ValueError(f"All text files of folder {folder} are empty; a corpus needs text.")
        raise FileNotFoundError(
            f"Folder {folder} has no .txt (or .tokens) files to be a corpus, nor have its subfolders"
            f"{f'; it has {_names(left, folder)}' if left else ''}."
        )
    said = {path: _parts_in_name(path.relative_to(folder)) for path in texts}
    named = {part: [path for path in texts if said[path] == [part]] for part in WORDS}
    missing = [part for part in WORDS if not named[part]]
    if len(missing) == 1 and missing != ["train"]:  # a name with test or valid alone may be a title
        have = _names([path for files in named.values() for path in files], folder)
        raise ValueError(
            f"Folder {folder} has {have}, but no file whose name says {missing[0]}. Either all of train, val (or "
            "valid) and test are in the names, or train is in none and the text is cut 90 : 5 : 5."
        )
    if missing:
        return FolderFiles({"": texts}, left)
    if both := next((path for path in texts if len(said[path]) > 1), None):
        raise ValueError(f"{both}: its name says {' and '.join(said[both])}; it can be in one part only. Rename it.")
    return FolderFiles(named, sorted([*left, *(path for path in texts if not said[path])]))


def _walk(folder: Path) -> Iterable[Path]:
    """Return all files but hidden ones and those in hidden folders, in sorted order."""
    found = []
    for root, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise error


def _parts_in_name(path: Path) -> list[str]:
    """Return the parts that the outermost name says: ``train/the_test.txt`` is of the training part."""
    for name in path.parts:
        words = set(re.split(r"[^a-z]+", name.lower()))
        if found := [part for part in WORDS if words & WORDS[part]]:
            return found
    return []


def _names(files: list[Path], folder: Path) -> str:
    names = [path.relative_to(folder).as_posix() for path in files[:SHOWN]]
    return ", ".join([*names, *([f"{len(files) - SHOWN:,} more"] if len(files) > SHOWN else [])])
