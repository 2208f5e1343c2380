"""A wrong option is answered by one line."""

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import callbacks

from wnseq.training.cli.parser import SYNONYMS

Main = Callable[..., dict[str, float]]
Fails = Callable[..., str]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--trainer.max_epoch", "3"],
            "toy fit: error: unknown option --trainer.max_epoch. Did you mean --trainer.max_epochs?",
        ),
        (["--model.cel=gru"], "toy fit: error: unknown option --model.cel. Did you mean --model.cell?"),
        (["test"], "toy test: error: test needs --ckpt_path: a file, or best or last of the newest run."),
        (["--lr", "0.1"], "toy fit: error: unknown option --lr. Did you mean --model.lr?"),
        (["--epochs=3"], "toy fit: error: unknown option --epochs. Did you mean --trainer.max_epochs?"),
        (["--max-epochs", "3"], "toy fit: error: unknown option --max-epochs. Did you mean --trainer.max_epochs?"),
        (["--seed", "3"], "toy fit: error: unknown option --seed. Did you mean --seed_everything?"),
        (["test", "--frobnicate"], "toy test: error: unknown option --frobnicate."),
        (["tset"], "toy: error: unknown subcommand 'tset'. Did you mean test?"),
        (["fit", "stray"], "unexpected argument 'stray': options begin with --."),
        (["--model.cell", "gruu"], "option --model.cell: expected one of lstm, gru, got gruu. Did you mean gru?"),
        (["--model.lr", "fast"], "option --model.lr: expected float, got fast."),
        (["--model.lr"], "option --model.lr: expected one argument."),
        (["--trainer.max_epochs", "three"], "option --trainer.max_epochs: expected int or null, got three."),
        (["--seed_everything", "x"], "option --seed_everything: expected bool or int, got x."),
        (
            ["--trainer.logger", "CSV"],
            "option --trainer.logger: expected Logger or Iterable[Logger] or bool or null, got CSV.",
        ),
        (["--trainer.logger", "CSVLogger"], "option --trainer.logger: CSVLogger needs --trainer.logger.save_dir."),
        (
            ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dr", "x"],
            "unknown option --trainer.logger.save_dr: CSVLogger has none of that name. Did you mean save_dir?",
        ),
        (
            ["--trainer.callbacks", "wnseq.training.Renormalise"],
            "expected list[Callback] or Callback or null, got wnseq.training.Renormalise. Did you mean Renormalize?",
        ),
        (["--trainer.callbacks+=EarlyStoping"], "got EarlyStoping. Did you mean EarlyStopping?"),
        (["--trainer.logger=TensorBoardLoger"], "got TensorBoardLoger. Did you mean TensorBoardLogger?"),
        (
            ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=x", "--trainer.callbacks.patience=no"],
            "option --trainer.callbacks.patience: expected int, got False.",
        ),
        (["-c", "none.yaml"], "option --config: File does not exist:"),
    ],
)
def test_a_wrong_option_is_one_line(here: Path, fails: Fails, words: list[str], said: str) -> None:
    error = fails(2, *words)
    assert said in error
    assert error.endswith(" See --help.\n")
    assert error.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--model.lr", "fast", "--model.cell=gruu", "--epochs", "3", "--trainer.max_epochs=x", "--model.lr=slow"],
            "option --model.lr: expected float, got fast. option --model.cell: expected one of lstm, gru, got gruu. "
            "Did you mean gru? option --trainer.max_epochs: expected int or null, got x. unknown option --epochs. Did "
            "you mean --trainer.max_epochs?",
        ),
        (["--model.lr", "--model.cell", "gruu"], "option --model.lr: expected one argument. option --model.cell: exp"),
        (
            ["--trainer.logger", "CSV", "--trainer.logger.name", "a", "--model.lr", "fast"],  # its name is the logger's
            "option --trainer.logger: expected Logger or Iterable[Logger] or bool or null, got CSV. option --model.lr:",
        ),
        (["-c", "none.yaml", "--model.lr", "-x"], "none.yaml'. option --model.lr: expected one argument. See"),
        (["--model.lr", "fast", "stray"], "option --model.lr: expected float, got fast. See"),
    ],
    ids=["types", "no_value", "inside", "dash", "stray"],
)
def test_all_wrong_options_of_a_command_are_said_at_once(fails: Fails, here: Path, words: list[str], said: str) -> None:
    error = fails(2, *words)
    assert error.startswith("toy fit: error: ") and said in error and error.count("\n") == 1


def test_a_wrong_option_in_a_file_has_a_suggestion_too(here: Path, fails: Fails) -> None:
    Path("run.yaml").write_text("model:\n  widht: 3\n")
    assert (
        fails(2, "-c", "run.yaml")
        == "toy: error: unknown option model.widht. Did you mean --model.width? See --help.\n"
    )


def test_a_literal_among_other_types_is_written_out(here: Path, fails: Fails) -> None:
    error = fails(2, "--trainer.precision", "17")
    assert error.startswith(
        "toy fit: error: option --trainer.precision: expected 64 or 32 or 16 or 'transformer-engine' or"
    )
    assert error.endswith(" or null, got 17. See --help.\n")


@pytest.mark.parametrize(
    "recipe",
    [
        "language_model",
        "text_classifier",
        "image_classifier",
        "sequential_images",
        "vae",
        "draw",
        "pixelcnn",
        "q_learning",
    ],
)
def test_what_other_programs_call_an_option_is_understood_by_every_recipe(
    recipe: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed, meant in (
        ("--lr", "--model.learning_rate"),
        ("--epochs", "--trainer.max_epochs"),
        ("--bs", "--data.batch_size"),
    ):
        with pytest.raises(SystemExit):
            import_module(f"wnseq.recipes.{recipe}").main(["fit", typed, "1"])
        assert f"unknown option {typed}. Did you mean {meant}?" in capsys.readouterr().err


def test_every_synonym_is_of_an_option(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_module("wnseq.recipes.language_model").main(["fit", "--help"])
    listed = capsys.readouterr().out
    assert [name for name in SYNONYMS.values() if not re.search(rf"--(\w+\.)?{name} ", listed)] == []


def test_a_wrong_option_in_a_short_spelt_file_names_its_place(here: Path, fails: Fails) -> None:
    Path("run.yaml").write_text("model: {\n")
    for words in (["-c", "run.yaml"], ["--config=run.yaml"]):
        assert "run.yaml is not YAML, line 2, column 1" in fails(1, *words)


def test_the_defaults_of_lightning_s_callbacks_can_be_read_again(
    here: Path, main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    words, printed = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"], list[str]()
    for name in set(callbacks.__all__) - {"BaseFinetuning", "Callback", "Checkpoint"}:  # bases
        arguments = inspect.signature(getattr(callbacks, name)).parameters.values()
        if not any(each.default is each.empty and each.kind == each.POSITIONAL_OR_KEYWORD for each in arguments):
            words.append(f"--trainer.callbacks+={name}")
    for source in (words, ["--config=all.yaml"]):
        with pytest.raises(SystemExit) as end:
            main(*source, "--print_config")
        assert not end.value.code, capsys.readouterr().err
        printed.append(capsys.readouterr().out)
        Path("all.yaml").write_text(printed[0])
    assert all(f".{word.partition('+=')[2]}\n" in printed[0] for word in words if "+=" in word) and len(words) > 15
    assert "Unable to serialize" not in printed[0]
    assert yaml.safe_load(printed[0]) == yaml.safe_load(printed[1])
