"""The script that tests other versions: what it installs, and what it writes into the page."""

import subprocess
from pathlib import Path

import pytest
from matrix import PAGE, ROOT, SUMMARY, TABLE, TORCH, copy_tree, find_python, section, table_row, with_row

OLD = ["| 3.11.7 | 2.11.0+cu130 | all | 1 failed |", "| 3.12.1 | 2.13.0+cpu | all | 9 passed |"]
PAGE_BEFORE = "\n".join(["# What works", "", "## Versions", "", *TABLE, *OLD, "", "## Limits", "", "- none", ""])


def test_a_row_is_read_from_the_last_line_of_pytest() -> None:
    last = "=== 2 failed, 11344 passed, 204 skipped in 302.11s (0:05:02) ==="
    row = table_row(["3.12.1", "2.13.0+cu130"], ["tests/nn", "tests/init", "-x"], last)
    assert row == "| 3.12.1 | 2.13.0+cu130 | `tests/nn`, `tests/init` | 2 failed, 11,344 passed, 204 skipped |"
    assert " | all | " in table_row(["3.12.1", "2.13.0"], [], "1 passed in 0.1s")
    assert SUMMARY.search(last) and SUMMARY.search("1 passed in 0.1s") and SUMMARY.search("3 errors in 9.00s")
    assert not SUMMARY.search("nanobind: leaked 4 instances!")


def test_a_row_takes_the_place_of_that_of_its_pair_in_the_order_of_versions() -> None:
    again, between = "| 3.11.7 | 2.11.0+cu130 | all | 9 passed |", "| 3.11.7 | 2.13.0+cpu | all | 9 passed |"
    page = with_row(with_row(PAGE_BEFORE, between), again)
    assert section(page) == ["## Versions", "", *TABLE, again, between, OLD[1]]
    assert page.endswith("\n\n## Limits\n\n- none\n") and page.startswith("# What works\n\n## Versions")


def test_the_page_has_the_table() -> None:
    lines = section(PAGE.read_text("utf-8"))
    assert lines[-1] != TABLE[1] and TABLE[0] in lines


def test_the_copy_wants_one_torch(tmp_path: Path) -> None:
    if subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("the tree is no git repository")
    copy_tree(tmp_path, "2.99.0")
    assert TORCH.findall((tmp_path / "setup.py").read_text("utf-8")) == ['"torch==2.99.0"']
    assert (tmp_path / "wnseq/__init__.py").is_file() and (tmp_path / "tests/cases.py").is_file()


def test_a_python_that_is_missing_is_named() -> None:
    with pytest.raises(SystemExit, match=r"there is no Python 3\.99; install it, as with pyenv install 3\.99"):
        find_python("3.99")
