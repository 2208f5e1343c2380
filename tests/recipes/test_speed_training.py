import csv
import subprocess
from pathlib import Path

import pytest
import torch

from wnseq.recipes import speed_training
from wnseq.recipes.speed_training import AGAIN, CONTENDERS, USUAL, Training, main, table

SMALL = [
    "--hidden_size=8",
    "--batch_size=4",
    "--window=5",
    "--pairs=2",
    "--threads=1",
    "--out=out",
    "--corpus=mine.txt",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60, "utf-8")
    return tmp_path


def test_the_recipe_takes_the_steps_of_the_usual_loop(capsys):
    rows = main([*SMALL, "--contenders=[weight float32]", "--equal_steps=12"])
    assert [row["contender"] for row in rows] == [USUAL, AGAIN, "weight float32"]
    for row in rows:
        assert row["steps"] == 12 and row["pairs"] == 2
        assert row["ms"] > 0 and row["peak_mb"] > 50
        assert row["tokens_per_s"] == pytest.approx(20e3 / row["ms"])
        assert abs(row["loss_off"]) < 1e-3
    assert rows[0]["ratio"] == 1 and rows[0]["loss"] == rows[1]["loss"]
    with Path("out/training.csv").open() as file:
        assert [row["contender"] for row in csv.DictReader(file)] == [USUAL, AGAIN, "weight float32"]
    text = Path("out/training.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("mine.txt, ") and "| weight float32 |" in text


def test_a_contender_that_fails_is_quoted(monkeypatch, capsys):
    monkeypatch.delitem(CONTENDERS, AGAIN)
    monkeypatch.setitem(CONTENDERS, "broken", ["--model.norm=nothing"])
    with pytest.raises(SystemExit):
        main([*SMALL, "--contenders=[broken]"])
    assert not Path("out").exists()
    told = capsys.readouterr().err
    assert "the contender 'broken' ended with status" in told and "nothing" in told


def test_processes_end_with_the_benchmark(monkeypatch):
    started = []
    popen = subprocess.Popen

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(speed_training.subprocess, "Popen", start)
    monkeypatch.setattr(speed_training, "check", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main([*SMALL, "--contenders=[]"])
    (process,) = started
    assert process.returncode is not None


ROW = {
    **{"contender": USUAL, "ms": 2.0, "ms_lower": 1.0, "ms_upper": 3.0, "ratio": 1.0, "ratio_lower": 0.8},
    **{"ratio_upper": 1.25, "tokens_per_s": 1234.0, "peak_mb": 9.0, "loss": 5.0, "loss_off": -0.001},
}


def test_the_usual_loop_again_decides_whether_ratios_count():
    assert "| usual loop | 2 (1, 3) | 1,234 | 1.000 (0.800, 1.250) | 9 | 5.0000 | -0.10% |" in table([ROW, ROW])
    assert "no ratio counts" not in table([ROW, ROW])
    assert f"The {AGAIN} is off by more than 2%, so that no ratio counts." in table([ROW, {**ROW, "ratio": 1.03}])


def test_losses_that_end_far_apart_are_named_and_lose_no_time():
    names = ("plain float32", "plain bf16", "weight float32")
    text = table([ROW, *({**ROW, "contender": name, "loss_off": 0.02} for name in names)])
    assert text.endswith("further off than rounding explains in so few steps: plain float32, plain bf16.\n")


def test_only_weight_normalisation_may_go_its_own_way():
    def process(name, *losses):
        made = speed_training.Process.__new__(speed_training.Process)
        made.name, made.losses = name, list(losses)
        return made

    usual = process(USUAL, 5.0, 4.0)
    weight, plain = process("weight bf16", 5.0, 3.0), process("plain bf16", 5.0, 3.0)
    speed_training.check(weight, usual, speed_training.ALL)
    assert weight.loss(speed_training.LAST) / usual.loss(speed_training.LAST) - 1 == pytest.approx(-1 / 9)
    with pytest.raises(
        ValueError, match=r"plain bf16 computes .* its loss is 4\.0000 where .* 4\.5000, .* at most 1\.0%"
    ):
        speed_training.check(plain, usual, speed_training.ALL)
    with pytest.raises(ValueError, match="weight bf16 computes something else"):
        speed_training.check(process("weight bf16", 6.0), usual, speed_training.FIRST)
    with pytest.raises(ValueError, match="its loss is nan"):
        speed_training.check(process("plain float32", float("nan")), usual, speed_training.FIRST)


def test_every_step_is_counted():
    assert Training(pairs=15).steps == 4 + 15 * 3
    assert Training(pairs=2, equal_steps=300).steps == 300


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--equal_steps=300", "300 steps are asked for, and mine.txt has"),
        ("--contenders=[weigth bf16]", "there is no contender 'weigth bf16'. Did you mean weight bf16?"),
        ("--pairs=1", "pairs must be at least 2, got 1"),
        ("--threads=0", "threads must be numbers of at least 1, got [0]"),
    ],
)
def test_a_mistake_is_told(option, text, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, option])
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert text in told and "Traceback" not in told


def test_the_usual_model_has_one_weight_for_words_in_and_out():
    model = speed_training.UsualModel(10, 4, 2)
    logits, _ = model(torch.randint(10, (3, 2)), None)
    assert logits.shape == (3, 2, 10)
    assert model.decoder.weight is model.encoder.weight
