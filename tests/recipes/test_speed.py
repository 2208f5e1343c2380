import copy
import csv
from pathlib import Path

import pytest
import torch
from torch import nn

import wnseq
from wnseq.recipes import speed
from wnseq.recipes.speed import AGAIN, CONTENDERS, PLAIN, Contender, Task, computed, main

SMALL = ["--pairs=2", "--least_ms=0", "--out=out", "--threads=[1]", "--keep_memory=false"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read():
    with Path("out/recurrence.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_contender_is_timed_at_every_size(capsys):
    threads = torch.get_num_threads()
    rows = main([*SMALL, "--sizes=[2x3x5x2]", "--kinds=[lstm, gru]", "--dtypes=[float32, bf16]"])
    assert torch.get_num_threads() == threads
    written = read()
    assert list(written[0]) == [
        *("device", "threads", "dtype", "kind", "steps", "batch", "hidden", "layers", "mode", "contender", "phase"),
        *("pairs", "ms", "ms_lower", "ms_upper", "ratio", "ratio_lower", "ratio_upper", "peak_mb", "error"),
    ]
    assert len(written) == len(rows)
    trained = {(row["kind"], row["contender"]) for row in rows if row["mode"] == "training"}
    both = {PLAIN, AGAIN, "torch weight_norm", "wnseq"}
    assert trained == {(kind, name) for kind in ("lstm", "gru") for name in both} | {("lstm", "layer norm")}
    used = {(row["kind"], row["contender"]) for row in rows if row["mode"] == "inference"}
    assert used - trained == {(kind, f"wnseq {way}") for kind in ("lstm", "gru") for way in ("folded", "bound")}
    for row in rows:
        assert row["ms"] > 0 and row["ratio"] > 0 and row["pairs"] == 2
        assert row["contender"] != PLAIN or row["ratio"] == 1
        assert 0 <= row["error"] < speed.TOLERANCE[row["dtype"]]
    assert {row["phase"] for row in rows if row["mode"] == "training"} == {"forward", "backward", "both"}
    text = Path("out/recurrence.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("\n\n| TxNxHxL | contender |") == 8  # kinds, dtypes, training and inference
    assert "| 2x3x5x2 | wnseq bound |" in text
    assert Path("out/recurrence.png").stat().st_size > 1000


def test_memory_is_kept_unless_asked_not_to(monkeypatch):
    kept = []
    monkeypatch.setattr(speed, "keep_freed_memory", lambda: kept.append(True))
    arguments = [*SMALL, "--sizes=[1x1x4x1]", "--contenders=[]"]
    main(arguments)
    assert not kept
    main([*arguments, "--keep_memory=true"])
    assert kept


def test_few_may_be_asked_for():
    rows = main([*SMALL, "--sizes=[2x3x5x1]", "--contenders=[wnseq bound]"])
    assert {row["contender"] for row in rows if row["mode"] == "training"} == {PLAIN, AGAIN}
    assert {row["contender"] for row in rows if row["mode"] == "inference"} == {PLAIN, AGAIN, "wnseq bound"}


def test_the_twin_decides_whether_ratios_count(monkeypatch, capsys):
    monkeypatch.setattr(speed.timing, "SAME", 1e9)
    arguments = [*SMALL, "--sizes=[2x3x5x1]", "--contenders=[]"]
    main(arguments)
    assert "so that no ratio counts" not in capsys.readouterr().out
    monkeypatch.setattr(speed.timing, "SAME", -1)
    main(arguments)
    assert "no ratio counts: 2x3x5x1 (forward, backward, both)" in capsys.readouterr().out


def test_what_is_not_given_stands_for_few_or_for_all():
    few, every = speed.Grid(), speed.Grid(full=True)
    assert (few.kinds, few.dtypes) == (["lstm"], ["float32"])
    assert (every.kinds, every.dtypes) == (["lstm", "gru"], ["float32", "bf16"])
    assert set(few.sizes) < set(every.sizes)
    assert speed.Grid(full=True, kinds=["gru"]).kinds == ["gru"]


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
def test_a_contender_that_computes_something_else_is_named(cls, part, monkeypatch, capsys):
    monkeypatch.setitem(CONTENDERS, "cheat", Contender(cls))
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, "--sizes=[2x3x5x1]", "--contenders=[cheat]"])
    assert stop.value.code == 1
    assert f"cheat computes something else than torch.nn: its {part} is off by" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_weights_gradient_is_that_of_the_composed_weight():
    plain = nn.LSTM(4, 4)
    ours = wnseq.weight_normalize(plain).model
    with torch.no_grad():
        ours.weight_hh_l0_v.mul_(torch.rand(16, 1) + 0.5)  # the same weight, and g is no longer the norm of v
    task = Task(torch.randn(3, 2, 4), (torch.randn(1, 2, 4), torch.randn(1, 2, 4)), torch.randn(3, 2, 4), "float32")
    torch.testing.assert_close(computed(ours, ours, task), computed(plain, plain, task))


def test_layer_norm_normalises_while_it_is_timed():
    plain = nn.LSTM(4, 4, 2)
    module = speed.LayerNormLSTM(plain)
    task = Task(torch.randn(3, 2, 4), (torch.randn(2, 2, 4), torch.randn(2, 2, 4)), None, "float32")
    expected = computed(plain, plain, task)
    assert speed.checked("layer norm", module, module, task, expected) < 1e-5
    assert not torch.allclose(computed(module, module, task)["output"], expected["output"], atol=0.01)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--sizes=[35x20x650]", "a size is steps x batch x hidden size x layers, as in 35x20x650x2; got '35x20x650'"),
        ("--sizes=[0x1x4x1]", "got '0x1x4x1'"),
        ("--sizes=[1x1x-4x1]", "got '1x1x-4x1'"),
        ("--contenders=[wnsek]", "there is no contender 'wnsek'. Did you mean wnseq?"),
        ("--pairs=1", "pairs must be at least 2, got 1"),
        ("--threads=[0]", "threads must be numbers of at least 1, got [0]"),
        ("--device=cuda", "device is cuda, and this torch sees no GPU"),
    ],
)
def test_a_mistake_is_told(option, text, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, option])
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert text in told and "Traceback" not in told


