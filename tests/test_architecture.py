"""The rules of the layout, read from the source: which package imports which, which libraries each may use, what is
public, how large a file may grow.

Each rule is a function from source text to complaints. Beside each test that the tree has none is one that shows the
rule complaining about a made-up source.
"""

import ast
import importlib
import io
import pkgutil
import re
import statistics
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import wnseq

ROOT = Path(__file__).parent.parent

# package or file -> those it may import; what is not drawn is forbidden
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "_checksums": set(),
    "_files": set(),
    "_rows": set(),
    "_command_start": set(),
    "_torch_internals": set(),
    "adaptation": set(),
    "functional": set(),
    "state_dict": {"functional"},
    "distributions": set(),
    "pixelcnn": set(),
    "data": {"_rows"},
    "_recurrence": set(),
    "losses": {"_recurrence"},
    "distillation": {"losses"},
    "_onnx_steps": set(),
    "onnx": {"_onnx_steps", "_recurrence"},
    "nn": {"_recurrence", "functional", "state_dict"},
    "convert": {"functional", "nn", "state_dict"},
    "optim": {"functional", "nn", "state_dict"},
    "init": {"_recurrence", "convert", "functional", "nn"},
    "__main__": {"training"},
    "training": {"_recurrence", "_rows", "adaptation", "convert", "distillation", "functional", "init", "nn", "onnx"}
    | {"optim", "state_dict"},
}
EVERYWHERE = {"errors", "_checksums", "_files", "_torch_internals"}
FLOORS = 7

# package or file -> the libraries it may import besides the standard library; the others may import torch alone
LIBRARIES: dict[str, set[str]] = {
    "_onnx_steps": {"onnxscript"},
    "onnx": {"onnxruntime", "onnxscript", "torch"},  # the first two imported only where they are used
    "data": {
        "PIL",
        "charset_normalizer",
        "filelock",
        "gymnasium",
        "lightning",
        "numpy",
        "pooch",
        "sentencepiece",
        "sklearn",
        "torch",
        "torchtext",
        "tqdm",
    },
    "training": {"jsonargparse", "lightning", "matplotlib", "numpy", "rich", "torch", "yaml"},
}

LONGEST = 400  # lines of a file of the library, docstrings counted; lines of code of a recipe
MEDIAN = 150  # lines of the files of the library
DOCSTRINGS = 0.25  # share of the library's lines
NAMELESS = {"common", "helper", "helpers", "misc", "util", "utils"}

# source -> its test file, where that is not the file of the same name
TESTED_ELSEWHERE: dict[str, str] = {"_onnx_steps.py": "test_onnx.py"}


def modules_of_the_library() -> dict[str, Path]:
    """Map the dotted name of each module, without ``wnseq.``, to its file; a package has the name of its folder."""
    found = {}
    for path in sorted((ROOT / "wnseq").rglob("*.py")):
        parts = path.relative_to(ROOT / "wnseq").with_suffix("").parts
        if parts[0] != "recipes":
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules_of_the_library()
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
SOURCES = [*MODULES.values(), *RECIPES]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def unit(module: str) -> str:
    """Return the package or the single file that a dotted name belongs to."""
    return module.partition(".")[0]


