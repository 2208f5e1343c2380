"""The wheel carries the library, the recipes as ``wnseq.recipes``, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def copy_of_the_clone(folder: Path) -> Path:
    """Copy what a build reads, since setuptools would leave its working folders in the tree."""
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for name in ("wnseq", "recipes", "tests"):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = folder / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel."""
    work = copy_of_the_clone(tmp_path_factory.mktemp("wheel") / "clone")
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
    presets = {f"wnseq/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert modules | recipes | presets | {"wnseq/py.typed"} <= set(wheel.namelist())
    assert "wnseq/recipes/language_model.py" in recipes
    assert "wnseq/recipes/presets/language_model/shakespeare.yaml" in presets


def test_the_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    outside = [name for name in wheel.namelist() if not name.startswith("wnseq/")]
    assert all(name.startswith("wnseq-") and ".dist-info/" in name for name in outside)
    inside = [name for name in wheel.namelist() if name.startswith("wnseq/")]
    assert [name for name in inside if not name.endswith((".py", "/py.typed", ".yaml"))] == []


def test_the_wheel_installs_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert "wnseq = wnseq.training.cli.command:main" in wheel.read(entry_points).decode()
    (licence,) = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clone called wnseq, and beside it ``site``, which holds what an editable install of it adds."""
    folder = tmp_path_factory.mktemp("code")
    clone = copy_of_the_clone(folder / "wnseq")
    build = "import setuptools.build_meta as backend; print(backend.build_editable('dist'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=clone, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = clone.glob("dist/*.whl")
    zipfile.ZipFile(path).extractall(folder / "site")
    return folder


def installed(parent: Path) -> str:
    """Return lines that install the clone in this process alone, instead of the one that the tests run with."""
    place = str(parent / "site")
    return f"""
import site, sys
sys.modules.pop("_wnseq_editable", None)
sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__module__", "") != "_wnseq_editable"]
sys.path.insert(0, {place!r})
site.addsitedir({place!r})
"""


def found_from(folder: Path, parent: Path, extra: str = "") -> list[Path]:
    """Return the files of the library and of a recipe, as a program in a folder finds them."""
    program = f"{installed(parent)}{extra}\nimport wnseq, wnseq.recipes.compare as c"
    program += "\nfrom wnseq import WNLSTM\nprint(wnseq.__file__, c.__file__, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [Path(line).resolve() for line in done.stdout.splitlines()]


def test_an_editable_install_is_found_from_any_folder(parent: Path, tmp_path: Path) -> None:
    clone = (parent / "wnseq").resolve()
    source = [clone / "wnseq/__init__.py", clone / "recipes/compare.py"]
    for folder in (parent, clone, clone / "tests", tmp_path):  # in the first, a folder called wnseq is on the path
        assert found_from(folder, parent) == source


def test_another_clone_is_found_from_inside_it(parent: Path, tmp_path: Path) -> None:
    other = copy_of_the_clone(tmp_path / "wnseq")
    assert found_from(other, parent) == [other / "wnseq/__init__.py", other / "recipes/compare.py"]


def test_an_editable_install_whose_clone_is_gone_finds_nothing(parent: Path, tmp_path: Path) -> None:
    program = f"{installed(parent)}import _wnseq_editable as editable\n"
    program += "editable.CLONE = 'gone'\nassert editable.Finder.find_spec('wnseq') is None"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
