"""Files of what a model draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wnseq.training import plots
from wnseq.training.sample_files import save_samples


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
