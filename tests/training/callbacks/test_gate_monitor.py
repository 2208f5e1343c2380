"""What is measured of each gate, when, and where it is written; a gate that is set and frozen on its own."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import Case, covering_cases, each, each_recurrent
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

import wnseq
from wnseq._recurrence.steps import GATES, gate_slice
from wnseq.nn import gate_values
from wnseq.training.callbacks import gate_monitor
from wnseq.training.callbacks.gate_monitor import GateMonitor, gate_weights, row_angles
from wnseq.training.cli.log_filter import filter_lightning_logs
from wnseq.training.gate_statistics import UNIT_COLUMNS
from wnseq.training.plots._gates import GATE_COLUMNS

PLAIN = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "gates.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stub(folder: Path, **changed: Any) -> Any:
    """What the monitor reads from a Trainer."""
    usual = {
        "log_dir": str(folder),
        "loggers": [],
        "global_step": 0,
        "is_global_zero": True,
        "fast_dev_run": False,
        "optimizers": [None],
    }
    return SimpleNamespace(default_root_dir="elsewhere", **{**usual, **changed})


def perturb(model: nn.Module, by: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter))


def step(monitor: GateMonitor, trainer: Any, model: nn.Module, taken: int = 1, by: float = 0.1) -> None:
    """Go through a batch in which the optimiser takes ``taken`` steps."""
    monitor.on_train_batch_start(trainer, model, None, 0)  # type: ignore[arg-type]
    if taken:
        perturb(model, by)
    trainer.global_step += taken
    monitor.on_train_batch_end(trainer, model, None, None, 0)  # type: ignore[arg-type]


@each_recurrent
def test_every_gate_is_measured_as_its_views_have_it(case: Case, tmp_path: Path) -> None:
    model = nn.ModuleDict({"net": case.make()})
    rnn: Any = model["net"]
    trainer, monitor = stub(tmp_path), GateMonitor(every_n_steps=1)
    monitor.on_train_start(trainer, model)  # type: ignore[arg-type]
    before = {name: v.detach().double().clone() for name, _, v, _ in gate_weights(model)}
    step(monitor, trainer, model)

    start, after = ([row for row in rows(tmp_path) if row["step"] == at] for at in "01")
    assert {row["radians_per_step"] for row in start} == {""}
    measured = {(row["weight"], row["gate"]): row for row in after}
    places = range(rnn.num_layers) if "num_layers" in case.kwargs else [None]
    expected = 0
    for layer in places:
        for reverse in (False, True)[: 1 + case.kwargs.get("bidirectional", False)]:
            for of in ("ih", "hh"):
                name = f"weight_{of}" + ("" if layer is None else f"_l{layer}") + ("_reverse" if reverse else "")
                where = {"weight": of} if layer is None else {"weight": of, "layer": layer, "reverse": reverse}
                for gate in GATES[case.kind]:
                    one = gate_slice(case.kind, gate, rnn.hidden_size)
                    a, b = before[f"net.{name}"][one], rnn.get_parameter(f"{name}_v").double()[one]
                    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
                    row = measured[f"net.{name}", gate]
                    assert float(row["g"]) == pytest.approx(rnn.gate_g(gate, **where).mean().item(), rel=1e-5)
                    assert float(row["v_norm"]) == pytest.approx(b.norm(dim=1).mean().item(), rel=1e-5)
                    assert float(row["radians_per_step"]) == pytest.approx(cosine.acos().mean().item(), rel=1e-4)
                    expected += 1
    assert expected == len(measured) == len(after) == len(start)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, 1.0, math.pi / 2, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_angles_are_resolved_however_small_and_whatever_the_lengths(angle: float, scale: float) -> None:
    one, other = torch.linalg.qr(torch.randn(7, 2, dtype=torch.float64)).Q.T
    before = one.expand(3, -1)
    after = scale * (math.cos(angle) * one + math.sin(angle) * other).expand(3, -1)
    torch.testing.assert_close(
        row_angles(before, after), torch.full((3,), angle, dtype=torch.float64), rtol=1e-9, atol=2e-15
    )
    found = row_angles(before.float(), after.float())
    torch.testing.assert_close(found, torch.full((3,), angle), rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_equal_rows_have_the_angle_zero(dtype: torch.dtype) -> None:
    v = torch.randn(4, 5).to(dtype)
    v[1] = 0
    assert row_angles(v, v.clone()).tolist() == [0.0] * 4
    assert row_angles(torch.zeros_like(v), v).tolist() == [0.0] * 4


def test_only_the_step_that_ends_at_a_measurement_is_measured(tmp_path: Path) -> None:
    model, trainer, monitor = wnseq.WNGRU(3, 4), stub(tmp_path), GateMonitor(every_n_steps=3)
    monitor.on_train_start(trainer, model)  # type: ignore[arg-type]
    for k in range(1, 8):
        step(monitor, trainer, model, by=0.001 if k % 3 == 0 else 1.0)
    angles = {int(row["step"]): row["radians_per_step"] for row in rows(tmp_path)}
    assert [*angles] == [0, 3, 6]
    assert all(0 < float(angles[at]) < 0.02 for at in (3, 6))


def test_a_batch_that_only_accumulates_is_no_step(tmp_path: Path) -> None:
    model, trainer, monitor = wnseq.WNRNN(3, 4), stub(tmp_path), GateMonitor(every_n_steps=2)
    monitor.on_train_start(trainer, model)  # type: ignore[arg-type]
    for taken in (0, 1, 0, 0, 1, 0):
        step(monitor, trainer, model, taken)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "0", "2", "2"]
    assert float(rows(tmp_path)[-1]["radians_per_step"]) > 0


def test_two_optimisers_do_not_step_over_a_measurement(tmp_path: Path) -> None:
    model, trainer, monitor = wnseq.WNRNN(3, 4), stub(tmp_path, optimizers=[None, None]), GateMonitor(every_n_steps=5)
    monitor.on_train_start(trainer, model)  # type: ignore[arg-type]
    for _ in range(5):
        step(monitor, trainer, model, taken=2)
    assert [row["step"] for row in rows(tmp_path)][::2] == ["0", "6", "10"]


def test_several_steps_a_batch_do_not_step_over_a_measurement(tmp_path: Path) -> None:
    model = nn.ModuleDict({"net": wnseq.WNGRU(3, 4)})
    trainer, monitor = stub(tmp_path), GateMonitor(every_n_steps=10)
    monitor.on_train_start(trainer, model)  # type: ignore[arg-type]
    for _ in range(10):
        step(monitor, trainer, model, taken=3)
    assert [*dict.fromkeys(row["step"] for row in rows(tmp_path))] == ["0", "12", "21", "30"]


def test_several_modules_have_names_of_their_own(tmp_path: Path) -> None:
    model = nn.ModuleDict({"encoder": wnseq.WNGRU(3, 4), "decoder": wnseq.WNLSTMCell(3, 4), "head": nn.Linear(4, 2)})
    GateMonitor().on_train_start(stub(tmp_path), model)  # type: ignore[arg-type]
    names = dict.fromkeys(row["weight"] for row in rows(tmp_path))
    assert [*names] == ["encoder.weight_ih_l0", "encoder.weight_hh_l0", "decoder.weight_ih", "decoder.weight_hh"]


@pytest.mark.parametrize(
    ("model", "changed"),
    [(nn.LSTM(3, 4), {}), (wnseq.WNLSTM(3, 4), {"fast_dev_run": 1}), (wnseq.WNLSTM(3, 4), {"is_global_zero": False})],
    ids=["plain", "fast_dev_run", "another process"],
)
def test_nothing_is_written_or_said(
    model: nn.Module, changed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, monitor = stub(tmp_path, **changed), GateMonitor(every_n_steps=1)
    monitor.on_train_start(trainer, model)  # type: ignore[arg-type]
    step(monitor, trainer, model)
    monitor.on_fit_end(trainer, model)  # type: ignore[arg-type]
    assert [*tmp_path.iterdir()] == []
    assert capsys.readouterr() == ("", "")


def test_a_recipe_without_such_modules_is_left_alone(main: Callable[..., Any], here: Path) -> None:
    main("--trainer.callbacks", "wnseq.training.callbacks.gate_monitor.GateMonitor", "--trainer.max_epochs", "1")
    assert [*here.rglob("gates.*")] == []


def test_sharded_parameters_are_left_alone_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, trainer, monitor = wnseq.WNRNN(3, 4), stub(tmp_path), GateMonitor(every_n_steps=1)
    model.weight_hh_l0_v = nn.Parameter(model.weight_hh_l0_v.detach().flatten()[:5])  # as a strategy leaves them
    monitor.on_train_start(trainer, model)  # type: ignore[arg-type]
    step(monitor, trainer, model)
    assert capsys.readouterr().out == (
        "no gates.csv: the parameters are sharded, and one process sees a part of each gate\n"
    )
    assert [*tmp_path.iterdir()] == []


def test_a_monitor_that_never_measures_is_refused() -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        GateMonitor(every_n_steps=0)


class Tagger(LightningModule):
    """A recurrent net in training, on batches that follow the step, so that no loader has a position to lose."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = wnseq.WNLSTM(3, 4)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        x = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(self.global_step))
        return (self.rnn(x)[0][..., :3] - x.roll(1, 0)).square().mean()

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.zeros(4), batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 0.01, weight_decay=0.1)


