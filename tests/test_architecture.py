"""The rules of the layout, read from the source: who imports whom, what a room may stand on, how large it may grow.

Each rule is a function from source text to complaints; beside each test that the tree has none stands one that shows
the rule complaining about a made-up source.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# room -> the rooms it may import; what does not stand here is forbidden ("" is wnseq itself, for its version)
ARROWS: dict[str, set[str]] = {
    "weight_norm": set(),
    "names": {"weight_norm"},
    "composed": set(),
    "module": {"composed", "names", "weight_norm"},
    "streaming": {"products"},
    "cells": {"module", "names", "streaming", "weight_norm"},
    "products": set(),
    "loops": {"products"},
    "operators": {"loops", "products"},
    "onnx": {"operators"},
    "choice": {"products", "streaming"},
    "stepwise": {"cells"},
    "low_precision": {"choice", "products", "stepwise", "streaming"},
    "gru_loop": {"choice", "loops", "stepwise", "streaming"},
    "kernels": {"cells", "choice", "gru_loop", "low_precision", "operators", "stepwise", "streaming"},
    "sequence": {"kernels", "weight_norm"},
    "rnn": {"cells", "module", "sequence"},
    "plain": {"sequence"},
    "layers": {"module", "names", "weight_norm"},
    "batch_norm": {"weight_norm"},
    "pairs": {"module", "names"},
    "moments": set(),
    "recurrent_init": {"cells", "module", "moments", "rnn", "weight_norm"},
    "data_init": {"batch_norm", "layers", "module", "moments", "recurrent_init"},
    "convert": {"cells", "layers", "module", "names", "pairs", "plain", "rnn"},
    "optimise": {"names", "pairs"},
    "likelihood": set(),
    "linear_cross_entropy": {"products", "weight_norm"},
    "logistic_mixture": {"likelihood", "weight_norm"},
    "causal": set(),
    "incremental": {"causal"},
    "regularise": set(),
    "data.files": set(),
    "data.stream": set(),
    "data.compression": set(),
    "data.download": {"data.files"},
    "data.corpora": {"data.download", "data.files", "data.stream"},
    "data.vocabulary": set(),
    "data.learn": {"data.files", "data.stream", "data.vocabulary"},
    "data.tokens": {"data.files", "data.stream", "data.vocabulary"},
    "data.windows": {"data.tokens"},
    "data.image_files": set(),
    "data.image_sets": {"data.corpora", "data.download", "data.files", "data.image_files"},
    "data.whitening": {"data.files"},
    "data.preprocess": {"data.whitening"},
    "data.epochs": set(),
    "data.images": {"data.epochs", "data.image_sets", "data.preprocess", "data.whitening"},
    "data.text": {"data.corpora", "data.learn", "data.tokens", "data.vocabulary", "data.windows"},
    "training.errors": set(),
    "training.memory": set(),
    "training.quiet": set(),
    "training.runs": set(),
    "training.signals": set(),
    "training.progress": set(),
    "training.checkpoints": {"training.errors"},
    "training.plots": set(),
    "training.timing": {"training.plots"},
    "training.epoch_time": set(),
    "training.average": set(),
    "training.callbacks": {"training.plots"},
    "training.start": {"data_init"},
    "training.renormalise": {"optimise"},
    "training.gates": {"cells", "module", "training.plots", "weight_norm"},  # cells knows the names of the gates
    "training.parser": {"training.errors"},
    "training.cli": {
        "training.callbacks",
        "training.checkpoints",
        "training.errors",
        "training.memory",
        "training.parser",
        "training.plots",
        "training.progress",
        "training.quiet",
        "training.runs",
        "training.signals",
    },
    "training.command": {""},
}

# folder -> what its rooms may import besides the standard library and wnseq
LIBRARIES: dict[str, set[str]] = {
    "": {"torch"},
    "onnx": {"onnxscript", "torch"},  # the first imported only where it is used
    "data": {"lightning", "numpy", "pooch", "sentencepiece", "sklearn", "torch", "torchtext", "tqdm"},
    "training": {"jsonargparse", "lightning", "lightning_utilities", "matplotlib", "numpy", "rich", "torch"},
}

TESTED_ELSEWHERE: dict[str, str] = {}
LONGEST = 400
NAMELESS = {"common", "helper", "helpers", "misc", "util", "utils"}


def rooms() -> dict[str, Path]:
    """Map the dotted name of each module of the library, without ``wnseq.``, to its file; a package counts as one."""
    found = {}
    for path in sorted((ROOT / "wnseq").rglob("*.py")):
        parts = path.relative_to(ROOT / "wnseq").with_suffix("").parts
        if parts[0] != "recipes":
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


ROOMS = rooms()
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
SOURCES = [*ROOMS.values(), *RECIPES]


def imports(source: str, package: str) -> Iterator[str]:
    """Yield what a module inside ``package`` imports, each name in full, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_of(room: str) -> str:
    path = ROOMS.get(room)
    inside = room if path is not None and path.name == "__init__.py" else room.rpartition(".")[0]
    return f"wnseq.{inside}".rstrip(".")


