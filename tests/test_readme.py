"""What the README shows runs: its Python as it stands, its commands as far as a parser or a fast run can tell."""

import contextlib
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CHECKPOINT = "runs/language_model/1/checkpoints/best.ckpt"


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """Find the code blocks of a language: the number of the line each one starts on, and its text."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def commands(text: str) -> list[str]:
    """Split the shell blocks into single commands, as typed with the virtual environment active."""
    lines = (line for _, block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines())
    parts = (part.split("  # ")[0].strip() for line in lines for part in line.split(" && "))
    return [part.removeprefix(".venv/bin/") for part in parts]


PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "docs/lightning.md", ROOT / "docs/resuming.md"]
COMMANDS = [command for path in PAGES for command in commands(path.read_text("utf-8"))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder as a reader of the README has it: a text of his own, and the checkpoint of a first run."""
    from wnseq.recipes.language_model import main

    folder = tmp_path_factory.mktemp("readme")
    (folder / "my_text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 400, "utf-8")
    with contextlib.chdir(folder):
        main(["fit", "--data.corpus", "my_text.txt", "--data.tokenizer", "byte", "--trainer.max_epochs", "1"])
    assert (folder / CHECKPOINT).is_file(), [str(path) for path in folder.rglob("*.ckpt")]
    return folder


def run_all(text: str, name: str) -> None:
    """Run the Python blocks of a text in one namespace, in order; tracebacks point into the text."""
    namespace = {"__name__": "__main__"}
    for line, source in blocks(text, "python"):
        exec(compile("\n" * (line - 1) + source, name, "exec"), namespace)


def test_the_python_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a reader's own program Lightning advises on workers and the like
        run_all(README.read_text("utf-8"), str(README))


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and the like
@pytest.mark.parametrize("page", ["lightning.md", "resuming.md", "weight-norm-checkpoints.md"])
def test_the_programs_of_a_page_run(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    run_all((ROOT / "docs" / page).read_text("utf-8"), page)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["compiled", "bf16-mixed"])
def test_the_programs_of_lightning_run_compiled_and_in_bf16(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning
    from torch import nn

    class Other(lightning.Trainer):
        fits = 0

        def __init__(self, **options: Any) -> None:
            super().__init__(**({"precision": how} if how != "compiled" else {}) | options)

        def fit(self, model: Any, *args: Any, **kwargs: Any) -> None:
            Other.fits += 1
            if how == "compiled" and not isinstance(model.rnn, nn.LSTM):  # which fullgraph refuses
                model.rnn.compile(fullgraph=True, backend="aot_eager")
            super().fit(model, *args, **kwargs)

    monkeypatch.setattr(lightning, "Trainer", Other)
    monkeypatch.chdir(tmp_path)
    run_all((ROOT / "docs/lightning.md").read_text("utf-8"), f"lightning.md, {how}")
    assert Other.fits == 6


def test_python_that_does_not_run_is_found() -> None:
    with pytest.raises(ZeroDivisionError):
        run_all("```python\nx = 0\n```\n\n```python\n1 / x\n```\n", "made up")


def print_config(command: str) -> None:
    """Parse the arguments of ``wnseq run NAME …`` as the run itself would, and stop there."""
    from wnseq.training.cli.command import main

    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(command)[1:], "--print_config"])
    assert not stopped.value.code, command


def launch(command: str) -> None:
    """Run a command that is over in seconds."""
    program, *arguments = shlex.split(command)
    executable = sys.executable if program == "python" else Path(sys.executable).with_name(program)  # as in .venv/bin
    done = forked.run([executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert done.stdout, command


def install(command: str) -> None:
    """Check that what ``pip install`` names is there."""
    arguments = shlex.split(command)
    assert (ROOT / arguments[arguments.index("-c") + 1]).is_file()
    (extras,) = re.findall(r"\.\[(.+)\]", command)
    declared = re.findall(r'^    "(\w+)": ', (ROOT / "setup.py").read_text("utf-8"), re.M)
    assert set(extras.split(",")) <= set(declared)


def taken_as_read(command: str) -> None:
    """Leave a command to ``.ci/run``, which runs it."""


CHECKS: list[tuple[str, Callable[[str], None]]] = [
    (r"python3 -m venv \.venv", taken_as_read),
    (r"pip install .*", install),
    (r"pytest -n 2|ruff check|ruff format --check|mypy|\.ci/run", taken_as_read),
    (r"wnseq run .*(?<!--help)", print_config),
    (r"wnseq|wnseq copy .*|wnseq run .* --help|python my_lm\.py .*--help", launch),
]


def check_of(command: str) -> Callable[[str], None]:
    """Find the way to check a command; one that no way fits is a mistake in the README or a gap here."""
    for pattern, check in CHECKS:
        if re.fullmatch(pattern, command):
            return check
    raise LookupError(f"no check for the command {command!r}: add one to CHECKS")


def test_the_commands_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", sys.argv)  # the command gives the recipe one of its own
    for command in COMMANDS:
        check_of(command)(command)


def test_a_wrong_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(LookupError, match="no check for the command 'wnsek'"):
        check_of("wnsek")
    with pytest.raises(AssertionError):
        print_config("wnseq run language_model --data.corpsu ptb")
    with pytest.raises(AssertionError):
        install("pip install -c constraints.txt -e '.[plotz]'")


def test_the_two_commands_stand_where_ci_reads_them() -> None:
    text = README.read_text("utf-8")
    (first_line, first), (second_line, second), *_ = blocks(text, "sh")
    assert first.count("\n") == second.count("\n") == 1
    assert first.rstrip().endswith(
        " && .venv/bin/wnseq run language_model"
    )  # .ci/run runs what stands before the last &&
    assert second.rstrip().endswith(" && .venv/bin/pytest -n 2")
    drop_in, source = blocks(text, "python")[0]
    assert first_line < second_line < drop_in
    assert drop_in + source.count("\n") <= 40
    ci = (ROOT / ".ci/run").read_text("utf-8")
    assert "readme_command 1" in ci and "readme_command 2" in ci


@pytest.mark.parametrize(
    "path", [README, *sorted(ROOT.glob("[C]*.md")), *sorted(ROOT.glob("docs/*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", [README, *sorted(ROOT.glob("docs/*.md"))], ids=lambda p: p.name)
def test_no_number_is_missing(path: Path) -> None:
    assert "@@" not in path.read_text("utf-8")