def imports(source: str, package: str) -> Iterator[str]:
    """Yield what a module inside ``package`` imports, each name in full, wherever in the file the import is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_of(module: str) -> str:
    """Return the package that relative imports of a module start from."""
    path = MODULES.get(module)
    inside = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    return f"wnseq.{inside}".rstrip(".")


def imported_modules(source: str, module: str) -> Iterator[tuple[str, str]]:
    """Yield each name that is imported from the library, and the module it is in."""
    for name in imports(source, package_of(module)):
        if name.split(".")[0] == "wnseq":
            target = name.removeprefix("wnseq").removeprefix(".")
            while target and target not in MODULES:
                target = target.rpartition(".")[0]
            yield name, target


def broken_arrows(source: str, module: str) -> list[str]:
    """Complain about each import of one package by another that the table does not draw."""
    own = unit(module)
    if not own:  # the list of public names
        return []
    if own not in ARROWS:
        return [f"wnseq.{own} is not in ARROWS: add it there, with the packages it may import"]
    return [
        f"wnseq.{module} imports {name}, and ARROWS does not draw {own} → {unit(target) or 'wnseq itself'}"
        for name, target in imported_modules(source, module)
        if unit(target) not in {own, *EVERYWHERE, *ARROWS[own]} and (target or own != "training")  # its version
    ]


def foreign_libraries(source: str, module: str) -> list[str]:
    """Complain about each library that a package may not import."""
    libraries = LIBRARIES.get(unit(module), {"torch"})
    allowed = {"wnseq", *sys.stdlib_module_names, *libraries}
    return [
        f"wnseq.{module} imports {name}: wnseq.{unit(module)} may import {', '.join(sorted(libraries))} only"
        for name in imports(source, package_of(module))
        if name.split(".")[0] not in allowed
    ]


def imported_recipes(source: str, package: str) -> list[str]:
    """Complain about each import of a recipe."""
    return [
        f"imports {name}: what two recipes need belongs in wnseq, and wnseq knows no recipe"
        for name in imports(source, package)
        if name.split(".")[0] == "recipes" or name.startswith("wnseq.recipes")
    ]


def private_imports(source: str) -> list[str]:
    """Complain about each import from wnseq with an underscore in its path, or of a name outside ``__all__``."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            path = f"{module}.{name}".rstrip(".")
            if path.split(".")[0] != "wnseq" or path.startswith("wnseq.recipes"):
                continue
            if any(part.startswith("_") for part in path.split(".")):
                complaints.append(f"imports {path}, which has an underscore in its path")
            elif name and path.removeprefix("wnseq.") not in MODULES and name not in public_names(module):
                complaints.append(f"imports {path}, which is not in {module}.__all__")
    return complaints


def public_names(module: str) -> list[str]:
    """Return the public names of a module."""
    loaded = importlib.import_module(module)
    return getattr(loaded, "__all__", [name for name in vars(loaded) if not name.startswith("_")])


def private_names_of_torch(source: str) -> list[str]:
    """Complain about each private name of torch: ``torch._C``, ``from torch.nn import _reduction``."""

    def is_private(name: str) -> bool:
        return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))

    tree, roots, complaints = ast.parse(source), {"torch"}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                if (base + alias.name).split(".")[0] == "torch":
                    roots.add((alias.asname or alias.name).split(".")[0])
                    if is_private(base + alias.name):
                        complaints.append(f"line {node.lineno}: imports {base}{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            below = node.value
            while isinstance(below, ast.Attribute):
                below = below.value
            if isinstance(below, ast.Name) and below.id in roots:
                complaints.append(f"line {node.lineno}: {ast.unparse(node)}")
    return complaints


def python_blocks(text: str) -> Iterator[str]:
    """Yield the Python of a Markdown page."""
    yield from re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


def docstring_lines(source: str) -> set[int]:
    """Return the numbers of the lines that are docstring."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if ast.get_docstring(node, clean=False) is not None and first is not None:
                lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def code_lines(source: str) -> int:
    """Count the lines of code: neither blank, nor comment alone, nor docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}:
            lines.update(range(token.start[0], token.end[0] + 1) if token.string else ())
    return len(lines - docstring_lines(source))


def test_file_of(source: Path) -> Path:
    """Return where the tests of a source file are, below the tests folder."""
    relative = source.relative_to(ROOT / "wnseq") if source.is_relative_to(ROOT / "wnseq") else source.relative_to(ROOT)
    if elsewhere := TESTED_ELSEWHERE.get(relative.as_posix()):
        return Path(elsewhere)
    folders = [part.removeprefix("_") for part in relative.parts[:-1]]
    return Path(*folders, f"test_{relative.name.removeprefix('_')}")


test_file_of.__test__ = False  # type: ignore[attr-defined]


def is_nameless(path: Path) -> bool:
    """Return True if a file or a folder on its way has a name that does not say what is in it."""
    return any(part.strip("_") in NAMELESS for part in path.with_suffix("").parts)


def complaints(rule: Callable[[str], list[str]], paths: Iterable[Path]) -> dict[str, list[str]]:
    """Return what a rule says of each source that breaks it."""
    found = {str(path.relative_to(ROOT)): rule(path.read_text("utf-8")) for path in paths}
    return {path: complaint for path, complaint in found.items() if complaint}


# ---- who imports whom


