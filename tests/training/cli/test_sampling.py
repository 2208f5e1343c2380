"""A command line whose predict draws samples."""

from pathlib import Path
from types import ModuleType

import pytest

from wnseq.training.cli.recipe import run
from wnseq.training.cli.sampling import SamplingCLI


def test_predict_reads_no_data(toy: ModuleType, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.main(["--trainer.max_epochs=1", "--model.width=3"])
    capsys.readouterr()

    class NoData(toy.ToyData):  # type: ignore[misc, name-defined]
        def setup(self, stage: str) -> None:
            pytest.fail("data was read")

    run(toy.ToyModel, NoData, recipe="toy", monitor="val/loss", args=["predict", "--ckpt_path=last"],
        cli_class=SamplingCLI)  # fmt: skip
    assert capsys.readouterr().out == "sample at temperature 1.0 from width 3\n"
