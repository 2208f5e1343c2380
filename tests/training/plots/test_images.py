"""Figures of images, and the animation."""

import sys
from pathlib import Path

import numpy as np
import pytest
from figures import colors_in, rgb, size_of
from PIL import Image

from wnseq.training import plots
from wnseq.training.plots._style import VALIDATION_COLOR


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_drawn_with_their_captions(channels: int, tmp_path: Path) -> None:
    images = np.full((12, channels, 4, 4), 0.0)
    images[:, 0] = 1.0 if channels == 3 else 0.6
    figure = tmp_path / "images.png"
    assert plots.plot_images(images, [f"{k} → {k + 1}" for k in range(12)], figure, title="label")
    assert size_of(figure) == (1280, 384)
    assert {1: (153, 153, 153), 3: (255, 0, 0)}[channels] in colors_in(figure)
    assert plots.plot_images(images[:1], ["one"], tmp_path / "one.png", title="label")


def test_without_matplotlib_a_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plots.plot_images(np.zeros((1, 1, 4, 4)), ["one"], tmp_path / "a.png", title="")
    assert capsys.readouterr().out == "no figure of images: it needs matplotlib (pip install 'wnseq[plots]')\n"


def test_an_animation_shows_each_step_and_its_boxes(tmp_path: Path) -> None:
    frames = np.zeros((5, 3, 4, 6))
    frames[:, 2] = np.linspace(0, 1, 5)[:, None, None]
    boxes = np.full((5, 3, 4), np.nan)
    boxes[:, 0] = (1, 1, 3, 3)
    boxes[:, 1] = (-50, -50, 50, 50)  # larger than the image: drawn around it
    before = set(sys.modules)
    with Image.open(plots.save_animation(frames, boxes, tmp_path / "boxes.gif", columns=2)) as animation:
        assert animation.size == (249, 172)  # 13 by 9 pixels, an image 0.8 inches high
        assert animation.n_frames == 5  # the last is shown for longer
        shown = []
        for frame in (0, animation.n_frames - 1):
            animation.seek(frame)
            shown.append(np.asarray(animation.convert("RGB")).astype(int))
    lower_left = (slice(110, 160), slice(20, 100))
    assert shown[0][lower_left].max() < 10 and shown[1][lower_left].min() > 245
    red = np.abs(shown[0] - rgb(VALIDATION_COLOR)).max(2) < 60
    assert red[:76, :115].any() and red[:76, 134:].any() and not red[95:].any()
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    with Image.open(plots.save_animation(frames, None, tmp_path / "none.gif", columns=9)) as animation:
        pixels = np.asarray(animation.convert("RGB")).astype(int)
    assert not (np.abs(pixels - rgb(VALIDATION_COLOR)).max(2) < 60).any()