def broken_arrows(source: str, room: str, known: set[str]) -> list[str]:
    """Complain of each import of one room by another that the table does not draw."""
    if room and room not in ARROWS and ROOMS.get(room, Path()).name != "__init__.py":
        return [f"wnseq.{room} is not in ARROWS: add it there, with the rooms it may import, or merge it into a room"]
    complaints = []
    for name in imports(source, package_of(room)):
        if name.split(".")[0] != "wnseq":
            continue
        target = name.removeprefix("wnseq").removeprefix(".")
        while target and target not in known:  # wnseq.nn._cells.WNLSTMCell lives in the room wnseq.nn._cells
            target = target.rpartition(".")[0]
        if room in ARROWS:
            allowed = target in ARROWS[room]
        else:  # the __init__ of a package is the list of its public names, and looks at its own rooms alone
            inside, _, _ = target.rpartition(".")
            allowed = target == room or inside == room
        if not allowed:
            complaints.append(f"wnseq.{room or '__init__'} imports {name}, and ARROWS does not draw that arrow")
    return complaints


def strangers(source: str, room: str) -> list[str]:
    """Complain of each library that a room's folder may not stand on."""
    folder = room if room in LIBRARIES else room.rpartition(".")[0]
    allowed = {"wnseq", *sys.stdlib_module_names, *LIBRARIES[folder]}
    return [
        f"wnseq.{room} imports {name}: in wnseq/{folder} only {', '.join(sorted(LIBRARIES[folder]))} may be imported"
        for name in imports(source, package_of(room))
        if name.split(".")[0] not in allowed
    ]


def imported_recipes(source: str, package: str) -> list[str]:
    """Complain of each import of a recipe."""
    return [
        f"imports {name}: what two recipes need belongs in wnseq, and wnseq knows no recipe"
        for name in imports(source, package)
        if name.split(".")[0] == "recipes" or name.startswith("wnseq.recipes")
    ]


def code_lines(source: str) -> int:
    """Count the lines of code: neither blank, nor comment alone, nor docstring."""
    tree, lines = ast.parse(source), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}:
            lines.update(range(token.start[0], token.end[0] + 1) if token.string else ())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if ast.get_docstring(node, clean=False) is not None and first is not None:
                lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def place_of_tests(source: Path) -> Path:
    """Say where the tests of a source file stand, below the tests folder."""
    relative = source.relative_to(ROOT / "wnseq") if source.is_relative_to(ROOT / "wnseq") else source.relative_to(ROOT)
    return relative.with_name(TESTED_ELSEWHERE.get(source.stem, f"test_{source.name}"))


def nameless(path: Path) -> bool:
    """Tell whether a file or a folder on its way has a name that says nothing of what is in it."""
    return any(part.strip("_") in NAMELESS for part in path.with_suffix("").parts)


@pytest.mark.parametrize("room", [*ROOMS], ids=lambda room: f"wnseq.{room}".rstrip("."))
def test_a_room_imports_what_the_table_draws(room: str) -> None:
    source = ROOMS[room].read_text("utf-8")
    assert broken_arrows(source, room, set(ROOMS)) == []
    assert strangers(source, room) == []


def test_every_arrow_belongs_to_rooms_that_stand() -> None:
    drawn = {*ARROWS, *(target for targets in ARROWS.values() for target in targets)}
    assert sorted(drawn - set(ROOMS)) == []


