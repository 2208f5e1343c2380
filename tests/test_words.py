"""The words of the project: plain English and the field's terms, in code, pages and error texts."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("wnseq", "recipes") for path in (ROOT / folder).rglob("*.py"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

OPENINGS = re.compile(r"(Take|Tell|Say|Put|Give|Let|Lay|Go)\b")  # of a docstring: say what it does or returns
WORDS = {
    r"anew": "again, or: new",
    r"likewise": "also, or the thing itself",
    r"twins?": "counterpart, or reference",
    r"theirs": "torch's",
    r"ask(?:s|ed)? for it": "the thing itself",
    r"what \w+(?: \w+)? asks for": "the thing itself",
    r"(?:is|are|was|were) to be": "must be, will be, or the plain verb",
    r"tells? whether": "return True if",
    r"whosoever|whence|thereof|therein|hereby": "a plain word",
}
WORD = re.compile(r"\b(?:" + "|".join(f"(?P<w{n}>{word})" for n, word in enumerate(WORDS)) + r")\b", re.I)


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments and the strings of a source, docstrings and error texts among them, line by line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING} or "FSTRING" in tokenize.tok_name[token.type]:
            for number, line in enumerate(token.string.split("\n")):
                yield token.start[0] + number, line


def unplain(lines: Iterator[tuple[int, str]]) -> list[str]:
    """Complain about each word of the list."""
    return [
        f"line {number}: {match[0]!r}; write {list(WORDS.values())[int((match.lastgroup or 'w0')[1:])]}"
        for number, line in lines
        for match in WORD.finditer(line)
    ]


def odd_openings(source: str) -> list[str]:
    """Complain about each docstring that opens with a word of the list."""
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, nodes)]
    return [text.partition("\n")[0] for text in texts if OPENINGS.match(text)]


def odd_predicates(source: str) -> list[str]:
    """Complain about each predicate whose docstring does not begin "Return True if"."""
    return [
        f"{node.name}: {text.partition(chr(10))[0]}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and node.returns.id == "bool"
        and (text := ast.get_docstring(node))
        and "return true if" not in text.partition("\n\n")[0].lower()  # an action may say it at its end
    ]


def test_sources_are_in_plain_words() -> None:
    for path in SOURCES:
        source = path.read_text("utf-8")
        assert unplain(prose(source)) + odd_openings(source) + odd_predicates(source) == [], path


def test_pages_are_in_plain_words() -> None:
    for path in PAGES:
        assert unplain(enumerate(path.read_text("utf-8").split("\n"), 1)) == [], path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('x = 1  # drawn anew\n"""no twin"""', 2),
        ('raise ValueError(f"{x} is to be {y}")', 1),
        ("anew = 1", 0),
    ],
)
def test_an_odd_word_is_found(source: str, found: int) -> None:
    assert len(unplain(prose(source))) == found


def test_an_odd_docstring_is_found() -> None:
    assert odd_openings('def f():\n    """Tell the time."""') == ["Tell the time."]
    assert odd_openings('def f():\n    """Telling."""') == []
    assert len(odd_predicates('def f() -> bool:\n    """Whether it is."""')) == 1
    assert odd_predicates('def f() -> bool:\n    """Return True if it is."""') == []
