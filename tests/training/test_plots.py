"""The figures of a run, its curves, gates and images, and those of a comparison."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wnseq.training import plots

COLUMNS = ["epoch", "lr-Adam", "step", "train/loss", "val/loss"]


def write(log: Path, rows: list[dict[str, Any]]) -> Path:
    with log.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    train = [{"step": step, "train/loss": 3 / (step + 1)} for step in range(200)]
    rates = [{"step": step, "lr-Adam": 0.1} for step in range(200)]
    return write(tmp_path / "metrics.csv", [*train, *rates, {"step": 199, "epoch": 0, "val/loss": 0.5}])


def test_columns_are_read_with_their_steps(log: Path) -> None:
    columns = plots.read(log)
    assert columns.keys() == {"train/loss", "lr-Adam", "val/loss"}
    assert columns["val/loss"] == ([199], [0.5])
    assert columns["train/loss"][0] == list(range(200))


@pytest.mark.parametrize("dropped", [[], ["train/loss"], ["val/loss"], ["lr-Adam"]], ids=lambda names: "-".join(names))
def test_curves_are_drawn_from_what_there_is(log: Path, tmp_path: Path, dropped: list[str]) -> None:
    with log.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not any(row[name] for name in dropped)]
    write(log, rows)
    before = set(sys.modules)
    figure = plots.curves(log, tmp_path / "curves.png", metric="loss", title="a title")
    image = Image.open(figure).convert("RGB")
    assert image.size == (1024, 672)
    shown = {color for _, color in image.getcolors(maxcolors=1 << 20) or []}
    for name, color in [("train/loss", plots.TRAIN), ("val/loss", plots.VALIDATION)]:
        assert (tuple(bytes.fromhex(color[1:])) in shown) is (name not in dropped)
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_a_log_without_the_metric_is_refused(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.csv has neither a train/bits nor a val/bits in it"):
        plots.curves(log, tmp_path / "curves.png", metric="bits", title="")


def test_a_smoothed_curve_lags_nowhere() -> None:
    line = [float(value) for value in range(300)]
    assert plots.smooth(line)[:290] == pytest.approx(line[:290])
    assert plots.smooth([1.0]) == [1.0]


def test_a_run_says_why_it_has_no_figure(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plots.plot_run(tmp_path, metric="bits", title="")
    assert capsys.readouterr().out == f"no figure: {log} has neither a train/bits nor a val/bits in it.\n"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plots.plot_run(tmp_path, metric="loss", title="")
    assert capsys.readouterr().out == "no figure: it needs matplotlib (pip install 'wnseq[plots]')\n"
    plots.plot_run(tmp_path / "elsewhere", metric="loss", title="")
    assert capsys.readouterr().out == ""


def write_gates(log: Path, weights: dict[str, list[str]], steps: list[int]) -> Path:
    with log.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(plots.GATE_COLUMNS)
        for step in steps:
            for weight, gates in weights.items():
                for k, gate in enumerate(gates):
                    writer.writerow([step, weight, gate, 1 + k * step, 0.5, 0.1 if step else ""])
    return log


LSTM, GRU = ["input", "forget", "cell", "output"], ["reset", "update", "new"]


def test_gates_are_read_with_their_steps_and_no_angle_at_the_start(tmp_path: Path) -> None:
    log = write_gates(tmp_path / "gates.csv", {"a.weight_ih": GRU, "b.weight_ih": LSTM}, [0, 50, 100])
    weights = plots.read_gates(log)
    assert {name: [*of] for name, of in weights.items()} == {"a.weight_ih": GRU, "b.weight_ih": LSTM}
    assert weights["b.weight_ih"]["cell"] == {
        "g": ([0, 50, 100], [1, 101, 201]),
        "v_norm": ([0, 50, 100], [0.5] * 3),
        "radians_per_step": ([50, 100], [0.1] * 2),
    }


@pytest.mark.parametrize(
    ("weights", "width"),
    [
        ({"rnn.weight_ih_l0": LSTM, "rnn.weight_hh_l0": LSTM}, 1024),
        ({f"{net}.weight_{of}": gates for net, gates in [("a", LSTM), ("b", GRU)] for of in ("ih", "hh")}, 1792),
    ],
    ids=["one net", "two nets"],
)
def test_gates_are_drawn_a_colour_each(weights: dict[str, list[str]], width: int, tmp_path: Path) -> None:
    log = write_gates(tmp_path / "gates.csv", weights, [0, 50, 100, 150])
    before = set(sys.modules)
    image = Image.open(plots.gates(log, tmp_path / "gates.png")).convert("RGB")
    assert image.size == (width, 1024)
    shown = {color for _, color in image.getcolors(maxcolors=1 << 20) or []}
    assert all(tuple(bytes.fromhex(color[1:])) in shown for color in plots.GATES)
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_a_run_says_why_it_has_no_figure_of_its_gates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_gates(tmp_path / "gates.csv", {"weight_ih": GRU}, [0])
    with pytest.raises(ValueError, match=r"gates\.csv has fewer than two steps in it"):
        plots.gates(log, tmp_path / "gates.png")
    plots.plot_gates(tmp_path)
    assert capsys.readouterr().out == (
        f"no figure of the gates: {log} has fewer than two steps in it; the run was shorter than the monitor's "
        "every_n_steps.\n"
    )
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plots.plot_gates(tmp_path)
    assert capsys.readouterr().out == "no figure of the gates: it needs matplotlib (pip install 'wnseq[plots]')\n"


def shown_in(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return {color for _, color in image.convert("RGB").getcolors(maxcolors=1 << 20) or []}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_drawn_with_their_captions(channels: int, tmp_path: Path) -> None:
    images = np.full((12, channels, 4, 4), 0.0)
    images[:, 0] = 1.0 if channels == 3 else 0.6
    before = set(sys.modules)
    figure = plots.images_with([f"{k} → {k + 1}" for k in range(12)], images, tmp_path / "images.png", title="label")
    assert size_of(figure) == (1280, 384)
    assert {1: (153, 153, 153), 3: (255, 0, 0)}[channels] in shown_in(figure)
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    assert plots.plot_images(images[:1], ["one"], tmp_path / "one.png", title="label")


RUNS = {
    "one": [{f"{stage}/loss": ([1, 2, 3], [3.0, 2.0, 1.0 + seed]) for stage in ("train", "val")} for seed in range(2)],
    "two": [{"train/loss": ([1, 2], [0.5, 0.4])}],
}


def test_variants_are_drawn_a_colour_each(tmp_path: Path) -> None:
    figure = plots.compared(RUNS, tmp_path / "curves.png", metric="loss", title="a title")
    assert {rgb(color) for color in plots.VARIANTS[:2]} <= shown_in(figure)
    assert size_of(figure)[0] == 1280
    one = plots.compared({"two": RUNS["two"]}, tmp_path / "one.png", metric="loss", title="a title")
    assert size_of(one)[0] < 1280  # without validation there is one panel
    with pytest.raises(ValueError, match="no run has a train/bits or a val/bits in it"):
        plots.compared(RUNS, tmp_path / "bits.png", metric="bits", title="")


def test_a_sweep_is_drawn_with_what_diverged(tmp_path: Path) -> None:
    runs: dict[str, list[tuple[float, float | None]]] = {
        "one": [(0.1, 3.0), (0.1, 4.0), (1.0, 2.0), (10.0, None)],
        "two": [(0.1, 5.0), (1.0, 0.0)],
    }
    figure = plots.swept(runs, tmp_path / "sweep.png", option="model.learning_rate", metric="test/loss", title="")
    assert {rgb(color) for color in plots.VARIANTS[:2]} <= shown_in(figure)
    with pytest.raises(ValueError, match="every run has diverged"):
        plots.swept({"one": [(0.1, None)]}, tmp_path / "none.png", option="rate", metric="loss", title="")


def test_a_comparison_says_why_it_has_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plots.plot_variants(RUNS, tmp_path / "a.png", metric="bits", title="")
    assert capsys.readouterr().out == "no figure: no run has a train/bits or a val/bits in it.\n"
    plots.plot_sweep({"one": [(0.1, None)]}, tmp_path / "a.png", option="rate", metric="loss", title="")
    assert capsys.readouterr().out == "no figure: every run has diverged.\n"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plots.plot_variants(RUNS, tmp_path / "a.png", metric="loss", title="")
    plots.plot_sweep({"one": [(0.1, 1.0)]}, tmp_path / "a.png", option="rate", metric="loss", title="")
    assert not plots.plot_images(np.zeros((1, 1, 4, 4)), ["one"], tmp_path / "a.png", title="")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.endswith("it needs matplotlib (pip install 'wnseq[plots]')") for line in lines)


def test_an_animation_shows_each_step_and_its_windows(tmp_path: Path) -> None:
    frames = np.zeros((5, 3, 4, 6))
    frames[:, 2] = np.linspace(0, 1, 5)[:, None, None]
    boxes = np.full((5, 3, 4), np.nan)
    boxes[:, 0] = (1, 1, 3, 3)
    boxes[:, 1] = (-50, -50, 50, 50)  # larger than the image: drawn around it
    before = set(sys.modules)
    with Image.open(plots.animated(frames, boxes, tmp_path / "windows.gif", columns=2)) as animation:
        assert animation.size == (249, 172)  # 13 by 9 pixels, an image 0.8 inches high
        assert animation.n_frames == 5  # the last is shown for longer
        shown = []
        for frame in (0, animation.n_frames - 1):
            animation.seek(frame)
            shown.append(np.asarray(animation.convert("RGB")).astype(int))
    lower_left = (slice(110, 160), slice(20, 100))
    assert shown[0][lower_left].max() < 10 and shown[1][lower_left].min() > 245
    red = np.abs(shown[0] - rgb(plots.VALIDATION)).max(2) < 60
    assert red[:76, :115].any() and red[:76, 134:].any() and not red[95:].any()
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    with Image.open(plots.animated(frames, None, tmp_path / "none.gif", columns=9)) as animation:
        assert not (np.abs(np.asarray(animation.convert("RGB")).astype(int) - rgb(plots.VALIDATION)).max(2) < 60).any()
