"""A run that is killed at any place, and started again, ends as the one that was not, to the bit.

By name: ``pytest -m slow tests/faults``. The table at the end has a row for each recipe.
"""

import csv
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.nursery import Nursery

pytestmark = pytest.mark.slow

WORDS = ["the", "weight", "of", "a", "word", "is", "its", "scale", "times", "its", "direction", "and", "no", "more"]
SHORT = ["--trainer.limit_train_batches=7", "--trainer.limit_val_batches=2", "--trainer.limit_test_batches=1",
         "--trainer.val_check_interval=4", "--trainer.max_epochs=3", "--checkpoint.every_steps=3",
         "--trainer.log_every_n_steps=1", "--trainer.callbacks+=toy.Started", "--trainer.accelerator=cpu"]  # fmt: skip
TEXT = ["--data.corpus=text.txt", "--model.hidden_size=16", "--data.batch_size=4", "--data.bptt=10",
        "--model.sampling.max_new_tokens=2"]  # fmt: skip
PLATEAU = ["--model.schedule=plateau", "--model.optimizer=sgd", "--model.learning_rate=1e-6"]
IMAGES = ["--data.batch_size=20"]
RECIPES = {
    "language_model": [*TEXT, "--model.dropout=0.3", "--data.random_bptt=true"],
    "language_model plateau": [*TEXT, *PLATEAU],
    "draw": [*IMAGES, "--model.hidden_size=6", "--model.latent_size=2", "--model.glimpses=3",
             "--model.sampling.number=2"],
    "image_classifier": [*IMAGES, "--model.width=0.05", "--data.size=12", "--data.whiten=true"],
    "pixelcnn": [*IMAGES, "--model.channels=4", "--model.blocks=1", "--model.mixtures=2", "--model.sampling.number=1"],
    "q_learning": ["--model.hidden_size=6", "--model.core=lstm", "--data.num_envs=4", "--data.rollout_steps=4",
                   "--data.batch_size=8", "--data.passes=2", "--data.val_episodes=2"],
    "q_learning dqn": ["--model.algorithm=dqn", "--model.hidden_size=6", "--model.core=lstm",
                       "--model.sequence_steps=4", "--model.burn_in=2", "--model.replay_size=100",
                       "--model.replay_start=60", "--model.target_updates=2", "--data.num_envs=4",
                       "--data.rollout_steps=4", "--data.batch_size=8", "--data.passes=1", "--data.val_episodes=2"],
    "sequential_images": [*IMAGES, "--model.hidden_size=6"],
    "text_classifier": ["--data.batch_size=20", "--data.tokenizer=byte", "--data.max_tokens=30",
                        "--model.hidden_size=6", "--model.head_size=6"],
    "vae": [*IMAGES, "--model.width=0.125", "--model.hidden_size=8", "--model.latent_size=3", "--model.iaf_size=4",
            "--model.importance_samples=2", "--model.sampling.number=1"],
}  # fmt: skip
WRITES = {"rename": ("replace", "rename"), "write": ("write", "truncate"), "fsync": ("fsync", "unlink")}
KILLS = 6  # of each kind
CLOCK = ("train/seconds_per_epoch", "_per_s")


def module(recipe: str) -> str:
    return f"wnseq.recipes.{recipe.partition(' ')[0]}"