def test_a_module_imports_what_the_tables_allow() -> None:
    broken = []
    for module, path in MODULES.items():
        source = path.read_text("utf-8")
        broken += broken_arrows(source, module) + foreign_libraries(source, module)
    assert broken == []


def test_every_arrow_is_used() -> None:
    used: dict[str, set[str]] = {name: set() for name in ARROWS}
    for module, path in MODULES.items():
        for _, target in imported_modules(path.read_text("utf-8"), module) if module else ():
            used[unit(module)].add(unit(target))
    assert {name: sorted(targets - used[name]) for name, targets in ARROWS.items() if targets - used[name]} == {}


def test_the_arrows_run_one_way_over_few_floors() -> None:
    packages = {name: targets for name, targets in ARROWS.items() if name != "__main__"}  # a door, not a floor
    left, floors = {name: targets | (EVERYWHERE - {name}) for name, targets in packages.items()}, 0
    left |= {name: set() for name in EVERYWHERE}
    while ready := [name for name, targets in left.items() if not targets & set(left)]:
        floors += 1
        for name in ready:
            del left[name]
    assert left == {}, "these packages import each other in a circle"
    assert floors <= FLOORS


def packages_of(module: str) -> set[str]:
    """Return the packages that a module is in, whose ``__init__`` is imported before it."""
    parts = module.split(".")
    return {".".join(parts[:depth]) for depth in range(len(parts))}


def test_the_modules_import_each_other_in_no_circle() -> None:
    """Whichever of them is imported first."""
    left = {}
    for module, path in MODULES.items():
        targets = {target for _, target in imported_modules(path.read_text("utf-8"), module)}
        left[module] = targets.union(*map(packages_of, targets)) - packages_of(module) - {module}
    while ready := [module for module, targets in left.items() if not targets & set(left)]:
        for module in ready:
            del left[module]
    assert left == {}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("functional", "from wnseq.nn._rnn import WNLSTM", "imports wnseq.nn._rnn.WNLSTM"),
        ("functional", "from .nn import WNLSTM", "imports wnseq.nn.WNLSTM"),
        ("functional", "def f():\n    import wnseq.nn", "imports wnseq.nn"),
        ("functional", "from . import nn", "imports wnseq.nn"),
        ("functional", "from wnseq import WNLSTM", "imports wnseq.WNLSTM"),
        ("data.text.stream", "from ...nn import WNLSTM", "imports wnseq.nn.WNLSTM"),
        ("attic", "import torch", "wnseq.attic is not in ARROWS: add it there"),
    ],
)
def test_a_forbidden_arrow_is_found(module: str, source: str, complaint: str) -> None:
    (found,) = broken_arrows(source, module)
    assert complaint in found


def test_an_allowed_arrow_is_not() -> None:
    source = "import torch\nfrom .functional import weight_norm\nfrom wnseq.errors import ShapeError"
    assert broken_arrows(source, "state_dict") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nn._rnn", "import lightning"),
        ("nn._rnn", "import numpy as np"),
        ("functional", "from matplotlib import pyplot"),
        ("data.text.stream", "from matplotlib import pyplot"),
        ("training.plots", "import torchtext.data"),
    ],
)
def test_a_foreign_library_is_found(module: str, source: str) -> None:
    (found,) = foreign_libraries(source, module)
    assert source.split()[1].split(".")[0] in found


def test_nothing_imports_a_recipe() -> None:
    for path in SOURCES:
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert imported_recipes(path.read_text("utf-8"), package) == [], path


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


# ---- public and internal


def test_a_recipe_imports_public_names() -> None:
    assert complaints(private_imports, RECIPES) == {}


def test_a_page_imports_public_names() -> None:
    def rule(page: str) -> list[str]:
        return [found for block in python_blocks(page) for found in private_imports(block)]

    assert complaints(rule, PAGES) == {}


@pytest.mark.parametrize(
    "source",
    [
        "from wnseq.nn._rnn import WNLSTM",
        "import wnseq._recurrence.steps",
        "from wnseq._recurrence import steps",
        "from wnseq.nn import Tensor",
    ],
)
def test_a_private_import_is_found(source: str) -> None:
    assert len(private_imports(source)) == 1


