"""The table of a classifier's predictions."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule

from wnseq.training.predictions import print_predictions


def trainer(rank: int = 0, ranks: int = 1, files: tuple[str, ...] | None = None, size: int = 4) -> Any:
    images = SimpleNamespace(parts={"test": SimpleNamespace(files=files)})
    data = SimpleNamespace(eval_batch_size=size, images=images)
    return SimpleNamespace(datamodule=data, global_rank=rank, world_size=ranks, is_global_zero=rank == 0)


def test_each_image_has_a_row_with_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    probabilities, labels = torch.tensor([[0.25, 0.75], [1.0, 0.0]]), torch.tensor([0, 1])
    print_predictions(trainer(), 0, probabilities, labels, ["cat", "dog"])
    assert capsys.readouterr().out.splitlines() == [
        "image,label,predicted,probability", "0,cat,dog,0.7500", "1,dog,cat,1.0000"
    ]  # fmt: skip
    print_predictions(trainer(rank=1, ranks=2), 1, probabilities, labels, ["cat", "dog"])
    assert capsys.readouterr().out.splitlines() == ["5,cat,dog,0.7500", "7,dog,cat,1.0000"]
    print_predictions(trainer(rank=1, ranks=3, size=1), 1, probabilities[:1], labels[:1], ["cat", "dog"])
    assert capsys.readouterr().out.splitlines() == ["4,cat,dog,0.7500"]  # batches of three, one for each process


def test_images_of_files_without_labels_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions(trainer(files=("a.png", "b,c.png")), 0, torch.eye(2), None, ["cat", "dog"])
    assert capsys.readouterr().out.splitlines() == [
        "image,predicted,probability", "a.png,cat,1.0000", '"b,c.png",dog,1.0000'
    ]  # fmt: skip


def test_images_of_ones_own_have_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    for data in (None, LightningDataModule()):
        own: Any = SimpleNamespace(datamodule=data, is_global_zero=True)
        print_predictions(own, 0, torch.ones(1, 1), torch.tensor([0]), ["cat"])
    assert capsys.readouterr().out == ""
