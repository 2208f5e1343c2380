"""Labelled text that ships inside Python: the docstrings of its library, by what their modules are for."""

import ast
import sysconfig
from pathlib import Path

from wnseq.data.text.tables import Row

# class -> modules of the training, the validation and the test part: no module is in two
MODULES = {
    "numbers and dates": ("datetime _pydecimal numbers random _strptime statistics", "calendar", "fractions zoneinfo"),
    "files": (
        "pathlib os posixpath ntpath genericpath _pyio tempfile glob fnmatch gzip bz2 zipfile filecmp",
        "fileinput lzma linecache",
        "tarfile shutil",
    ),
    "internet": (
        "email http urllib xmlrpc imaplib ftplib mailbox wsgiref ssl socket uuid",
        "poplib mimetypes base64",
        "smtplib ipaddress socketserver webbrowser",
    ),
    "concurrency": (
        "asyncio multiprocessing _threading_local subprocess",
        "selectors sched",
        "concurrent threading queue",
    ),
    "testing": ("unittest bdb trace pstats", "tracemalloc timeit", "doctest pdb cProfile"),
    "windows": (
        "tkinter/__init__ turtle tkinter/dnd tkinter/commondialog tkinter/dialog",
        "tkinter/font tkinter/messagebox tkinter/colorchooser",
        "tkinter/ttk tkinter/simpledialog tkinter/filedialog tkinter/scrolledtext",
    ),
}
PARTS = ("train", "val", "test")
FEWEST = 8  # words of a text


def python_docs() -> dict[str, list[Row]]:
    """Return the training, validation and test part, each of modules of its own; a text is in one of them only.

    A text is a docstring after the name and the arguments of what it documents. Modules that a Python lacks are left
    out, and so is a class (windows, where there is no tkinter) that is not in all three parts then.

    Raises:
        FileNotFoundError: This Python has no sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    seen: set[str] = set()
    for label, modules in MODULES.items():
        for part, names in zip(PARTS, modules, strict=True):
            for path in (path for name in names.split() for path in _files(library, name)):
                for line, text in _docstrings(path):
                    if len(text.split()) >= FEWEST and text not in seen:
                        seen.add(text)
                        parts[part].append(Row(text, label, f"{path.relative_to(library).as_posix()}: line {line}"))
    classes = set.intersection(*({row.label for row in rows} for rows in parts.values()))
    if len(classes) < 2:
        raise FileNotFoundError(
            f"This Python ships without the sources of its library, looked for in {library}, which are the texts of "
            "the set 'python_docs'. Name another one, e.g. the path of a .csv file, by --data.dataset."
        )
    return {part: [row for row in rows if row.label in classes] for part, rows in parts.items()}


TESTS = {"test", "tests"}


def _files(library: Path, name: str) -> list[Path]:
    """Return the files of a module or package, without its tests."""
    if (path := library / f"{name}.py").is_file():
        return [path]
    return sorted(path for path in (library / name).rglob("*.py") if not TESTS & {*path.relative_to(library).parts})


def _docstrings(path: Path) -> list[tuple[int, str]]:
    """Return the docstrings of a module, white space as single spaces, each with the line of what it documents."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if text := ast.get_docstring(node):
            head = "" if isinstance(node, ast.Module) else node.name
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                head += f"({', '.join(each.arg for each in node.args.args if each.arg != 'self')})"
            found.append((getattr(node, "lineno", 1), " ".join(f"{head} {text}".split())))
    return found
