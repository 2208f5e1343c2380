"""The labelled text inside Python: whole modules are held out."""

from pathlib import Path

import pytest

from wnseq.data.text import python_docs as module
from wnseq.data.text.python_docs import MODULES, PARTS, python_docs


def test_no_module_and_no_text_is_in_two_parts() -> None:
    parts = python_docs()
    files = {part: {row.origin.partition(":")[0] for row in parts[part]} for part in PARTS}
    texts = {part: {row.text for row in parts[part]} for part in PARTS}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not files[one] & files[other] and not texts[one] & texts[other]
        assert {row.label for row in parts[one]} == {row.label for row in parts[other]} <= set(MODULES)
    assert len(parts["train"]) > 1500 and len(parts["test"]) > 300
    row = next(row for row in parts["test"] if row.origin.startswith("fractions.py") and row.text.startswith("limit_"))
    assert row.text.startswith("limit_denominator(max_denominator) Closest Fraction to self with denominator at most")
    assert row.label == "numbers and dates"


def test_a_python_in_a_folder_of_tests_has_the_same_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = python_docs()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "lib").symlink_to(module.sysconfig.get_path("stdlib"))
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path / "test" / "lib"))
    assert python_docs() == expected


def test_a_class_that_a_python_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"files": ("glob", "fnmatch", "filecmp"), "testing": ("timeit", "trace", "pdb"), "none": ("no_such",) * 3}
    monkeypatch.setattr(module, "MODULES", few)
    assert {row.label for rows in python_docs().values() for row in rows} == {"files", "testing"}


def test_a_python_without_sources_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"ships without the sources .*--data\.dataset"):
        python_docs()
