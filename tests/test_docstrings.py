"""Every example in a docstring runs, and every docstring keeps the order of its sections."""

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("wnseq", "recipes") for path in (ROOT / folder).rglob("*.py"))
WITH_EXAMPLES = [path for path in FILES if ">>> " in path.read_text("utf-8")]
ORDER = ["Args", "Shape", "Returns", "Raises", "State", "Note", "Example", "Source"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([*(["wnseq"] if parts[0] == "recipes" else []), *(p for p in parts if p != "__init__")])


def docstrings(source: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, ast.get_docstring(node) or ""


def misordered(source: str) -> list[str]:
    """Complain of each docstring whose sections do not stand in the order of the house."""
    complaints = []
    for name, text in docstrings(source):
        found = [section for section in re.findall(r"^(\w+):$", text, re.M) if section in ORDER]
        if found != sorted(set(found), key=ORDER.index):
            complaints.append(f"{name}: {', '.join(found)}")
    return complaints


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_name)
def test_examples(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(module_name(path)), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0, "see the captured output"


def test_a_wrong_example_fails() -> None:
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example, out=lambda _: None).failed == 1


def test_sections_stand_in_order() -> None:
    for path in FILES:
        assert misordered(path.read_text("utf-8")) == [], path


def test_a_misplaced_section_is_found() -> None:
    source = '''
def f(x):
    """Double a number.

    Returns:
        Its double.

    Args:
        x: A number.
    """
'''
    assert misordered(source) == ["f: Returns, Args"]
