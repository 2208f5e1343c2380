"""The wnseq command."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import forked
import pytest

import wnseq
from wnseq.training.cli import command


@pytest.fixture(autouse=True)
def toy_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small recipes instead of the real ones."""
    folder = tmp_path / "wnseq_recipes"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Not a recipe."""\n')
    (folder / "sums.py").write_text('"""Adds numbers.\n\nMore."""\nraise RuntimeError("listing runs nothing")\n')
    (folder / "echo.py").write_text('"""Prints what it got."""\nimport sys\n\ndef main():\n    print(sys.argv)\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(command, "RECIPES", "wnseq_recipes")
    monkeypatch.setattr(sys, "argv", ["wnseq"])
    yield folder
    for name in [name for name in sys.modules if name.startswith("wnseq_recipes")]:
        del sys.modules[name]


@pytest.mark.parametrize("argv", [[], ["list"]])
def test_it_lists_the_recipes_by_the_first_line_of_their_docstrings(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(argv) == 0
    assert capsys.readouterr().out.startswith("echo  Prints what it got.\nsums  Adds numbers.\n\nwnseq run NAME")


def test_the_real_recipes_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RECIPES", "wnseq.recipes")
    found = command.find_recipes()
    assert "language_model" in found
    assert all(command.read_summary(source).endswith(".") for source in found.values())


def test_it_runs_a_recipe_with_every_word_after_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", "echo", "fit", "--help", "-c", "a b"]) == 0
    assert capsys.readouterr().out == "['wnseq run echo', 'fit', '--help', '-c', 'a b']\n"
    assert sys.argv == ["wnseq"]


def test_it_copies_a_recipe_out(tmp_path: Path, toy_recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.py"
    assert command.main(["copy", "echo", str(target)]) == 0
    assert target.read_bytes() == (toy_recipes / "echo.py").read_bytes()
    assert capsys.readouterr().out == f"copied to {target}; run it with: python {target}\n"


def test_a_path_may_begin_at_the_home_folder(
    tmp_path: Path, toy_recipes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.main(["copy", "echo", "~/mine.py"]) == 0
    assert (tmp_path / "mine.py").is_file()
    assert command.main(["checkpoint", "~/none.pt", "~/out.pt", "--fold"]) == 1
    assert f"{tmp_path / 'none.pt'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("taken.py", "taken.py is there already and is left alone. Choose another name."),
        ("none/mine.py", "there is no folder none to copy echo.py to. Make it first."),
        (".", ". is a folder. Name the file to write, such as echo.py."),
    ],
)
def test_it_copies_over_nothing(
    file: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.py").write_text("mine")
    assert command.main(["copy", "echo", file]) == 1
    assert capsys.readouterr().err == f"wnseq: error: {said}\n"
    assert Path("taken.py").read_text() == "mine"


@pytest.mark.parametrize(("name", "said"), [("ecko", "Did you mean echo?"), ("x", "There are: echo, sums.")])
@pytest.mark.parametrize("words", [["run"], ["copy"]], ids=["run", "copy"])
def test_the_nearest_recipe_is_suggested(
    words: list[str], name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*words, name, "file.py"]) == 2
    assert capsys.readouterr().err == f"wnseq: error: there is no recipe {name!r}. {said}\n"


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--version"], 0, f"wnseq {wnseq.__version__}\n"),
        (["--help"], 0, "copy a recipe to a file of your own"),
        (["run", "--help"], 0, "usage: wnseq run"),
        (["run"], 2, "the following arguments are required: name"),
        (["rnu"], 2, "invalid choice: 'rnu' (choose from"),
    ],
)
def test_the_command_explains_itself(
    argv: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        command.main(argv)
    assert exit.value.code == status
    assert said in "".join(capsys.readouterr())


def test_a_source_folder_that_hides_the_installed_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RECIPES", "wnseq.none")
    assert command.main([]) == 1
    assert "has no recipes: it is a source folder that hides the installed package. Start" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_mistake() -> None:
    words = f"set -o pipefail; {shlex.quote(sys.executable)} -m wnseq list | true"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_reader_that_leaves_the_help_of_a_recipe_is_no_mistake(tmp_path: Path) -> None:
    code = "from wnseq.recipes.language_model import main; main()"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as output, (tmp_path / "said.txt").open("w+") as said:
        status = forked.Popen([sys.executable, "-c", code, "fit", "--help"], stdout=output, stderr=said).wait()
        assert (status, (tmp_path / "said.txt").read_text()) == (0, "")
