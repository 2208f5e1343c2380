import json
import os
import signal
import threading
import time
from pathlib import Path

import forked
import pytest

from wnseq.recipes.compare import TIMER, Result, main
from wnseq.training import plots

FAKE = """
import argparse, csv, pathlib, sys
import time
parser = argparse.ArgumentParser()
parser.add_argument("fit")
for name in ("--seed_everything", "--rate", "--ckpt_path", "--wait", "--config"):
    parser.add_argument(name, type=str, default="0")
parser.add_argument("--trainer.default_root_dir", dest="root")
parser.add_argument("--trainer.callbacks+", dest="timer")
parser.add_argument("--trainer.fast_dev_run", dest="trial")
given = parser.parse_args()
rate, seed = float(given.rate), int(given.seed_everything)
if rate > 1:
    sys.exit("error: the training loss is nan at step 3. Lower the learning rate")
if rate < 0:
    sys.exit("error: a rate can't be negative")
if given.trial:
    print("val/loss 1.0\\ntest/loss 1.5\\ntest/first 1.0")
    sys.exit()
if given.wait == "-1":
    sys.exit("error: it was late")
parent = pathlib.Path(given.root) / "fake"
folder = parent / str(len(list(parent.glob("*"))) + 1)
(folder / "checkpoints").mkdir(parents=True)
first = 2 if given.ckpt_path != "0" else 0
with (folder / "metrics.csv").open("w", newline="") as file:
    rows = csv.DictWriter(file, ["step", "train/loss", "val/loss", "test/loss", "train/seconds_per_epoch"])
    rows.writeheader()
    for step in range(first, 4):
        rows.writerow({"step": step, "train/loss": rate + 4 - step, "val/loss": rate + 5 - step})
        rows.writerow({"step": step, "train/seconds_per_epoch": 9 if step == 0 else 2})
        if step == 2 and given.wait not in ("0", "inf") and not first:
            file.flush()
            (folder / "checkpoints" / "last.ckpt").write_text("whole")
            time.sleep(60)
    rows.writerow({"step": 4, "test/loss": given.wait if given.wait == "inf" else rate + seed})
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake.py").write_text(FAKE)
    return tmp_path


def compare(*more, seeds="[0, 1]"):
    return main(["--recipe=fake.py", "--metric=loss", "--out=out", f"--seeds={seeds}", *more])


TWO = ("--variants.one", "--rate 0.5", "--variants.two", "--rate 0.1")


@pytest.mark.figures
def test_variants_and_seeds(capsys):
    assert compare(*TWO) == pytest.approx({"one": 1.0, "two": 0.6})
    table = Path("out/table.md").read_text()
    assert table.splitlines() == [
        "| variant | runs | test/loss | val/loss | train/loss | seconds per epoch |",
        "| --- | --: | --: | --: | --: | --: |",
        "| one | 2 | 1 ± 0.71 | 2.5 ± 0 | 1.5 ± 0 | 2 ± 0 |",
        "| two | 2 | 0.6 ± 0.71 | 2.1 ± 0 | 1.1 ± 0 | 2 ± 0 |",
    ]
    printed = capsys.readouterr().out
    assert table in printed and "1/4 one, seed 0 … test/loss 0.5" in printed
    assert Path("out/curves.png").stat().st_size > 1000
    rows = Path("out/runs.csv").read_text().splitlines()
    assert rows[0] == "variant,,seed,diverged,test/loss,val/loss,train/loss,seconds_per_epoch"
    assert rows[1] == "one,,0,False,0.5,2.5,1.5,2.0" and len(rows) == 5

    compare(*TWO, "--returns=true")  # the same runs
    head, _, one, _ = Path("out/table.md").read_text().splitlines()
    assert head.startswith("| variant | runs | interquartile mean [95 %] | test/loss | val/loss |")
    assert one == "| one | 2 | 1 [0.5, 1.5] | 1 ± 0.71 | 5.5 ± 0 | 1.5 ± 0 | 2 ± 0 |"
    assert Path("out/returns.png").stat().st_size > 1000


def test_what_is_finished_is_not_run_again(capsys):
    compare(*TWO, seeds="[0]")
    capsys.readouterr()
    assert compare(*TWO, "--variants.three", "--rate 0.2") == pytest.approx({"one": 1.0, "two": 0.6, "three": 0.7})
    printed = capsys.readouterr().out
    assert "one, seed 0 …" not in printed and "one, seed 1 …" in printed and "three, seed 0 …" in printed
    assert [path.name for path in Path("out/one/seed0/fake").iterdir()] == ["1"]


def test_a_plan_from_a_file():
    Path("plan.yaml").write_text(
        "recipe: fake.py\nmetric: loss\nout: out\narguments: --rate 0.25\nseeds: [3]\nvariants:\n  only: ''\n"
    )
    assert main(["--config=plan.yaml"]) == {"only": 3.25}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupted_run_goes_on(capsys, name):
    number = getattr(signal, name)
    plan = ["--recipe=fake.py", "--metric=loss", "--out=out", "--seeds=[0]", "--variants.one", "--rate 0.5 --wait 1"]
    checkpoint = Path("out/one/seed0/fake/1/checkpoints/last.ckpt")

    def stop():
        while not checkpoint.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as left:
        main(plan)
    thread.join()
    assert left.value.code == 128 + number and "stopped; the same command continues" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    assert not Path("out/one/seed0/finished.json").exists()
    assert main(plan) == {"one": 0.5}
    assert [path.name for path in sorted(Path("out/one/seed0/fake").iterdir())] == ["1", "2"]
    assert "| one | 1 | 0.5 | 2.5 | 1.5 | 2 |" in Path("out/table.md").read_text()  # each step once


@pytest.mark.figures
def test_a_sweep(capsys):
    variants = ("--variants.a", "", "--variants.b", "--wait 0")
    means = compare(*variants, "--sweep=rate", "--values=[0.1, 0.5, 3]")
    assert means == pytest.approx({"a, 0.1": 0.6, "a, 0.5": 1.0, "b, 0.1": 0.6, "b, 0.5": 1.0})
    lines = Path("out/table.md").read_text().splitlines()
    assert lines[0].startswith("| variant | rate | runs | test/loss |") and len(lines) == 8
    assert "| a | 3 | 2 (2 diverged) |  |  |  |  |" in lines
    assert "a, 3, seed 1 … diverged" in capsys.readouterr().out
    assert Path("out/sweep.png").stat().st_size > 1000 and not Path("out/curves.png").exists()


def test_one_run_has_no_deviation():
    compare(*TWO, seeds="[1]")
    assert "| one | 1 | 1.5 | 2.5 | 1.5 | 2 |" in Path("out/table.md").read_text()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ((), "variants must not be empty"),
        ((*TWO, "--seeds=[]"), "seeds must not be empty"),
        (("--variants", '{"a/b": ""}'), "the name of a variant is that of a folder, which 'a/b' can't be"),
        ((*TWO, "--sweep=rate"), "sweep and values go together"),
        ((*TWO, "--recipe=nowhere.py"), "there is no recipe at nowhere.py"),
        ((*TWO, "--recipe=nowhere"), "there is no recipe 'nowhere'; `wnseq list` shows them"),
        ((*TWO, "--metric=first"), "the runs of fake.py log no test/first; out/one/seed0 has what they log"),
        (("--variants.bad", "--wait -1"), "the run bad, seed 0 ended with status 1"),
        (("--variants.good", "", "--variants.bad", "--rate -1"), "the variant bad ended with status 1"),
        ((*TWO, "--metric=los"), "fake.py logs no test/los, but loss, first. Did you mean loss?"),
        ((*TWO, "--metric=val/loss"), "metric must be given without train/, val/ or test/, got val/loss"),
        ((*TWO, "--seeds=[1, 0, 1]"), "seeds must differ, got [1, 0, 1]"),
        ((*TWO, "--sweep=rate", "--values=[0.1, 0.1]"), "values must differ, got [0.1, 0.1]"),
        ((*TWO, "--sweep=rate", "--values=1,1.0"), "values must differ, got [1, 1.0]"),
    ],
)
def test_a_mistake_is_told(more, text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--recipe=fake.py", "--metric=loss", "--out=out", "--variants={}", *more])
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert text in told and "Traceback" not in told
    if "variant bad" in text:
        assert "a rate can't be negative" in told
    assert (
        "run bad" in text or "out/one" in text or not list(Path().glob("out/*/*/output.txt"))
    )  # found before any work


@pytest.mark.parametrize("left", ["finished", "interrupted"])
def test_a_metric_that_earlier_runs_lack_is_found_before_any_run(left, capsys):
    compare(*TWO, seeds="[0]")
    if left == "interrupted":
        for done in Path("out").glob("*/*/finished.json"):
            done.unlink()
    with pytest.raises(SystemExit):
        compare(*TWO, "--metric=bits")
    assert "fake.py logs no test/bits, but loss" in capsys.readouterr().err
    assert not Path("out/one/seed1").exists()


def test_a_variant_that_diverges_at_once_is_said_to(capsys):
    compare("--variants.wild", "--rate 2", *TWO, seeds="0")
    out = capsys.readouterr().out
    assert "checking wild … it runs, and diverges\n" in out and "checking one … it runs\n" in out


def test_a_run_whose_figure_is_not_finite_has_diverged(capsys):
    assert compare("--variants.one", "--rate 0.5", "--variants.wild", "--rate 0.5 --wait inf") == {"one": 1.0}
    assert "| wild | 2 (2 diverged) |" in capsys.readouterr().out
    assert compare("--variants.one", "--rate 0.5", "--variants.wild", "--rate 0.5 --wait inf") == {"one": 1.0}


def test_another_file_of_options_does_not_take_over_a_run(capsys):
    Path("own.yaml").write_text("rate: 1")
    named = ("--variants.one", "--rate 0.5 --config own.yaml")
    compare(*named)
    assert compare(*named)
    Path("own.yaml").write_text("rate: 2")
    with pytest.raises(SystemExit):
        compare(*named)
    assert "out/one/seed0 holds a run of other contents of own.yaml" in capsys.readouterr().err


def test_another_command_does_not_take_over_a_run(capsys):
    compare(*TWO)
    Path("out/one/seed0/finished.json").unlink()
    with pytest.raises(SystemExit):
        compare("--variants.one", "--rate 0.7")
    assert "out/one/seed0 holds a run of another command" in capsys.readouterr().err
    assert json.loads(Path("out/one/seed0/command.json").read_text())[:4] == ["fake", "fit", "--rate", "0.5"]


def test_a_finished_run_of_other_arguments_is_refused_before_any_run(capsys):
    compare(*TWO)
    table = Path("out/table.md").read_text()
    for changed in (("--variants.two", "--rate 0.7"), ("--variants.two", "--rate 0.1", "--arguments=--wait 0")):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            compare("--variants.new", "--rate 0.2", *changed)
        told = capsys.readouterr()
        assert stop.value.code == 1 and told.out == ""
        assert "out/two/seed0 holds a run of another command (fake fit --rate 0.1 --seed_everything 0" in told.err
        assert "Delete the folder, or give another name to the variant or another out" in told.err
    assert not Path("out/new").exists() and Path("out/table.md").read_text() == table


def test_a_finished_run_of_another_recipe_is_refused(capsys):
    compare(*TWO)
    Path("fake.py").rename("other.py")
    with pytest.raises(SystemExit):
        compare(*TWO, "--recipe=other.py")
    assert "out/one/seed0 holds a run of another command (fake fit" in capsys.readouterr().err
    Path("elsewhere").mkdir()
    Path("other.py").rename("elsewhere/fake.py")
    assert compare(*TWO, "--recipe=elsewhere/fake.py")


def test_a_run_of_an_own_recipe_that_was_edited_is_refused(capsys):
    compare(*TWO, seeds="[0]")
    Path("fake.py").write_text(FAKE + "\n")
    with pytest.raises(SystemExit):
        compare(*TWO, "--variants.three", "--rate 0.2", seeds="[0]")
    assert "out/one/seed0 holds a run of other contents of fake.py. Delete the folder" in capsys.readouterr().err
    assert not Path("out/three").exists()


def test_a_run_without_a_log_has_not_diverged(capsys):
    Path("fake.py").write_text(FAKE.replace("metrics.csv", "other.csv"))
    with pytest.raises(SystemExit):
        compare(*TWO, seeds="[0]")
    assert "out/one/seed0 has no */*/metrics.csv: a run that is compared needs its" in capsys.readouterr().err
    assert not Path("out/one/seed1").exists()


def test_the_folders_of_lightning_s_own_logger_are_read():
    Path("fake.py").write_text(FAKE.replace("parent / str(", "parent / ('version_%d' % ").replace('"))) + 1)', '"))))'))
    assert compare(*TWO, seeds="[0]") == pytest.approx({"one": 0.5, "two": 0.1})


def test_a_figure_says_what_diverged(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        plots, "plot_variants", lambda curves, *_, **__: drawn.append({n: len(r) for n, r in curves.items()})
    )
    monkeypatch.setattr(plots, "plot_dots", lambda found, *_, **__: drawn.append([*found]))
    Path("fake.py").write_text(FAKE.replace("if rate > 1:", "if rate > 0.4 and seed:"))
    compare(*TWO, "--returns=true")
    assert drawn == [{"one (1 of 2 diverged)": 1, "two": 2}, ["one (1 of 2 diverged)", "two"]]


def test_a_validation_that_is_not_finite_is_passed_over():
    series = {"val/loss": ([1, 2, 3], [float("nan"), 2.0, 3.0]), "test/loss": ([3], [1.5])}
    assert Result(None, series).final("val/loss") == 2
    assert Result(None, series, max).final("val/loss") == 3


def test_a_folder_that_was_moved_holds_the_same_runs(capsys):
    before = compare(*TWO)
    Path("out").rename("moved")
    capsys.readouterr()
    assert compare(*TWO, f"--out={Path('moved').resolve()}") == before
    assert "seed 0 …" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "values", "shown"),
    [
        ("seed_everything", "1234567,1234568", ["1234567", "1234568"]),
        ("seed_everything", "1e6,9007199254740993", ["1000000", "9007199254740993"]),
        ("rate", "0.1234567,0.1234568", ["0.1234567", "0.1234568"]),
        ("rate", "1e-3,1e-5,1.0,0", ["0.001", "1e-05", "1", "0"]),
    ],
)
def test_swept_values_are_exact(option, values, shown):
    means = compare("--variants.a", "", f"--sweep={option}", f"--values={values}", seeds="[0]")
    assert means == {f"a, {value}": float(value) for value in shown}
    assert {path.name for path in Path("out/a").iterdir()} == {f"{option}={value}" for value in shown}
    for value in shown:
        command = json.loads(Path(f"out/a/{option}={value}/seed0/command.json").read_text())
        assert command[command.index(TIMER) - 2 : command.index(TIMER)] == [f"--{option}", value]
    assert [row.split(",")[1] for row in Path("out/runs.csv").read_text().splitlines()[1:]] == shown
    assert [row.split(" | ")[1] for row in Path("out/table.md").read_text().splitlines()[2:]] == shown


def test_another_spelling_of_a_value_is_the_same_run(capsys):
    sweep = ("--variants.a", "", "--sweep=rate")
    before = compare(*sweep, "--values=1e-3,1.0")
    capsys.readouterr()
    assert compare(*sweep, "--values=0.0010,1") == before
    assert "seed 0 …" not in capsys.readouterr().out


def test_it_runs_a_recipe(monkeypatch):
    for module in ("recipes.compare", "training.child_process"):  # the others have processes of their own
        monkeypatch.setattr(f"wnseq.{module}.subprocess", forked)
    batches = " ".join(f"--trainer.limit_{part}_batches 1" for part in ("train", "val", "test"))
    arguments = f"--model.width 0.05 --model.init_images 2 --data.size 16 --trainer.max_epochs 1 {batches}"
    means = main(["--recipe=image_classifier", "--metric=error_percent", "--out=out", "--seeds=[0]",
                  "--variants.weight", "", f"--arguments={arguments}"])  # fmt: skip
    assert 0 <= means["weight"] <= 100
    row = Path("out/runs.csv").read_text().splitlines()[1].split(",")
    assert 0 < float(row[-1]) < 60  # seconds per epoch


@pytest.mark.parametrize("name", ["finished.json", "command.json"])
def test_a_file_that_a_power_cut_left_empty_is_named_and_made_again(name, capsys):
    before = compare(*TWO, seeds="[0]")
    for path in Path("out").glob(f"*/*/{name}"):
        path.write_bytes(b"")
    if name == "command.json":
        for path in Path("out").glob("*/*/finished.json"):
            path.unlink()
    capsys.readouterr()
    assert compare(*TWO, seeds="[0]") == before
    assert f"out/one/seed0/{name} is damaged, and made again" in capsys.readouterr().out
    assert json.loads(Path(f"out/one/seed0/{name}").read_text())
