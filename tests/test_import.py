"""``import wnseq`` costs what ``import torch`` costs: nothing heavier comes along."""

import subprocess
import sys

import pytest

HEAVY = {"lightning", "pytorch_lightning", "torchtext", "sentencepiece", "sklearn", "matplotlib", "torch._dynamo"}


def loaded(statement: str) -> set[str]:
    """Name what a fresh interpreter loads for ``statement``, as ``-X importtime`` lists it: packages, torch's too."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True
    )
    lines = (line.rpartition("|")[2].strip() for line in process.stderr.splitlines() if line.startswith("import time:"))
    return {".".join(line.split(".")[:depth]) for line in lines for depth in (1, 2)}


def test_import_is_light() -> None:
    packages = loaded("import wnseq")
    assert {"wnseq", "torch"} <= packages
    assert packages & HEAVY == set()


@pytest.mark.parametrize("library", ["sentencepiece", "torch._dynamo"])
def test_a_heavy_import_would_be_seen(library: str) -> None:
    assert library in loaded(f"import wnseq, {library}") & HEAVY


def test_the_callbacks_are_imported_when_one_is_used() -> None:
    assert loaded("import wnseq.training") & HEAVY == set()
    import wnseq.training
    from wnseq.training import GateMonitor, callbacks

    assert GateMonitor is callbacks.GateMonitor
    assert set(wnseq.training.__all__) <= set(callbacks.__all__)
    with pytest.raises(AttributeError, match=r"module 'wnseq\.training' has no attribute 'GateMonitr'"):
        wnseq.training.GateMonitr  # noqa: B018
