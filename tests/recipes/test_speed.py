import copy
import csv
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from wnseq.recipes import language_model, speed
from wnseq.recipes.speed import (
    LAYERS,
    READ,
    STEPS,
    TORCH,
    TORCH_AGAIN,
    USUAL,
    USUAL_AGAIN,
    Step,
    Variant,
    main,
    recipe_loop,
)
from wnseq.training.benchmark import RecurrentTask, TrainingProcess, _processes, _results

SMALL = {
    "layers": ["--pairs=2", "--least_ms=0", "--out=out", "--threads=[1]", "--sizes=[2x3x5x1]"],
    "step": [
        *("--pairs=2", "--out=out", "--threads=[1]", "--hidden_size=8", "--batch_size=4", "--bptt=5"),
        "--corpus=mine.txt",
    ],
    "stream": [
        *("--pairs=2", "--least_ms=0", "--out=out", "--threads=[1]", "--hidden_sizes=[8]", "--vocabulary=20"),
        *("--hidden_size=6", "--tokens=3"),
    ],
}
# processes of their own are forked: they take no time to start, and know what a test has changed
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_processes, "START_METHOD", "fork")
    Path("mine.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60, "utf-8")


@pytest.fixture
def no_figure(monkeypatch):
    monkeypatch.setattr(speed.Layers, "draw", lambda *given: None)


def run(mode, *options):
    return main([mode, *SMALL[mode], *options])


def read(mode):
    with Path(f"out/{mode}.csv").open() as file:
        return list(csv.DictReader(file))


# ---- the command line


@pytest.mark.parametrize(
    ("mode", "option", "text"),
    [
        ("layers", "--sizes=[35x20x650]", "a size is steps x batch x hidden size x layers, as in 35x20x650x2; got"),
        ("layers", "--sizes=[0x1x4x1]", "got '0x1x4x1'"),
        ("layers", "--sizes=[1x1x-4x1]", "got '1x1x-4x1'"),
        ("layers", "--variants=[wnsek]", "there is no variant 'wnsek'. Did you mean wnseq?"),
        ("layers", "--pairs=1", "pairs must be at least 2, got 1"),
        ("layers", "--threads=[0]", "threads must be numbers of at least 1, got [0]"),
        ("layers", "--device=cuda", "device is cuda, and this torch sees no GPU"),
        ("step", "--equal_steps=300", "300 steps need a batch more, and mine.txt has"),
        ("step", "--variants=[weigth bf16]", "there is no variant 'weigth bf16'. Did you mean weight bf16?"),
        ("step", "--pairs=1", "pairs must be at least 2, got 1"),
        ("step", "--threads=[0]", "threads must be numbers of at least 1, got [0]"),
        ("stream", "--hidden_sizes=[0]", "hidden_sizes must be at least 1, got 0"),
        ("stream", "--hidden_size=0", "hidden_size must be at least 1, got 0"),
        ("stream", "--num_layers=0", "num_layers must be at least 1, got 0"),
        ("stream", "--tokens=0", "tokens must be at least 1, got 0"),
        ("stream", "--vocabulary=1", "vocabulary must be at least 2"),
        ("stream", "--pairs=1", "pairs must be at least 2, got 1"),
        ("stream", "--threads=[]", "threads must be numbers of at least 1, got []"),
    ],
)
def test_a_mistake_is_told(mode, option, text, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        run(mode, option)
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert text in told and "Traceback" not in told


@pytest.mark.usefixtures("no_figure")
def test_memory_is_kept_by_the_command_line_alone_unless_it_is_told_not_to(monkeypatch):
    kept = []
    monkeypatch.setattr(speed, "keep_freed_memory", lambda: kept.append(True))
    arguments = [*SMALL["layers"], "--sizes=[1x1x4x1]", "--variants=[]"]
    main(arguments)
    monkeypatch.setattr(sys, "argv", ["speed", *arguments, "--keep_memory=false"])
    main()
    assert not kept
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    main()
    assert kept


# ---- layers


@pytest.mark.figures
def test_every_variant_is_timed_at_every_size(capsys):
    threads = torch.get_num_threads()
    rows = run("layers", "--sizes=[2x3x5x2]", "--kinds=[lstm, gru]", "--dtypes=[float32, bf16]")
    assert torch.get_num_threads() == threads
    written = read("layers")
    assert list(written[0]) == [
        *("device", "threads", "dtype", "kind", "steps", "batch", "hidden", "layers", "mode", "variant", "phase"),
        *("pairs", "ms", "ms_lower", "ms_upper", "ratio", "ratio_lower", "ratio_upper", "peak_mb", "error"),
    ]
    assert len(written) == len(rows)
    trained = {(row["kind"], row["variant"]) for row in rows if row["mode"] == "training"}
    both = {TORCH, TORCH_AGAIN, "torch weight_norm", "wnseq"}
    assert trained == {(kind, name) for kind in ("lstm", "gru") for name in both} | {("lstm", "layer norm")}
    used = {(row["kind"], row["variant"]) for row in rows if row["mode"] == "inference"}
    assert used - trained == {(kind, f"wnseq {way}") for kind in ("lstm", "gru") for way in ("removed", "bound")}
    for row in rows:
        assert row["ms"] > 0 and row["ratio"] > 0 and row["pairs"] == 2
        assert row["variant"] != TORCH or row["ratio"] == 1
        assert 0 <= row["error"] < speed.TOLERANCE[row["dtype"]]
    assert {row["phase"] for row in rows if row["mode"] == "training"} == {"forward", "backward", "both"}
    text = Path("out/layers.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("\n\n| TxNxHxL | variant |") == 8  # kinds, dtypes, training and inference
    assert "| 2x3x5x2 | wnseq bound |" in text
    assert Path("out/layers.png").stat().st_size > 1000


@pytest.mark.usefixtures("no_figure")
def test_few_may_be_chosen():
    rows = run("layers", "--variants=[wnseq bound]")
    assert {row["variant"] for row in rows if row["mode"] == "training"} == {TORCH, TORCH_AGAIN}
    assert {row["variant"] for row in rows if row["mode"] == "inference"} == {TORCH, TORCH_AGAIN, "wnseq bound"}


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize(
    ("mode", "where"),
    [
        ("layers", "2x3x5x1 forward; 2x3x5x1 backward; 2x3x5x1 both"),
        ("stream", "LSTM, 1x1x8, 1 threads; language model, 2 x 6, 20 words, 1 threads"),
    ],
)
def test_the_second_run_of_torch_decides_whether_ratios_count(mode, where, monkeypatch, capsys):
    options = ["--variants=[]"] if mode == "layers" else []
    monkeypatch.setattr(_results, "MAX_OFFSET", 1e9)
    run(mode, *options)
    assert "so that no ratio counts" not in capsys.readouterr().out
    monkeypatch.setattr(_results, "MAX_OFFSET", -1)
    run(mode, *options)
    assert f"no ratio counts: {where}\n" in capsys.readouterr().out


def test_what_is_not_given_means_few_or_all():
    few, every = speed.Layers(), speed.Layers(full=True)
    assert (few.kinds, few.dtypes) == (["lstm"], ["float32"])
    assert (every.kinds, every.dtypes) == (["lstm", "gru"], ["float32", "bf16"])
    assert set(few.sizes) < set(every.sizes)
    assert speed.Layers(full=True, kinds=["gru"]).kinds == ["gru"]


class Forgetful(nn.Module):
    """Computes what torch's module computes, but keeps its weight's gradient from it."""

    def __init__(self, plain):
        super().__init__()
        self.plain = copy.deepcopy(plain)
        self.plain.weight_hh_l0.register_hook(torch.zeros_like)

    def forward(self, x, state):
        return self.plain(x, state)


class Longer(nn.Module):
    def __init__(self, plain):
        super().__init__()
        self.plain = copy.deepcopy(plain)

    def forward(self, x, state):
        output, final = self.plain(x, state)
        return 1.5 * output, final


@pytest.mark.parametrize(("cls", "part"), [(Forgetful, "gradient of weight_hh_l0"), (Longer, "output")])
def test_a_variant_that_computes_something_else_is_named(cls, part, monkeypatch, capsys):
    monkeypatch.setitem(LAYERS, "cheat", Variant(cls))
    with pytest.raises(SystemExit) as stop:
        run("layers", "--variants=[cheat]")
    assert stop.value.code == 1
    assert f"cheat computes something else than torch.nn: its {part} is off by" in capsys.readouterr().err
    assert not Path("out").exists()


def two_layers(gradient=None):
    states = (torch.randn(2, 2, 4), torch.randn(2, 2, 4))
    return nn.LSTM(4, 4, 2), RecurrentTask(torch.randn(3, 2, 4), states, gradient)


def test_layer_norm_normalises_while_it_is_timed():
    plain, task = two_layers()
    variant, expected = LAYERS["layer norm"], task.compute(plain)
    assert speed.same("layer norm", task.compute(variant.check(plain)), expected, tolerance=1e-5)
    assert not torch.allclose(task.compute(variant.make(plain))["output"], expected["output"], atol=0.01)


def test_flashrnn_takes_part_on_cuda_where_it_is_installed(monkeypatch):
    runs = LAYERS["flashrnn"].runs
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: object())
    assert runs("lstm", "training", cuda) and not runs("gru", "training", cuda) and not runs("lstm", "training", cpu)
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    assert not runs("lstm", "training", cuda)


def test_flashrnn_is_called_as_it_is_documented(monkeypatch):
    plain, task = two_layers(gradient=torch.randn(3, 2, 4))

    def flashrnn(gates_x, recurrent, bias, states, function, dtype):
        """Compute what its README says, with its shapes: (N, T, G, 1, H), (G, 1, H, H), (G, 1, H), (S, N, 1, 1, H)."""
        assert (function, dtype) == ("lstm", "float32")
        h, c = states[:, :, 0, 0]
        both = []
        for step in gates_x[:, :, :, 0].unbind(1):
            i, f, g, o = (step + torch.einsum("gdp,np->ngd", recurrent[:, 0], h) + bias[:, 0]).unbind(1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            both.append(torch.stack((h, c)))
        result = torch.stack(both, 2)[:, :, :, None]  # (S, N, T, 1, H)
        return result, result[:, :, -1:]

    monkeypatch.setattr(speed.importlib, "import_module", lambda name: type("flashrnn", (), {"flashrnn": flashrnn}))
    found = task.compute(speed.FlashLSTM(plain))
    assert speed.same("flashrnn", found, task.compute(plain), tolerance=1e-5) < 1e-5


# ---- step


def test_the_recipe_takes_the_steps_of_the_usual_loop(capsys):
    rows = run("step", "--variants=[weight float32]", "--equal_steps=12")
    assert [row["variant"] for row in rows] == [USUAL, USUAL_AGAIN, "weight float32"]
    for row in rows:
        assert row["steps"] == 12 and row["pairs"] == 2
        assert row["ms"] > 0 and row["peak_mb"] > 50
        assert row["tokens_per_s"] == pytest.approx(20e3 / row["ms"])
        assert abs(row["loss_off"]) < 1e-3
    assert rows[0]["ratio"] == 1 and rows[0]["loss"] == rows[1]["loss"]
    assert [row["variant"] for row in read("step")] == [USUAL, USUAL_AGAIN, "weight float32"]
    text = Path("out/step.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("mine.txt, ") and "| weight float32 |" in text


@pytest.mark.parametrize("name", STEPS)
def test_a_variant_has_the_precision_of_its_name(name, tmp_path):
    words = [*Step().recipe_arguments(tmp_path), *STEPS[name]]
    precision = [word for word in words if word.startswith("--trainer.precision=")][-1]
    assert precision.endswith("bf16-mixed" if "bf16" in name else "32-true")


def test_the_recipe_trains_where_the_usual_loop_does(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(language_model, "main", lambda: None)
    recipe_loop(tmp_path, "--trainer.max_epochs=1")
    assert {"--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=1"} < {*sys.argv}


def test_a_variant_that_fails_is_quoted(monkeypatch, capsys):
    monkeypatch.delitem(STEPS, USUAL_AGAIN)
    monkeypatch.setitem(STEPS, "broken", ["--model.norm=nothing"])
    with pytest.raises(SystemExit):
        run("step", "--variants=[broken]")
    assert not Path("out").exists()
    told = capsys.readouterr().err
    assert "the variant 'broken' ended with status" in told and "nothing" in told


def test_processes_end_with_the_benchmark(monkeypatch):
    started = []

    def start(*args, **kwargs):
        started.append(TrainingProcess(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(speed, "TrainingProcess", start)
    monkeypatch.setattr(speed, "check_loss", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run("step", "--variants=[]")
    (process,) = started
    assert process._process.exitcode is not None


def test_a_process_of_its_own_finds_the_loops_by_their_names():
    for loop in (speed.usual_loop, speed.recipe_loop):
        assert pickle.loads(pickle.dumps(loop)) is loop


ROW = {
    **{"variant": USUAL, "threads": 1, "words": 12_345, "ms": 2.0, "ms_lower": 1.0, "ms_upper": 3.0, "ratio": 1.0},
    **{"speedup": 1.0, "speedup_lower": 0.8, "speedup_upper": 1.25, "tokens_per_s": 1234.0, "peak_mb": 9.0},
    **{"loss": 5.0, "loss_off": -0.001},
}
AGAIN = {**ROW, "variant": USUAL_AGAIN}


def test_the_usual_loop_again_decides_whether_ratios_count():
    text = Step().table([ROW, AGAIN])
    assert text.startswith("python, 12,345 words, 1 x 256, 20 x 35 tokens a step, CPU, torch ")
    assert "| usual loop | 1 | 2 (1, 3) | 1,234 | 1.000 (0.800, 1.250) | 9 | 5.0000 | -0.10% |" in text
    assert "no ratio counts" not in text
    text = Step().table([ROW, {**AGAIN, "ratio": 1.03}])
    assert f"\n{USUAL_AGAIN} is off by more than 2%, so that no ratio counts: 1 threads\n" in text


def test_losses_that_end_far_apart_are_named_and_lose_no_time():
    names = ("plain float32", "plain bf16", "weight float32")
    text = Step().table([ROW, *({**ROW, "variant": name, "loss_off": 0.02} for name in names)])
    assert text.endswith("further off than rounding explains in so few steps: plain float32, plain bf16.\n")


def test_only_weight_normalisation_may_take_other_steps():
    speed.check_loss("weight bf16", 4.0, 4.5, speed.ALL)
    with pytest.raises(
        ValueError, match=r"plain bf16 computes .* its loss is 4\.0000 instead of 4\.5000, .* at most 1\.0%"
    ):
        speed.check_loss("plain bf16", 4.0, 4.5, speed.ALL)
    with pytest.raises(ValueError, match="weight bf16 computes something else"):
        speed.check_loss("weight bf16", 6.0, 5.0, speed.FIRST)
    with pytest.raises(ValueError, match="its loss is nan"):
        speed.check_loss("plain float32", float("nan"), 5.0, speed.FIRST)


def test_every_step_is_counted():
    assert Step(pairs=15).steps == 4 + 15 * 3
    assert Step(pairs=2, equal_steps=300).steps == 300


def test_the_usual_model_has_one_weight_for_words_in_and_out():
    model = speed.UsualModel(10, 4, 2)
    logits, _ = model(torch.randint(10, (3, 2)), None)
    assert logits.shape == (3, 2, 10)
    assert model.decoder.weight is model.encoder.weight


# ---- stream


def test_steps_and_tokens_are_timed_beside_a_plain_read(capsys):
    rows = run("stream", "--threads=[1, 2]")
    by_what = {}
    for row in rows:
        by_what.setdefault((row["what"], row["threads"]), {})[row["variant"]] = row
    cell, model = "LSTM, 1x1x8", "language model, 2 x 6, 20 words"
    assert list(by_what) == [(what, threads) for threads in (1, 2) for what in (cell, model)]
    assert set(by_what[cell, 1]) == {
        *(TORCH, TORCH_AGAIN, READ, "wnseq", "wnseq removed", "wnseq bound", "nn.LSTM", "WNLSTM bound")
    }
    assert set(by_what[model, 1]) == {TORCH, TORCH_AGAIN, READ, "wnseq", "wnseq, nothing drawn"}
    for variants in by_what.values():
        for row in variants.values():
            assert row["per_second"] == pytest.approx(1e3 / row["ms"])
            assert row["of_limit"] == pytest.approx(variants[READ]["ms"] / row["ms"])
        assert variants[TORCH]["ratio"] == variants[READ]["of_limit"] == 1
    assert by_what[cell, 1][TORCH]["mb"] == 4 * 4 * 8 * 16 / 1e6
    assert by_what[model, 1][TORCH]["mb"] == pytest.approx(4 * (2 * 4 * 6 * 12 + 20 * 6) / 1e6)
    assert [row["variant"] for row in read("stream")] == [row["variant"] for row in rows]
    text = Path("out/stream.md").read_text()
    assert text in capsys.readouterr().out
    assert f"| {model} | wnseq |" in text


def test_a_step_that_computes_something_else_is_named(monkeypatch, capsys):
    bind = speed.wnseq.WNLSTMCell.bind

    def wrong(cell):
        step = bind(cell)
        return lambda x, state: tuple(2 * each for each in step(x, state))

    monkeypatch.setattr(speed.wnseq.WNLSTMCell, "bind", wrong)
    with pytest.raises(SystemExit) as stop:
        run("stream")
    assert stop.value.code == 1
    assert "wnseq bound computes something else than torch.nn: its state is off by" in capsys.readouterr().err


def test_weights_are_read_once_a_token():
    calls, size = speed.cell_steps(4)
    assert size == 4 * (16 * 4 + 16 * 4)
    assert torch.equal(calls[TORCH]()[0], calls[TORCH_AGAIN]()[0])
