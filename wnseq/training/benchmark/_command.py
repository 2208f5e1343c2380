"""The command line of benchmarks with one set of options for each mode."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from wnseq.training.benchmark._results import write_csv
from wnseq.training.benchmark._rounds import Row, torch_threads
from wnseq.training.cli.arguments import add_brackets
from wnseq.training.cli.errors import user_errors
from wnseq.training.cli.output import safe_output


@dataclass
class Benchmark(ABC):
    """One mode of a benchmark; its fields are the options.

    Args:
        threads: Numbers of threads; by default torch's.
        pairs: Rounds; each pairs every variant with the baseline.
        out: Folder of the results.
    """

    threads: list[int] = field(default_factory=lambda: [torch.get_num_threads()])
    pairs: int = 15
    out: str = "runs/speed"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.pairs < 2:
            raise ValueError(f"pairs must be at least 2, got {self.pairs}: one has no spread")
        if not self.threads or min(self.threads) < 1:
            raise ValueError(f"threads must be numbers of at least 1, got {self.threads}")

    @abstractmethod
    def measure(self, threads: int) -> Iterator[list[Row]]:
        """Yield the rows of each part of the measurement, which are then on disk."""

    @abstractmethod
    def table(self, rows: list[Row]) -> str:
        """Return all rows as markdown."""

    def draw(self, rows: list[Row], figure: Path) -> None:  # noqa: B027
        """Draw all rows: nothing by default."""

    def set_up_process(self) -> None:  # noqa: B027
        """Set what holds for the whole process, when run by a command line: nothing by default."""

    def run(self, name: str) -> list[Row]:
        """Measure with each number of threads; write the CSV, the table and the figure of that name."""
        rows: list[Row] = []
        file = Path(self.out).expanduser() / f"{name}.csv"
        for threads in self.threads:
            with torch_threads(threads):
                for part in self.measure(threads):
                    rows += part
                    write_csv(rows, file)
        text = self.table(rows)
        file.with_suffix(".md").write_text(text, "utf-8")
        print(f"\n{text}")
        self.draw(rows, file.with_suffix(".png"))
        print(f"results  {os.path.relpath(self.out)}")
        return rows


def run(modes: Mapping[str, type[Benchmark]], args: Sequence[str] | None, *, recipe: str, headline: str) -> list[Row]:
    """Run a command line whose first word is a mode; return the rows of the results.

    Args:
        modes: The benchmarks by name; without a name the first is run.
        args: The words; None reads those of the process.
        recipe: Name of the recipe.
        headline: What it does.

    Raises:
        SystemExit: 2 for a wrong option, 1 for another mistake of the user, 0 after ``--help``.
    """
    default = next(iter(modes))
    words = list(sys.argv[1:] if args is None else args)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, default)
    description = f"{headline} Without a subcommand: {default}."
    parser = ArgumentParser(prog=recipe if args is not None else None, description=description)
    subcommands = parser.add_subcommands(dest="mode", required=False)
    for name, mode in modes.items():
        summary, _, _ = (mode.__doc__ or "").partition("\n")
        options = ArgumentParser(description=summary)
        options.add_argument("--config", action="config", help="A YAML file with these options.")
        options.add_class_arguments(mode, as_group=False)
        subcommands.add_subcommand(name, options, help=summary)
    with safe_output(), user_errors():
        chosen = parser.parse_args(add_brackets(words, *modes.values()))
        given = chosen[chosen.mode].as_dict()
        benchmark = modes[chosen.mode](**{name: value for name, value in given.items() if name != "config"})
        if args is None:
            benchmark.set_up_process()
        return benchmark.run(chosen.mode)