def test_flashrnn_takes_part_on_cuda_where_it_is_installed(monkeypatch):
    entry = CONTENDERS["flashrnn"]
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: object())
    assert entry.runs("lstm", cuda) and not entry.runs("gru", cuda) and not entry.runs("lstm", cpu)
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    assert not entry.runs("lstm", cuda)


def test_flashrnn_is_called_as_it_is_documented(monkeypatch):
    plain = nn.LSTM(4, 4, 2)

    def flashrnn(of_x, recurrent, bias, states, function, dtype):
        """Compute what its README says, with its shapes: (N, T, G, 1, H), (G, 1, H, H), (G, 1, H), (S, N, 1, 1, H)."""
        assert (function, dtype) == ("lstm", "float32")
        h, c = states[:, :, 0, 0]
        both = []
        for step in of_x[:, :, :, 0].unbind(1):
            i, f, g, o = (step + torch.einsum("gdp,np->ngd", recurrent[:, 0], h) + bias[:, 0]).unbind(1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            both.append(torch.stack((h, c)))
        result = torch.stack(both, 2)[:, :, :, None]  # (S, N, T, 1, H)
        return result, result[:, :, -1:]

    monkeypatch.setattr(speed.importlib, "import_module", lambda name: type("flashrnn", (), {"flashrnn": flashrnn}))
    module = speed.FlashLSTM(plain)
    task = Task(torch.randn(3, 2, 4), (torch.randn(2, 2, 4), torch.randn(2, 2, 4)), torch.randn(3, 2, 4), "float32")
    assert speed.checked("flashrnn", module, module, task, computed(plain, plain, task)) < 1e-5
