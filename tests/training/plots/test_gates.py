"""The figure of a run's gates."""

import csv
import sys
from pathlib import Path

import pytest
from figures import colors_in, rgb, size_of

from wnseq.training import plots
from wnseq.training.plots._gates import GATE_COLORS, GATE_COLUMNS
from wnseq.training.plots._style import THEORY_COLOR

LSTM, GRU = ["input", "forget", "cell", "output"], ["reset", "update", "new"]


def write(log: Path, weights: dict[str, list[str]], steps: list[int], equilibrium: float | str = "") -> Path:
    with log.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(GATE_COLUMNS)
        for step in steps:
            for weight, gates in weights.items():
                for k, gate in enumerate(gates):
                    writer.writerow([step, weight, gate, 1 + k * step, 0.5, 0.1 if step else "", equilibrium])
    return log


def test_gates_are_read_with_their_steps_and_no_angle_at_the_start(tmp_path: Path) -> None:
    log = write(tmp_path / "gates.csv", {"a.weight_ih": GRU, "b.weight_ih": LSTM}, [0, 50, 100])
    with log.open("a", encoding="utf-8") as file:
        file.write("150")  # as a kill leaves it
    weights = plots.read_gates(log)
    assert {name: [*gates] for name, gates in weights.items()} == {"a.weight_ih": GRU, "b.weight_ih": LSTM}
    assert weights["b.weight_ih"]["cell"] == {
        "g": ([0, 50, 100], [1, 101, 201]),
        "v_norm": ([0, 50, 100], [0.5] * 3),
        "radians_per_step": ([50, 100], [0.1] * 2),
        "equilibrium_radians": ([], []),
    }


@pytest.mark.parametrize(
    ("weights", "width", "equilibrium"),
    [
        ({"rnn.weight_ih_l0": LSTM, "rnn.weight_hh_l0": LSTM}, 1024, 0.08),
        (
            {f"{net}.weight_{kind}": gates for net, gates in [("a", LSTM), ("b", GRU)] for kind in ("ih", "hh")},
            1792,
            "",
        ),
    ],
    ids=["one net", "two nets"],
)
def test_each_gate_has_a_colour(
    weights: dict[str, list[str]], width: int, equilibrium: float | str, tmp_path: Path
) -> None:
    write(tmp_path / "gates.csv", weights, [0, 50, 100, 150], equilibrium)
    assert plots.plot_gates(tmp_path)
    assert size_of(tmp_path / "gates.png") == (width, 1024)
    assert {rgb(color) for color in GATE_COLORS} <= colors_in(tmp_path / "gates.png")
    assert (rgb(THEORY_COLOR) in colors_in(tmp_path / "gates.png")) == bool(equilibrium)


def test_a_run_says_why_it_has_no_figure_of_its_gates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(tmp_path / "gates.csv", {"weight_ih": GRU}, [0])
    assert not plots.plot_gates(tmp_path)
    assert capsys.readouterr().out == (
        f"no figure of the gates: {log} has fewer than two steps in it; the run was shorter than the monitor's "
        "every_n_steps.\n"
    )
    write(log, {"weight_ih": GRU}, [0, 50])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plots.plot_gates(tmp_path)
    assert capsys.readouterr().out == "no figure of the gates: it needs matplotlib (pip install 'wnseq[plots]')\n"
