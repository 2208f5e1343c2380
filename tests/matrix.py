"""Tests wnseq with other versions of Python and torch, and writes the outcome into docs/compatibility.md.

Run ``python tests/matrix.py 3.12 2.11.0`` from the root of the repository, followed by pytest's arguments if not all
tests are to run. Each pair gets a fresh environment with the newest releases of all other packages, and a copy of the
tree whose setup.py allows that torch; both go at the end: 6 GB where pip takes torch with CUDA.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
HEADING = "## Versions"
TABLE = ["| Python | torch | tests | outcome |", "| --- | --- | --- | --- |"]
TORCH = re.compile(r'"torch[<>=][^"]*"')  # the requirement in setup.py
SUMMARY = re.compile(r"\d+ (passed|failed|errors?|skipped|deselected)\b.* in [\d.]+s")  # libraries write after it


def find_python(version: str) -> str:
    """Return an interpreter of a version such as 3.12: one on the path that runs, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    raise SystemExit(f"there is no Python {version}; install it, as with pyenv install {version}")


def copy_tree(to: Path, torch: str) -> None:
    """Copy what git would keep, with a requirement of one torch."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name)
    setup = to / "setup.py"
    source, count = TORCH.subn(f'"torch=={torch}"', setup.read_text("utf-8"))
    if count != 1:
        raise SystemExit(f"setup.py has {count} requirements of torch, not one")
    setup.write_text(source, "utf-8")


def test_pair(python: str, torch: str, arguments: list[str]) -> str:
    """Install and test one pair; return its row of the table."""
    with tempfile.TemporaryDirectory(prefix="wnseq-matrix-") as folder:
        tree, own = Path(folder) / "tree", Path(folder) / "venv/bin/python"
        copy_tree(tree, torch)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        commands = [
            [find_python(python), "-m", "venv", own.parent.parent],
            [own, "-m", "pip", "install", "-q", "-e", ".[test]"],
        ]
        for command in commands:
            subprocess.run(command, cwd=tree, env=environment, check=True)
        versions = "import platform, torch; print(platform.python_version(), torch.__version__)"
        found = subprocess.run([own, "-c", versions], cwd=tree, env=environment, capture_output=True, text=True)
        environment |= {"WNSEQ_CACHE": str(Path(folder) / "cache"), "MPLBACKEND": "Agg"}
        command = [own, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
        last = ""
        for line in done.stdout or ():
            print(line, end="", flush=True)
            last = line if SUMMARY.search(line) else last
    return table_row(found.stdout.split(), arguments, last)


def table_row(versions: list[str], arguments: list[str], summary: str) -> str:
    """Return the row of a pair from the last line that pytest wrote."""
    outcome = re.sub(r"\d{4,}", lambda number: f"{int(number[0]):,}", summary.strip("= ").partition(" in ")[0])
    tests = ", ".join(f"`{each}`" for each in arguments if not each.startswith("-")) or "all"
    return f"| {' | '.join(versions)} | {tests} | {outcome} |"


def section(page: str) -> list[str]:
    """Return the lines of the page's section of versions."""
    return (HEADING + page.split(HEADING, 1)[1].partition("\n## ")[0]).rstrip("\n").splitlines()


def with_row(page: str, row: str) -> str:
    """Return the page with a row in its table of versions, instead of that of the same pair."""
    lines = section(page)
    first = lines.index(TABLE[1]) + 1
    pair = row.split(" | ")[:2]
    rows = sorted([row, *(each for each in lines[first:] if each.split(" | ")[:2] != pair)], key=_numbers)
    return page.replace("\n".join(lines), "\n".join([*lines[:first], *rows]))


def _numbers(row: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", " ".join(row.split(" | ")[:2]))]


def main(arguments: list[str]) -> None:
    """Test one pair."""
    if len(arguments) < 2:
        raise SystemExit(__doc__)
    python, torch, *others = arguments
    row = test_pair(python, torch, others)
    PAGE.write_text(with_row(PAGE.read_text("utf-8"), row), "utf-8")
    print(row)


if __name__ == "__main__":
    main(sys.argv[1:])
