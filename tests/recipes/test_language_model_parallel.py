"""The language model trained by two processes, each reading half of the streams."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from wnseq.recipes.language_model import main

WORDS = ["the", "weight", "of", "a", "word", "is", "its", "scale", "times", "its", "direction", "and", "no", "more"]
PAIR = """
import json, os, sys
from pathlib import Path
from lightning.pytorch.utilities import rank_zero_only
rank_zero_only.rank = int(os.environ["LOCAL_RANK"])  # as where Lightning is imported in this process
from wnseq.recipes.language_model import main
from wnseq.training.cli import recipe
if rank_zero_only.rank == 1:  # as where the other has made the run's folder before this one looks for a free number
    recipe.make_run_folder = lambda parent: parent / "99"
def run(words):
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code
metrics = [run(words) for words in json.loads(sys.argv[1])]
Path(os.environ["LOCAL_RANK"] + ".json").write_text(json.dumps(metrics))
"""
STOP = """
import signal
from lightning.pytorch import Callback
class Stop(Callback):
    def __init__(self, rank: int, step: int): self.rank, self.step = rank, step
    def signal(self, trainer):
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step): signal.raise_signal(signal.SIGTERM)
    def on_train_batch_start(self, trainer, *_): self.signal(trainer)
    def on_validation_batch_start(self, trainer, *_): self.signal(trainer)
