"""What an evaluation measured on what; more processes than cores."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer

from wnseq.training.cli.measured import check_processes, describe_measured


def data(digest: str) -> Any:
    return SimpleNamespace(
        provenance=lambda: {"dataset": "b", "dataset_sha256": digest}, describe_part=lambda part: f"b, {part} part"
    )


def test_a_checkpoint_its_data_and_other_data_are_named() -> None:
    info = {"dataset": "a", "dataset_sha256": "0123456789abcdef"}
    expected = ["checkpoint   best.ckpt", "measured on  b, test part"]
    assert list(describe_measured("best.ckpt", info, data("0123456789abcdef"), "test")) == expected
    (*same, other) = describe_measured("best.ckpt", info, data("f" * 64), "test")
    assert same == expected and other == "trained on   dataset a (sha256 0123456789ab), which is another one"
    assert list(describe_measured(None, {}, object(), "val")) == []


def test_more_processes_than_cores_are_refused() -> None:
    cores = os.cpu_count() or 1
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False}
    check_processes(Trainer(devices=1, **quiet))
    with pytest.raises(
        ValueError, match=rf"--trainer\.devices {cores + 1} on a CPU are as many processes, and there are"
    ):
        check_processes(Trainer(devices=cores + 1, **quiet))
