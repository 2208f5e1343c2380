"""Which checkpoint is whole."""

import os
from pathlib import Path

import torch

from wnseq.training.archives import newest_whole


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    for time, name in enumerate(("older", "best", "damaged", "empty")):
        path = tmp_path / f"{name}.ckpt"
        torch.save({"w": torch.ones(99)}, path)
        if name in ("damaged", "empty"):
            path.write_bytes(path.read_bytes()[: 300 if name == "damaged" else 0])
        os.utime(path, (time, time))
    assert newest_whole(tmp_path) == tmp_path / "best.ckpt"
    (tmp_path / "other").mkdir()
    assert newest_whole(tmp_path / "other", tmp_path) == tmp_path / "best.ckpt"
    assert newest_whole(tmp_path, but=tmp_path / "best.ckpt") == tmp_path / "older.ckpt"
