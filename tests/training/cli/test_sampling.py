"""A command line whose predict draws samples."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wnseq.training.cli.recipe import run
from wnseq.training.cli.sampling import SamplingCLI


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["predict", "--data.corpus=x", "--data.windows", "3"], "--data.corpus, --data.windows would do nothing"),
        (
            ["test", "--model.sampling.temperature=3"],
            "test draws nothing: --model.sampling.temperature would do nothing",
        ),
        (
            ["validate", "--model.sampling.output", "a"],
            "validate draws nothing: --model.sampling.output would do nothing",
        ),
        (
            ["predict", "--model.sampling.output=runs"],
            "--model.sampling.output: runs is a folder. Name the file to write in it",
        ),
    ],
    ids=["data", "test", "validate", "output"],
)
def test_a_command_refuses_what_it_ignores_or_cannot_write(
    toy: ModuleType, after: dict[str, float], capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    @dataclass
    class Sampling:
        temperature: float = 1.0
        output: str | None = None

    class Model(toy.ToyModel):  # type: ignore[misc, name-defined]
        def __init__(self, width: int = 4, sampling: Sampling = Sampling(), **rest: Any) -> None:  # noqa: B008
            super().__init__(width=width, **rest)

    with pytest.raises(SystemExit) as raised:
        run(Model, toy.ToyData, recipe="toy", monitor="val/loss", cli_class=SamplingCLI,
            args=[*words, "--ckpt_path=runs/toy/1/checkpoints/last.ckpt"])  # fmt: skip
    assert raised.value.code == 1
    printed = capsys.readouterr()
    assert text in printed.err and "sample at" not in printed.out


def test_predict_reads_no_data(toy: ModuleType, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.main(["--trainer.max_epochs=1", "--model.width=3"])
    capsys.readouterr()

    class NoData(toy.ToyData):  # type: ignore[misc, name-defined]
        def setup(self, stage: str) -> None:
            pytest.fail("data was read")

    run(toy.ToyModel, NoData, recipe="toy", monitor="val/loss", args=["predict", "--ckpt_path=last"],
        cli_class=SamplingCLI)  # fmt: skip
    assert capsys.readouterr().out == "sample at temperature 1.0 from width 3\n"