def prepare(folder: Path, shared: Path | None = None) -> dict[str, str]:
    """Put a text into a new folder; return an environment with a cold cache, and temporary files in another place."""
    folder.mkdir(parents=True)
    order = torch.randint(len(WORDS), (3000,), generator=torch.Generator().manual_seed(0)).tolist()
    lines = [" ".join(WORDS[k] for k in order[at : at + 10]) for at in range(0, 3000, 10)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    temporary = (shared or folder) / "temporary"
    temporary.mkdir(exist_ok=True)
    return {"WNSEQ_CACHE": str(folder / "cache"), "TMPDIR": str(temporary)}


def last_of(folder: Path) -> Path | None:
    found = list(folder.glob("runs/*/*/checkpoints/last.ckpt"))
    return max(found, key=lambda path: path.stat().st_mtime) if found else None


def finish(nursery: Nursery, folder: Path, recipe: str, words: list[str], environment: dict[str, str]) -> str:
    """Start a run again until it ends; return what was wrong."""
    resume = ["--ckpt_path", "last"] if last_of(folder) else []
    answer = nursery.run(folder, module(recipe), [*words, *resume], environment=environment)
    return "" if answer["statuses"] == [0] else (folder / "output.txt").read_text()[-2000:]


def log(run: Path) -> list[dict[str, str]]:
    """Return the rows of a log without what the clock decides."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if v and not k.endswith(CLOCK)} for row in csv.DictReader(file)]
    return rows


def difference(whole: Path, folder: Path) -> str:
    """Return what differs between the last checkpoints, and the logs, of two folders' newest runs."""
    paths = last_of(whole), last_of(folder)
    assert paths[0]
    if paths[1] is None:
        return "no checkpoint"
    a, b = (torch.load(path, weights_only=True) for path in paths if path)
    words = []
    for name in (
        "state_dict",
        "optimizer_states",
        "lr_schedulers",
        "current_model_state",
        "carried_state",
        "experience",
        "target",
        "replay",
    ):
        if not equal(a.get(name), b.get(name)):
            words.append(name)
    if log(paths[0].parents[1]) != log(paths[1].parents[1]):
        words.append("metrics.csv")
    return ", ".join(words)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.fixture(scope="session")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[Any]]]:
    """Return a function to the folder of a recipe's unbroken run, and the operations on files that it did."""
    made: dict[str, tuple[Path, list[Any]]] = {}

    def make(recipe: str) -> tuple[Path, list[Any]]:
        if recipe not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            environment, record = prepare(folder), folder.with_name("operations")
            words = ["fit", *RECIPES[recipe], *SHORT]
            answer = nursery.run(folder, module(recipe), words, environment=environment, record=str(record))
            assert answer["statuses"] == [0], (folder / "output.txt").read_text()
            made[recipe] = folder, [json.loads(line) for line in record.read_text().splitlines()]
        return made[recipe]

    return make


@pytest.mark.parametrize("fault", [*WRITES, "time"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_run_goes_on_to_the_bit(
    nursery: Nursery, whole: Any, tmp_path: Path, outcome: Any, recipe: str, fault: str
) -> None:
    unbroken, operations = whole(recipe)
    draw = random.Random(f"{recipe} {fault}")
    words = ["fit", *RECIPES[recipe], *SHORT]
    if fault == "time":
        faults: list[dict[str, Any]] = [{"signals": [(0, signal.SIGKILL, draw.uniform(0, 0.6))]} for _ in range(KILLS)]
    else:
        places = [count for name, _, count in operations if name in WRITES[fault]]
        chosen = [places[int((k + draw.random()) * len(places) / KILLS)] for k in range(KILLS)]
        faults = [{"fault": (count, "kill")} for count in chosen]
    other = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    problems = []
    for number, request in enumerate(faults):
        folder, shared = tmp_path / str(number), None
        if number % 2 and other is not None:  # the other half has its temporary files on another file system
            shared = other / f"wnseq-{tmp_path.name}-{number}"
            shared.mkdir()
        environment = prepare(folder, shared)
        killed = nursery.run(folder, module(recipe), words, environment=environment, **request)
        if fault != "time":
            assert killed["statuses"] == [-9], (folder / "output.txt").read_text()
        wrong = finish(nursery, folder, recipe, words, environment) or difference(unbroken, folder)
        if not wrong and any(folder.glob("runs/*/*/checkpoints/.*.tmp")):
            wrong = "a temporary file is left"
        if wrong:
            problems.append(f"{request}: {wrong}")
        if shared is not None:
            shutil.rmtree(shared)
    outcome(recipe, f"kill at {fault}", KILLS - len(problems), KILLS)
    assert not problems, "\n".join(problems)


def test_a_chain_of_forty_kills_is_one_run(nursery: Nursery, tmp_path: Path, outcome: Any) -> None:
    recipe, draw = "language_model", random.Random(0)
    words = ["fit", *RECIPES[recipe], *SHORT, "--trainer.max_epochs=24", "--checkpoint.every_steps=1"]
    nursery.run(tmp_path / "whole", module(recipe), words, environment=prepare(tmp_path / "whole"), seconds=120)
    folder, kills = tmp_path / "killed", 0
    environment = prepare(folder)
    while kills < 40:
        resume = ["--ckpt_path", "last"] if last_of(folder) else []
        fault = (draw.randrange(20, 70), "kill")
        status = nursery.run(folder, module(recipe), [*words, *resume], environment=environment, fault=fault)[
            "statuses"
        ]
        assert status == [-9], (folder / "output.txt").read_text()[-2000:]
        kills += 1
    assert not finish(nursery, folder, recipe, words, environment)
    newest = last_of(folder)
    assert newest
    rows = log(newest.parents[1])
    steps = [int(row["step"]) for row in rows]
    wrong = difference(tmp_path / "whole", folder)
    outcome(recipe, "chain of 40 kills", 40 * (not wrong), 40)
    assert not wrong
    assert steps == sorted(set(steps)) and set(range(168)) <= set(steps)