class Validated(Tagger):
    """The same with a validation, which may end in an exception."""

    fails = False

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.rnn(torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(index)))
        if self.fails:
            raise KeyError("a mistake")

    val_dataloader = Tagger.train_dataloader


@pytest.mark.figures
def test_units_are_measured_in_the_validations_of_a_fit(tmp_path: Path) -> None:
    options: Any = {**PLAIN, "default_root_dir": tmp_path, "accelerator": "cpu", "max_steps": 4}
    model, monitor = Validated(), GateMonitor(every_n_steps=2)
    with filter_lightning_logs():
        Trainer(callbacks=[monitor], num_sanity_val_steps=1, **options).fit(model)
    with (tmp_path / "units.csv").open(newline="") as file:
        units = list(csv.DictReader(file))
    assert len(units) == 3 * 4 and units[4].keys() == set(UNIT_COLUMNS)
    x = torch.cat([torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(k)) for k in range(4)], 1)
    forget = gate_values(model.rnn, x)["l0"]["forget"].flatten(0, 1)
    assert [float(row["mean"]) for row in units if row["gate"] == "forget"] == pytest.approx(forget.mean(0).tolist())
    assert all((tmp_path / f"{name}.png").is_file() for name in ("gates", "timescales", "saturation"))
    written = (tmp_path / "units.csv").read_bytes()
    model.fails = True
    with filter_lightning_logs(), pytest.raises(KeyError, match="a mistake"):
        Trainer(callbacks=[monitor], num_sanity_val_steps=0, **options).fit(model)
    assert not model.rnn._forward_pre_hooks and (tmp_path / "units.csv").read_bytes() == written


