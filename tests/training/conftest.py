"""The toy recipe, in a folder of its own."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy", TOY)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module  # where `--trainer.callbacks toy.StopAt` is looked up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def main(toy: ModuleType, here: Path) -> Callable[..., dict[str, float]]:
    """The toy recipe's main, taking the words of a command line."""
    return lambda *words: toy.main(list(words))


@pytest.fixture
def fails(main: Callable[..., dict[str, float]], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that must end with a status, and return the error it prints."""

    def run(status: int, *words: str) -> str:
        with pytest.raises(SystemExit) as exit:
            main(*words)
        assert exit.value.code == status
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    return run


@pytest.fixture(scope="session")
def finished(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A folder with one finished run of the toy recipe, and what its main returned."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, toy.main([])


@pytest.fixture
def after(finished: tuple[Path, dict[str, float]], here: Path) -> dict[str, float]:
    """A copy of the finished run in the folder of this test; its metrics."""
    shutil.copytree(finished[0] / "runs", here / "runs")
    return finished[1]
