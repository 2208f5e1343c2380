"""Folders as corpora: which files are read, and which part each belongs to.

A folder is all its ``.txt`` and ``.tokens`` files (in any case, gzipped or not), with a field also its JSON lines, and
those of its subfolders, in sorted order, without hidden files: if names of files or subfolders say train, valid and
test they are these parts, else the text is cut.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from wnseq.data.text.jsonl import is_jsonl

ENDINGS = (".txt", ".tokens")
NO_TEXT, NO_FIELD, EMPTY = "no .txt or .tokens file", "JSON lines need --data.field", "empty"
NO_PART = "the name says none of train, valid and test"
WORDS = {"train": {"train"}, "val": {"valid", "val", "validation", "dev"}, "test": {"test"}}
SHOWN = 3  # names in a list of files


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder.

    Args:
        read: ``train``, ``val`` and ``test`` → files; or ``""`` → all of them, for a text that is cut.
        left: Files that are not read → why.
    """

    read: Mapping[str, list[Path]]
    left: Mapping[Path, str]

    def describe(self, folder: Path) -> str:
        """Return one line about what is read, and what is not and why."""
        read = "; ".join(f"{part} {_names(files, folder)}".strip() for part, files in self.read.items())
        reasons = dict.fromkeys(self.left.values())
        left = {why: _names([path for path, each in self.left.items() if each == why], folder) for why in reasons}
        return f"files: {read}" + "".join(f"; not read: {names} ({why})" for why, names in left.items())


def find_files(
    folder: Path, field: str | None = None, given: Mapping[str, str] = MappingProxyType({}), whole: bool = False
) -> FolderFiles:
    """Return the files of a folder that are a corpus.

    Args:
        folder: The folder.
        field: Key of the text in JSON lines, which are read with it alone.
        given: Parts that are a file or folder of their own → its path; no name has to say them, and what of it lies in
            the folder is not read.
        whole: Whether the folder is one part, whatever the names say.

    Raises:
        FileNotFoundError: It has none.
        ValueError: All are empty, one of the three parts is missing, or a name says two parts.
    """
    texts: list[Path] = []
    left: dict[Path, str] = {}
    for path in _walk(folder):
        part = next((part for part, own in given.items() if is_within(path, own)), None)
        if part is not None:
            left[path] = f"the {part} part"
        elif not path.is_file() or not _is_text(path):
            left[path] = NO_TEXT
        elif is_jsonl(path) and field is None:
            left[path] = NO_FIELD
        elif not path.stat().st_size:
            left[path] = EMPTY
        else:
            texts.append(path)
    if not texts:
        if EMPTY in left.values():
            raise ValueError(f"All text files of folder {folder} are empty; a corpus needs text.")
        raise FileNotFoundError(
            f"Folder {folder} has no .txt (or .tokens) files to be a corpus, nor have its subfolders"
            f"{f'; it has {_names(list(left), folder)}' if left else ''}."
            f"{' Name the field of the JSON lines by --data.field.' if NO_FIELD in left.values() else ''}"
        )
    if whole:
        return FolderFiles({"": texts}, left)
    said = {path: _parts_in_name(path.relative_to(folder)) for path in texts}
    named = {part: [path for path in texts if said[path] == [part]] for part in WORDS}
    missing = [part for part in WORDS if not named[part] and part not in given]
    if len(missing) == 1 and missing != ["train"]:  # a name with test or valid alone may be a title
        have = _names([path for files in named.values() for path in files], folder)
        raise ValueError(
            f"Folder {folder} has {have}, but no file whose name says {missing[0]}. Either all of train, val (or "
            "valid) and test are in the names, or train is in none and the text is cut 90 : 5 : 5. A file from "
            f"elsewhere is the part by --data.{missing[0]} PATH."
        )
    if missing or not any(named.values()):
        return FolderFiles({"": texts}, left)
    if both := next((path for path in texts if len(said[path]) > 1), None):
        raise ValueError(f"{both}: its name says {' and '.join(said[both])}; it can be in one part only. Rename it.")
    left |= {path: NO_PART for path in texts if not said[path]}
    left |= {path: f"--data.{part} is given" for part in given for path in named[part]}
    read = {part: files for part, files in named.items() if files and part not in given}
    return FolderFiles(read, dict(sorted(left.items())))


def is_within(path: Path, other: str | Path) -> bool:
    """Return True if a path is another one, or lies in it."""
    resolved, whole = path.resolve(), Path(other).expanduser().resolve()
    return resolved == whole or whole in resolved.parents


def _is_text(path: Path) -> bool:
    return is_jsonl(path) or path.name.lower().removesuffix(".gz").endswith(ENDINGS)


def _walk(folder: Path) -> Iterable[Path]:
    """Return all files but hidden ones and those in hidden folders, in sorted order; a link to a folder is followed."""
    found, seen = [], set()
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        seen.add(os.path.realpath(root))
        visible = [name for name in sorted(folders) if not name.startswith(".")]
        folders[:] = [name for name in visible if os.path.realpath(Path(root, name)) not in seen]  # a link upward
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