"""
COMMON = ["--data.corpus=text.txt", "--trainer.accelerator=cpu"]
FIT = ["fit", *COMMON, "--model.hidden_size=16", "--model.num_layers=2", "--data.bptt=10",
       "--data.random_bptt=true", "--trainer.log_every_n_steps=1", "--model.sampling.max_new_tokens=5"]  # fmt: skip
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
BITS = ["--model.dropout=0.3", "--trainer.logger=false", "--model.schedule=constant", "--data.batch_size=4", *TWO,
        "--trainer.val_check_interval=9", "--trainer.limit_test_batches=2"]  # fmt: skip
EVALUATIONS = [
    ["--data.eval_batch_size=3"],
    ["--data.eval_batch_size=1"],  # one process has no stream at all
    ["--data.eval_reset_state=true", "--data.eval_batch_size=7", "--data.eval_bptt=9"],
]


def last(number: int) -> Path:
    return Path(f"runs/language_model/{number}/checkpoints/last.ckpt")


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as log:
        return [float(row["train/nats_per_token"]) for row in csv.DictReader(log) if row["train/nats_per_token"]]


def stop(rank: int, step: int) -> list[str]:
    return [
        "--trainer.callbacks+=stop_rank.Stop",
        f"--trainer.callbacks.rank={rank}",
        f"--trainer.callbacks.step={step}",
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[dict[str, float]]]]:
    """A folder with the runs of one pair of processes, and the metrics that each process returned."""
    folder = tmp_path_factory.mktemp("pair")
    order = torch.randint(len(WORDS), (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    lines = [" ".join(WORDS[k] for k in order[at : at + 10]) for at in range(0, 4000, 10)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    commands = [
        [*FIT, *BITS, "--trainer.max_steps=14"],  # 1
        [*FIT, *BITS, "--trainer.max_steps=7"],  # 2
        [*FIT, *BITS, "--trainer.max_steps=14", f"--ckpt_path={last(2)}"],  # 2 goes on
        [*FIT, *TWO, "--data.batch_size=4", "--model.dropout=0", "--trainer.max_steps=20"],  # 3
        *(["test", *COMMON, f"--ckpt_path={last(1)}", *options, *TWO] for options in EVALUATIONS),
        [*FIT, *BITS, "--trainer.max_steps=14", *stop(1, 5)],  # 4
        [*FIT, *BITS, "--trainer.max_steps=14", *stop(0, 9), f"--ckpt_path={last(4)}"],  # stops in the validation
        [*FIT, *BITS, "--trainer.max_steps=14", f"--ckpt_path={last(4)}"],
    ]
    (folder / "stop_rank.py").write_text(STOP)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with ExitStack() as open_files:
        processes = [
            forked.Popen(
                [sys.executable, "-c", PAIR, json.dumps(commands)],
                cwd=folder,
                env={**os.environ, **meeting, "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=open_files.enter_context((folder / f"{rank}.txt").open("w")),
                stderr=forked.STDOUT,
            )
            for rank in range(2)
        ]
        try:
            codes = [process.wait(200) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert codes == [0, 0], (folder / "0.txt").read_text() + (folder / "1.txt").read_text()
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture
def here(pair: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(pair[0])
    return pair[0]


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_every_process_has_the_same_metrics(pair: tuple[Path, list[Any]]) -> None:
    first, second = pair[1]
    assert first == second and len(first) == 7 + len(EVALUATIONS)


def test_the_losses_are_those_of_one_process_with_the_same_streams(here: Path, tmp_path: Path) -> None:
    main([*FIT, "--trainer.devices=1", "--data.batch_size=8", "--model.dropout=0", "--trainer.max_steps=20",
          f"--trainer.default_root_dir={tmp_path}"])  # fmt: skip
    two, one = losses(Path("runs/language_model/3")), losses(tmp_path / "language_model/1")
    assert len(two) == len(one) == 20
    assert two == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("index", range(len(EVALUATIONS)), ids=lambda index: " ".join(EVALUATIONS[index]))
def test_evaluation_does_not_depend_on_the_number_of_processes(here: Path, pair: tuple[Path, Any], index: int) -> None:
    alone = main(["test", *COMMON, f"--ckpt_path={last(1)}", *EVALUATIONS[index], "--trainer.devices=1"])
    assert pair[1][0][4 + index] == pytest.approx(alone, rel=1e-6)


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(here: Path) -> None:
    whole, resumed = load(last(1)), load(last(2))
    assert whole["global_step"] == resumed["global_step"] == 14
    assert all(torch.equal(whole["state_dict"][name], resumed["state_dict"][name]) for name in whole["state_dict"])
    for one, other in zip(whole["carried_state"], resumed["carried_state"], strict=True):
        assert one.shape == (2, 8, 16) and torch.equal(one, other)  # the streams of both processes


def test_a_signal_to_one_process_stops_both_with_a_checkpoint_that_resumes_to_the_bit(
    here: Path, pair: tuple[Path, Any]
) -> None:
    assert pair[1][0][-3:-1] == [143, 143]
    assert pair[1][0][-1] == pair[1][0][0]
    printed = (here / "0.txt").read_text()
    first, second = map(int, re.findall(r"stopped at step (\d+)\. To go on", printed))
    assert 6 <= first <= 9 == second  # where the processes ask each other next: later if slow
    whole, resumed = load(last(1)), load(last(4))
    assert all(torch.equal(whole["state_dict"][name], resumed["state_dict"][name]) for name in whole["state_dict"])
    for one, other in zip(whole["carried_state"], resumed["carried_state"], strict=True):
        assert torch.equal(one, other)


def test_each_process_draws_its_own_dropout(here: Path) -> None:
    first, second = load(last(2))["callbacks"]["RngState"]["processes"]
    assert not torch.equal(first["torch"], second["torch"])


def test_only_the_first_process_prints_and_there_is_one_folder_a_run(here: Path) -> None:
    assert (here / "0.txt").read_text().count("A sample:") == 5
    second = (here / "1.txt").read_text()
    assert not any(word in second for word in ("A sample:", "corpus text.txt", "epoch 1", "test/", "checkpoint  "))
    assert {path.name for path in Path("runs/language_model").iterdir()} == set("1234")


def test_another_number_of_processes_goes_on_with_the_same_streams(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = [*FIT, "--model.dropout=0", "--model.schedule=constant", "--trainer.devices=1", f"--ckpt_path={last(2)}",
              f"--trainer.default_root_dir={tmp_path}"]  # fmt: skip
    main([*resume, "--data.batch_size=8", "--trainer.max_steps=16"])
    printed = capsys.readouterr().out
    assert printed.count("the checkpoint has the random generators of 2 processes, and this run has 1") == 1
    assert "starting from zero" not in printed
    with pytest.raises(SystemExit):
        main([*resume, "--data.batch_size=4", "--trainer.max_steps=16"])
    assert "had batch_size over all processes 8, this one has 4" in capsys.readouterr().err


def test_a_checkpoint_of_stopped_processes_starts_from_the_zero_state(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load(last(2))
    checkpoint["carried_state"] = checkpoint["callbacks"]["RngState"]["processes"] = None
    torch.save(checkpoint, tmp_path / "stopped.ckpt")
    main([*FIT, "--data.batch_size=8", "--trainer.devices=1", "--trainer.max_steps=15", "--model.schedule=constant",
          f"--ckpt_path={tmp_path / 'stopped.ckpt'}", f"--trainer.default_root_dir={tmp_path}"])  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.count("saved as several processes were stopped: the carried state starts from zero") == 1
    assert printed.count("no random generators of its processes") == 1


def test_the_command_starts_the_second_process_itself(here: Path, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("wnseq")
    if not command.is_file():
        pytest.skip(f"there is no {command}")
    done = subprocess.run(
        [command, "run", "language_model", *FIT, *TWO, "--trainer.max_steps=2",
         f"--trainer.default_root_dir={tmp_path}"],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},  # of the imports too
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("A sample:") == 1
    assert [path.name for path in (tmp_path / "language_model").iterdir()] == ["1"]
    checkpoint = load(tmp_path / "language_model/1/checkpoints/last.ckpt")
    assert checkpoint["carried_state"][0].shape == (2, 32, 16)
    assert len(checkpoint["callbacks"]["RngState"]["processes"]) == 2


def test_a_strategy_that_loses_the_model_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*FIT, "--trainer.devices=2", "--trainer.strategy=ddp_spawn"])
    assert "Use --trainer.strategy ddp, which starts the whole program" in capsys.readouterr().err
