"""The style of every figure, the line that is printed without one, and labels of a logarithmic axis."""

import sys
from pathlib import Path

import pytest
from figures import size_of

from wnseq.training.plots import _style as style


def test_a_figure_is_saved_when_the_block_ends_and_the_style_is_undone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style.new_figure(tmp_path / "a.png", 2, 1) as figure:
        assert matplotlib.rcParams["axes.grid"] is True
        figure.subplots()
    assert size_of(tmp_path / "a.png") == (320, 160)
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    before = set(sys.modules)
    with style.new_figure(tmp_path / "a.png", 2, 1):
        pass
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_a_figure_that_fails_prints_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    @style.print_failures("picture")
    def draw(error: Exception | None) -> None:
        if error is not None:
            raise error

    assert draw(None)
    assert not draw(ModuleNotFoundError("No module named 'matplotlib'"))
    assert not draw(ValueError("there is nothing to draw."))
    assert capsys.readouterr().out == (
        "no picture: it needs matplotlib (pip install 'wnseq[plots]')\nno picture: there is nothing to draw.\n"
    )
    with pytest.raises(KeyError):
        draw(KeyError("a bug"))


def test_a_logarithmic_axis_has_plain_numbers(tmp_path: Path) -> None:
    with style.new_figure(tmp_path / "a.png", 4, 3) as figure:
        axes = figure.subplots()
        axes.plot([1, 2], [0.8, 3.0])
        style.set_log_scale(axes)
        figure.canvas.draw()
        labels = {label.get_text() for label in axes.get_yticklabels(which="both")}
    assert {"1", "2"} <= labels
    assert all(label == "" or float(label) for label in labels)
