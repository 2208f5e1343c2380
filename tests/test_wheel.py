"""The wheel carries the library, the recipes as ``wnseq.recipes``, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy, since setuptools would leave its working folders in the tree."""
    work = tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (work / name).write_bytes((ROOT / name).read_bytes())
    for folder in ("wnseq", "recipes", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = work / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        work,
        work,
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = work.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_module_and_recipe(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "wnseq").rglob("*.py")}
    recipes = {f"wnseq/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py")}
    assert modules | recipes | {"wnseq/py.typed"} <= set(wheel.namelist())
    assert "wnseq/recipes/language_model.py" in recipes


def test_the_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    outside = [name for name in wheel.namelist() if not name.startswith("wnseq/")]
    assert all(name.startswith("wnseq-") and ".dist-info/" in name for name in outside)
    inside = [name for name in wheel.namelist() if name.startswith("wnseq/")]
    assert [name for name in inside if not name.endswith((".py", "/py.typed"))] == []


def test_the_wheel_installs_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert "wnseq = wnseq.training.cli.command:main" in wheel.read(entry_points).decode()
    (licence,) = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