class Tagged(Validated):
    """The same with its recurrent net inside a forward, which can be compiled as a whole."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.rnn(x)[0]
        return output

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self(torch.randn(6, 2, 3)).square().mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        self(torch.randn(6, 2, 3))


@pytest.mark.figures
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_whose_gates_are_not_seen_says_so_once(
    whole: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model: Any = Tagged()
    if whole:
        model = torch.compile(model, backend="eager")
    else:
        model.rnn.compile(backend="eager")
    options: Any = {**PLAIN, "default_root_dir": tmp_path, "accelerator": "cpu", "max_epochs": 2}
    with filter_lightning_logs():
        Trainer(callbacks=[GateMonitor()], num_sanity_val_steps=1, **options).fit(model)
    assert (tmp_path / "units.csv").exists() != whole
    assert capsys.readouterr().out.count("compiled as a whole") == whole


def fit(folder: Path, steps: int, **resumed: Any) -> Path:
    """Train, and return a checkpoint of the end."""
    kwargs: Any = {**PLAIN, "default_root_dir": folder, "accelerator": "cpu"}
    with filter_lightning_logs():
        trainer = Trainer(max_steps=steps, callbacks=[GateMonitor(every_n_steps=3)], **kwargs)
        trainer.fit(Tagger(), **resumed)
        trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return folder / f"{steps}.ckpt"


def test_a_resumed_run_measures_what_the_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_monitor, "plot_gates", lambda folder: (folder / "gates.png").touch())
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    fit(whole, 16)
    at8 = fit(first, 8)
    fit(second, 16, ckpt_path=at8)
    assert {row["step"] for row in rows(whole)} == {"0", "3", "6", "9", "12", "15"}
    assert rows(first) + rows(second) == rows(whole)
    turns = {row["equilibrium_radians"] for row in rows(whole) if row["step"] != "0"}
    assert turns == {f"{math.sqrt(2 * 0.01 * 0.1 * 0.1 / 1.9):.7g}"}
    assert (whole / "gates.png").is_file() and (second / "gates.png").is_file()

    at12 = fit(first, 12, ckpt_path=at8)  # the same folder: what came before stays,
    text = (first / "gates.csv").read_bytes()
    (first / "gates.csv").write_bytes(text + b"\0\0\n\n12,rnn")  # as a power cut may leave it
    fit(first, 16, ckpt_path=at8)  # what came after the checkpoint is measured again
    fit(first, 16, ckpt_path=at12)
    assert (first / "gates.csv").read_bytes() == (whole / "gates.csv").read_bytes()
    fit(first, 3)
    assert {row["step"] for row in rows(first)} == {"0", "3"}


def test_what_is_written_can_be_drawn(tmp_path: Path) -> None:
    model, trainer, monitor = wnseq.WNLSTM(3, 4, bidirectional=True), stub(tmp_path), GateMonitor(every_n_steps=1)
    monitor.on_train_start(trainer, model)  # type: ignore[arg-type]
    step(monitor, trainer, model)
    assert not (tmp_path / "gates.png").exists()
    monitor.on_fit_end(trainer, model)  # type: ignore[arg-type]
    assert (tmp_path / "gates.png").is_file()
    assert rows(tmp_path)[0].keys() == set(GATE_COLUMNS)


def test_in_a_users_own_trainer_it_writes_where_the_trainer_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        board = TensorBoardLogger("logs", name="tagger")
        with filter_lightning_logs():
            trainer = Trainer(
                max_steps=4,
                callbacks=[GateMonitor(2)],
                accelerator="cpu",
                **{**PLAIN, "logger": [board, CSVLogger("logs")]},
            )
            trainer.fit(Tagger())
    assert sorted(path.as_posix() for path in Path().rglob("gates.*")) == [
        f"logs/tagger/version_{run}/gates.{suffix}" for run in (0, 1) for suffix in ("csv", "png")
    ]
    assert not list(Path().rglob("metrics.csv"))  # the model logs nothing, and gates.csv is enough
    events = EventAccumulator("logs/tagger/version_1").Reload()
    logged = rows(Path("logs/tagger/version_1"))
    for column in ("g", "v_norm", "radians_per_step"):
        shown = events.Scalars(f"gates/rnn.weight_hh_l0/forget/{column}")
        written = [
            row for row in logged if (row["weight"], row["gate"]) == ("rnn.weight_hh_l0", "forget") and row[column]
        ]
        assert [point.step for point in shown] == [int(row["step"]) for row in written]
        assert [point.value for point in shown] == pytest.approx([float(row[column]) for row in written], rel=1e-5)


# ---- one gate alone ----------------------------------------------------------------------------------------------


@each([case for case in covering_cases() if case.kwargs["num_layers"] == 2 and case.kwargs["bidirectional"]])
def test_a_gate_is_set_and_frozen_on_its_own(case: Case) -> None:
    rnn: Any = case.make()
    gate = GATES[case.kind][0]
    with torch.no_grad():
        rnn.gate_g(gate, layer=1, weight="hh", reverse=True).fill_(2.0)
    frozen = gate_slice(case.kind, gate, rnn.hidden_size)
    rnn.weight_hh_l1_reverse_g.register_hook(lambda grad: grad.index_fill(0, torch.arange(len(grad))[frozen], 0))
    start = {name: parameter.detach().clone() for name, parameter in rnn.named_parameters()}
    optimizer = torch.optim.Adam(rnn.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        rnn(torch.randn(4, 2, 5))[0].square().mean().backward()
        optimizer.step()
    assert rnn.gate_g(gate, layer=1, weight="hh", reverse=True).tolist() == [2.0] * rnn.hidden_size
    for name, parameter in rnn.named_parameters():
        moved = parameter != start[name]
        if name == "weight_hh_l1_reverse_g":
            assert not moved[frozen].any()
            moved = torch.cat([moved[: frozen.start], moved[frozen.stop :]])
        assert moved.all() or case.kwargs.get("nonlinearity") == "relu", name


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW], ids=lambda kind: kind.__name__)
def test_a_gate_stays_frozen_under_momentum_and_decay(optimizer: Callable[..., Any]) -> None:
    rnn = wnseq.WNLSTM(5, 6)
    momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    steps = optimizer(rnn.parameters(), lr=0.01, weight_decay=0.1, **momentum)

    def train() -> None:
        for _ in range(3):
            steps.zero_grad()
            rnn(torch.randn(4, 2, 5))[0].square().mean().backward()
            steps.step()

    train()  # so that there are moments to carry a gate on
    kept = rnn.gate_g("forget").detach().clone()
    others = rnn.gate_g("output").detach().clone()

    @torch.no_grad()
    def put_back(*_: Any) -> None:
        rnn.gate_g("forget").copy_(kept)

    handle = steps.register_step_post_hook(put_back)
    train()
    assert torch.equal(rnn.gate_g("forget"), kept) and not torch.equal(rnn.gate_g("output"), others)
    handle.remove()
    train()
    assert not torch.equal(rnn.gate_g("forget"), kept)
