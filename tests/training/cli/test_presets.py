"""Presets: every file parses, states what it gives, and is found by its name."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from wnseq.training.checkpoint_files import load_run_checkpoint
from wnseq.training.cli import presets
from wnseq.training.cli.presets import expand_preset_names, find_presets

FILES = sorted((Path(__file__).parents[3] / "recipes/presets").glob("*/*.yaml"))


def test_those_that_a_newcomer_looks_for_are_there() -> None:
    assert {"book", "ptb", "shakespeare", "small-text", "wikitext-2"} <= find_presets("language_model").keys()
    assert "mnist" in find_presets("vae") and "cifar10" in find_presets("image_classifier")
    assert find_presets("compare") == {}
    assert sorted(
        path for recipe in {file.parent.name for file in FILES} for path in find_presets(recipe).values()
    ) == [path.resolve() for path in FILES]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_preset_is_what_its_recipe_takes(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        import_module(f"wnseq.recipes.{file.parent.name}").main(["fit", "--config", file.stem, "--print_config"])
    printed = capsys.readouterr()
    assert done.value.code == 0, printed.err
    parsed, given = yaml.safe_load(printed.out), yaml.safe_load(file.read_text("utf-8"))
    assert_has(parsed, given)
    comment = "".join(line for line in file.read_text("utf-8").splitlines() if line.startswith("#"))
    assert any(words in comment for words in ("minutes", "seconds", "not measured"))


def assert_has(parsed: Any, given: Any) -> None:
    """Check that options were parsed as a file gives them; of those in a mapping it need not give all."""
    if isinstance(given, dict):
        for name, options in given.items():
            assert_has(parsed[name], options)
    elif isinstance(given, list):
        assert len(parsed) == len(given)
        for one, other in zip(parsed, given, strict=True):
            assert_has(one, other)
    else:
        assert parsed == given


@pytest.fixture
def toy_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes with two presets of the toy recipe."""
    folder = tmp_path / "toy_recipes/presets/toy"
    folder.mkdir(parents=True)
    (folder.parents[1] / "__init__.py").touch()
    (folder / "wide.yaml").write_text("model:\n  width: 9\n")
    (folder / "narrow.yaml").write_text("model:\n  width: 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(presets, "RECIPES", "toy_recipes")
    return folder


def test_a_name_becomes_the_path(toy_presets: Path, here: Path) -> None:
    words = ["fit", "-c", "wide", "--config=narrow", "--config", "mine.yaml", "--model.cell", "wide"]
    wide, narrow = (str(toy_presets / f"{name}.yaml") for name in ("wide", "narrow"))
    expected = ["fit", "-c", wide, f"--config={narrow}", "--config", "mine.yaml", "--model.cell", "wide"]
    assert expand_preset_names(words, "toy") == expected
    Path("narrow").mkdir()
    assert expand_preset_names(["--config", "narrow"], "toy") == ["--config", narrow]
    Path("wide").write_text("model:\n  width: 3\n")
    assert expand_preset_names(["--config", "wide"], "toy") == ["--config", "wide"]


def test_a_preset_is_taken_and_a_flag_after_it_wins(
    toy_presets: Path, main: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, width in ([], 9), (["--model.width", "2"], 2):
        with pytest.raises(SystemExit):
            main("--config", "wide", *words, "--print_config")
        assert f"width: {width}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main("--help")
    assert "Presets, taken by --config NAME: narrow, wide." in " ".join(capsys.readouterr().out.split())


def test_the_command_that_resumes_has_the_name(
    toy_presets: Path, main: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    stop = ["--trainer.callbacks+=toy.StopAt", "--trainer.callbacks.step=3"]
    with pytest.raises(SystemExit):
        main("--config", "wide", *stop)
    assert "toy fit --config wide --trainer" in capsys.readouterr().out
    last = load_run_checkpoint(Path("runs/toy/1/checkpoints/last.ckpt"))
    assert last["hyper_parameters"]["width"] == 9


def test_a_name_that_is_neither_is_refused(toy_presets: Path, fails: Callable[..., str]) -> None:
    assert "--config wid: there is no such file or preset. The presets of toy are narrow, wide. Did you mean wide?" in (
        fails(1, "--config", "wid")
    )
    with pytest.raises(ValueError, match=r"--config wide: there is no such file or preset\. other has no presets\."):
        expand_preset_names(["--config", "wide"], "other")


def test_without_recipes_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "RECIPES", "wnseq.none")
    assert find_presets("toy") == {}