def test_the_arrows_run_one_way() -> None:
    unplaced = dict(ARROWS)
    while ready := [room for room, targets in unplaced.items() if not targets & set(unplaced)]:
        for room in ready:
            del unplaced[room]
    assert unplaced == {}, "these rooms import each other in a circle"


@pytest.mark.parametrize(
    ("room", "source", "complaint"),
    [
        ("weight_norm", "from wnseq.nn._rnn import WNLSTM", "imports wnseq.nn._rnn.WNLSTM"),
        ("weight_norm", "from .rnn import WNLSTM", "imports wnseq.nn._rnn.WNLSTM"),
        ("weight_norm", "def f():\n    import wnseq.nn._rnn", "imports wnseq.nn._rnn"),
        ("weight_norm", "from . import rnn", "imports wnseq.nn._rnn"),
        ("weight_norm", "from wnseq import WNLSTM", "imports wnseq.WNLSTM"),
        ("data.text", "from ..rnn import WNLSTM", "imports wnseq.nn._rnn.WNLSTM"),
        (
            "",
            "from wnseq.data.text.datamodule import TextDataModule",
            "imports wnseq.data.text.datamodule.TextDataModule",
        ),
        ("attic", "import torch", "wnseq.attic is not in ARROWS: add it there"),
    ],
)
def test_a_forbidden_arrow_is_found(room: str, source: str, complaint: str) -> None:
    (found,) = broken_arrows(source, room, set(ARROWS))
    assert complaint in found


def test_an_allowed_arrow_is_not() -> None:
    assert broken_arrows("import torch\nfrom .weight_norm import weight_norm", "names", set(ARROWS)) == []
    assert broken_arrows("from .rnn import WNLSTM\nfrom wnseq.functional import decompose", "", set(ARROWS)) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("rnn", "import lightning"),
        ("rnn", "import numpy as np"),
        ("", "from matplotlib import pyplot"),
        ("data.text", "from matplotlib import pyplot"),
        ("training.plots", "import torchtext.data"),
    ],
)
def test_a_foreign_library_is_found(room: str, source: str) -> None:
    (found,) = strangers(source, room)
    assert source.split()[1].split(".")[0] in found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_a_recipe(path: Path) -> None:
    package = ".".join(path.parent.relative_to(ROOT).parts)
    assert imported_recipes(path.read_text("utf-8"), package) == []


@pytest.mark.parametrize(
    "source",
    [
        "from recipes.language_model import LanguageModel",
        "from wnseq.recipes import language_model",
        "import wnseq.recipes.language_model as lm",
        "from .language_model import LanguageModel",
    ],
)
def test_an_imported_recipe_is_found(source: str) -> None:
    assert len(imported_recipes(source, "recipes")) == 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    lines = code_lines(path.read_text("utf-8"))
    assert lines <= LONGEST, f"{path.name} has {lines} lines of code: it is two rooms"


def test_lines_of_code_are_counted_without_prose() -> None:
    source = '''"""A module.

    Two lines of it.
    """

import math  # why


def f(x):
    """One line."""
    # a comment alone

    text = """a string that is
    no docstring"""
    return math.sqrt(
        x
    ), text
'''
    assert code_lines(source) == 7
    assert code_lines("x = 1\n" * (LONGEST + 1)) > LONGEST


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__init__.py"], ids=lambda path: path.name)
def test_a_file_has_its_tests(path: Path) -> None:
    assert (ROOT / "tests" / place_of_tests(path)).is_file(), f"tests/{place_of_tests(path)} is missing"


def test_tests_mirror_the_tree() -> None:
    assert place_of_tests(ROOT / "wnseq/rnn.py") == Path("test_rnn.py")
    assert place_of_tests(ROOT / "wnseq/data/text.py") == Path("data/test_text.py")
    assert place_of_tests(ROOT / "recipes/attic.py") == Path("recipes/test_attic.py")
    assert not (ROOT / "tests" / place_of_tests(ROOT / "recipes/attic.py")).exists()


def test_every_file_has_a_name() -> None:
    files = [
        path.relative_to(ROOT) for folder in ("wnseq", "recipes", "tests") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [path for path in files if nameless(path)] == []


@pytest.mark.parametrize("path", ["wnseq/utils.py", "wnseq/_utils.py", "tests/helpers.py", "wnseq/common/rnn.py"])
def test_a_nameless_file_is_found(path: str) -> None:
    assert nameless(Path(path))
