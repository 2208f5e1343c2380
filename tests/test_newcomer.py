"""What a newcomer types, in a fresh clone and in the folder that holds it: a walk of minutes, by name."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KEPT = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "wnseq", "recipes")
SMALL = "--model.hidden_size 16 --data.batch_size 4 --trainer.max_epochs 1"
MY_MODEL = """
from wnseq import WNGRU
from wnseq.recipes.language_model import LanguageModel
from wnseq.training import GateMonitor

print(WNGRU(3, 4), LanguageModel.__name__, GateMonitor.__name__)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Terminal:
    """A terminal in the folder that holds the clone, its virtual environment active."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{folder / 'venv/bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}

    def __call__(self, command: str, status: int = 0) -> str:
        """Run a command line, which must end with a status; return what it prints."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        assert "Broken pipe" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """A folder as people keep it: the clone, an environment of its own, a text and a script beside the clone."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "wnseq").mkdir()
    for name in KEPT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "wnseq" / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    here = Terminal(folder)
    here("pip install -q --no-deps -e ./wnseq")  # the dependencies are those of this environment, not downloaded again
    site = here("python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))'").strip()
    outer = [path for path in sys.path if "site-packages" in path] or [sysconfig.get_path("purelib")]
    Path(site, "zz_dependencies.pth").write_text("\n".join(outer))
    lines = [f"Der {noun} sieht den {other}.\n" for noun in ("Hund", "Vogel", "Fisch") for other in ("Baum", "Stein")]
    (folder / "mein.txt").write_text("".join(lines) * 60, "utf-8")
    (folder / "my_model.py").write_text(MY_MODEL)
    return here


def test_the_walk(terminal: Terminal) -> None:
    runs = terminal.folder / "runs"

    # looks around
    assert terminal("wnseq list | head -1").count("\n") == 1
    assert terminal("python -m wnseq --version").startswith("wnseq ")
    assert "language_model" in terminal("cd wnseq && wnseq")
    assert terminal("python my_model.py") == "WNGRU(3, 4) LanguageModel GateMonitor\n"

    # trains on a text
    out = terminal(f"wnseq run language_model --data.corpus mein.txt --data.tokenizer char {SMALL}")
    assert re.search(r"^test/bits_per_byte +\d", out, re.M)
    assert re.search(r"^figure +runs/language_model/1/curves\.png$", out, re.M)

    # measures, samples, goes on, fine-tunes
    text = "--data.corpus mein.txt"
    assert "test/bits_per_byte" in terminal(f"wnseq run language_model test --ckpt_path best {text}")
    assert terminal("wnseq run language_model predict --ckpt_path best --model.sampling.prompt 'Der Hund'").strip()
    longer = f"--ckpt_path last {text} --data.batch_size 4 --trainer.max_epochs 2"
    assert "the learning rate goes from" in terminal(f"wnseq run language_model {longer}")
    assert [path.name for path in (runs / "language_model").iterdir()] == ["1"]
    start = "--model.init_from runs/language_model/1/checkpoints/best.ckpt --model.learning_rate 1e-3"
    terminal(f"wnseq run language_model {text} {start} {SMALL}")

    # changes a recipe
    assert "python my_lm.py" in terminal("wnseq copy language_model my_lm.py")
    terminal(f"python my_lm.py {text} --data.tokenizer char {SMALL}")
    assert [path.name for path in (runs / "my_lm").iterdir()] == ["1"]
    assert "test/bits_per_byte" in terminal(f"python my_lm.py test --ckpt_path best {text}")
    assert sorted(path.name for path in (runs / "language_model").iterdir()) == ["1", "2"]

    # compares
    variants = "--variants.one '' --variants.none '--model.norm none'"
    plan = f"--recipe my_lm.py --out compared --seeds 0 {variants} --arguments '{text} --data.tokenizer char {SMALL}'"
    said = terminal(f"wnseq run compare --metric bits_per_bite {plan}", 1)
    assert "my_lm.py logs no test/bits_per_bite" in said and "Did you mean bits_per_byte?" in said
    assert not list(terminal.folder.glob("compared/*/*"))
    assert "| none | 1 |" in terminal(f"wnseq run compare --metric bits_per_byte {plan}")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("wnseq run language_model --lr 0.1", 2, "Did you mean --model.learning_rate?"),
        ("wnseq run language_model --epochs 3", 2, "Did you mean --trainer.max_epochs?"),
        ("wnseq run languagemodel", 2, "Did you mean language_model?"),
        ("wnseq run language_model --config pbt", 1, "Did you mean ptb?"),
        ("wnseq run language_model --config ptb --print_config", 0, "corpus: ptb"),
        ("wnseq run language_model --trainer.logger comet", 1, "pip install comet_ml"),
        ("wnseq run language_model test --ckpt_path nowhere.ckpt", 1, "there is no checkpoint at nowhere.ckpt"),
        ("wnseq run speed layers --sizes 4x2 --pairs 2", 1, "4x2"),
        ("wnseq run language_model fit --help | head -3", 0, "usage: wnseq run language_model"),
    ],
)
def test_a_slip_of_the_pen_is_answered(terminal: Terminal, command: str, status: int, said: str) -> None:
    assert said in terminal(command, status)
