"""Files of what a model draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wnseq.training import plots
from wnseq.training.sample_files import append_texts, read_prompts, save_samples


def test_samples_are_written_as_a_figure_and_as_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, z = torch.rand(3, 1, 4, 4), torch.randn(3, 2, requires_grad=True)
    output = tmp_path / "to" / "x"
    assert save_samples(output, images, images=images.bfloat16(), z=z) == [
        output.with_suffix(".png"),
        output.with_suffix(".npz"),
    ]
    assert output.with_suffix(".png").stat().st_size > 1000
    with np.load(output.with_suffix(".npz")) as found:
        np.testing.assert_array_equal(found["z"], z.detach().numpy())
        assert sorted(found.files) == ["images", "z"]
        assert found["images"].dtype == np.float32
    monkeypatch.setattr(plots, "plot_images", lambda *_, **__: False)  # as where matplotlib is missing
    assert save_samples(output, images, images=images) == [output.with_suffix(".npz")]


def test_a_dot_in_the_name_stays(tmp_path: Path) -> None:
    names = [path.name for path in save_samples(tmp_path / "v1.0", torch.rand(1, 1, 4, 4), z=torch.zeros(1))]
    assert names == ["v1.0.png", "v1.0.npz"]


def test_texts_are_kept_below_how_they_were_drawn(tmp_path: Path) -> None:
    path = tmp_path / "to" / "samples.txt"
    assert append_texts(path, ["one\ntwo", "größer"], seed=3, prompt="a", top_k=None) == path
    append_texts(path, ["later"], seed=4)
    how = "seed 3, prompt 'a'"
    assert path.read_text("utf-8") == (
        f"--- sample 0: {how}\none\ntwo\n\n--- sample 1: {how}\ngrößer\n\n--- sample 0: seed 4\nlater\n\n"
    )


def test_prompts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + " über\n\nand\r\n".encode())
        assert read_prompts(path) == [" über", "and"]
    for content, text in ((b"\n", "has no prompt: write one a line"), (b"\xff", "is not UTF-8 text")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=text):
            read_prompts(path)
    with pytest.raises(FileNotFoundError, match=r"there is no file of prompts at .*none\.txt"):
        read_prompts(tmp_path / "none.txt")