def test_a_public_import_is_not() -> None:
    source = "from wnseq import WNLSTM\nfrom wnseq.nn import WNGRU\nfrom wnseq.training import plots\nimport torch"
    assert private_imports(source) == []
    assert list(python_blocks("text\n```python\nimport wnseq\n```\n```sh\nls\n```\n")) == ["import wnseq\n"]


def test_the_top_level_shows_public_names_only() -> None:
    shown = {name for name in dir(wnseq) if not name.startswith("__")}
    modules = {path.stem for path in Path(wnseq.__file__).parent.iterdir() if not path.stem.startswith("_")}
    assert set(wnseq.__all__) <= shown <= {*wnseq.__all__, *modules, "recipes"}


def packages() -> Iterator[ModuleType]:
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            yield importlib.import_module(f"wnseq.{module}".rstrip("."))


def test_a_list_of_public_names_is_true() -> None:
    for package in packages():
        names = getattr(package, "__all__", [])
        assert sorted(set(names)) == sorted(names)
        assert [name for name in names if not hasattr(package, name)] == []


def test_no_module_is_hidden_by_a_name_of_its_package() -> None:
    for package in packages():
        for module in pkgutil.iter_modules(package.__path__):
            imported = importlib.import_module(f"{package.__name__}.{module.name}")
            assert getattr(package, module.name) is imported


def test_private_names_of_torch_are_in_one_file() -> None:
    others = [path for path in SOURCES if path.name != "_torch_internals.py"]
    assert complaints(private_names_of_torch, others) == {}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch._C._get_tracing_state()",
        "from torch.autograd import forward_ad\nforward_ad._current_level",
        "from torch.nn.utils.parametrizations import _WeightNorm",
        "import torch.nn as nn\nnn.modules.batchnorm._BatchNorm",
    ],
)
def test_a_private_name_of_torch_is_found(source: str) -> None:
    assert private_names_of_torch(source)


def test_a_public_name_of_torch_is_not() -> None:
    assert private_names_of_torch("import torch\ntorch.jit.is_tracing()\ntorch.__version__\nself._weights") == []


# ---- sizes


def test_a_file_of_the_library_is_one_idea() -> None:
    for path in MODULES.values():
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= LONGEST, f"{path} has {lines} lines: it is two files"


def test_a_recipe_can_be_read_in_one_go() -> None:
    lines = {path.name: code_lines(path.read_text("utf-8")) for path in RECIPES}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_the_library_is_small_files_with_short_docstrings() -> None:
    sources = [path.read_text("utf-8") for path in MODULES.values()]
    lines = [len(source.splitlines()) for source in sources]
    assert statistics.median(lines) <= MEDIAN
    assert sum(len(docstring_lines(source)) for source in sources) <= DOCSTRINGS * sum(lines)


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
    assert len(docstring_lines(source)) == 5
    assert code_lines("x = 1\n" * (LONGEST + 1)) > LONGEST


# ---- names


def test_a_file_has_its_tests() -> None:
    tests = [test_file_of(path) for path in SOURCES if path.name != "__init__.py"]
    assert [path for path in tests if not (ROOT / "tests" / path).is_file()] == []


def test_tests_mirror_the_tree() -> None:
    assert test_file_of(ROOT / "wnseq/nn/_rnn.py") == Path("nn/test_rnn.py")
    assert test_file_of(ROOT / "wnseq/_recurrence/call.py") == Path("recurrence/test_call.py")
    assert test_file_of(ROOT / "wnseq/data/text/stream.py") == Path("data/text/test_stream.py")
    assert test_file_of(ROOT / "recipes/attic.py") == Path("recipes/test_attic.py")
    assert not (ROOT / "tests" / test_file_of(ROOT / "recipes/attic.py")).exists()
    assert sorted(name for name in TESTED_ELSEWHERE if not (ROOT / "wnseq" / name).is_file()) == []


def test_every_file_has_a_name() -> None:
    files = [
        path.relative_to(ROOT) for folder in ("wnseq", "recipes", "tests") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [path for path in files if is_nameless(path)] == []


@pytest.mark.parametrize("path", ["wnseq/utils.py", "wnseq/_utils.py", "tests/helpers.py", "wnseq/common/rnn.py"])
def test_a_nameless_file_is_found(path: str) -> None:
    assert is_nameless(Path(path))
