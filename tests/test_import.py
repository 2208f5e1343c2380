"""``import wnseq`` costs what ``import torch`` costs: nothing heavier comes along."""

import subprocess
import sys

import pytest

HEAVY = {"lightning", "pytorch_lightning", "torchtext", "sentencepiece", "sklearn", "matplotlib", "torch._dynamo"}


def loaded(statement: str) -> set[str]:
    """Name the modules that a fresh interpreter loads for ``statement``, as ``-X importtime`` lists them."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True
    )
    lines = process.stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_an_import_and_the_list_of_recipes_are_light() -> None:
    found = loaded("import wnseq.training, wnseq.training.cli.command as command; command.main(['list'])")
    assert {"wnseq", "torch", "wnseq.training.cli.command"} <= found
    assert found & HEAVY == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert {"sentencepiece", "matplotlib"} <= loaded("import sentencepiece, matplotlib") & HEAVY


def test_the_callbacks_are_imported_when_one_is_used() -> None:
    import wnseq.training
    from wnseq.training import GateMonitor, callbacks

    assert GateMonitor is callbacks.GateMonitor
    assert set(wnseq.training.__all__) <= set(callbacks.__all__)
    with pytest.raises(AttributeError, match=r"module 'wnseq\.training' has no attribute 'GateMonitr'"):
        wnseq.training.GateMonitr  # noqa: B018
