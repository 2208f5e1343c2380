"""Values of options, and lists without brackets."""

from dataclasses import dataclass, field

import pytest

from wnseq.training.cli.arguments import add_brackets, option_values


@dataclass
class Options:
    sizes: list[str] | None = None
    threads: list[int] = field(default_factory=list)
    out: str = "."


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        (["--sizes", "70x20,35x20", "--out", "a,b"], ["--sizes", "[70x20,35x20]", "--out", "a,b"]),
        (["--threads=1,2"], ["--threads=[1,2]"]),
        (["--threads", "4"], ["--threads", "[4]"]),
        (["--threads", "[1, 2]", "--sizes=null"], ["--threads", "[1, 2]", "--sizes=null"]),
        (["--threads+=3"], ["--threads+=3"]),
        (["--threads"], ["--threads"]),
    ],
)
def test_a_list_may_lack_its_brackets(typed: list[str], parsed: list[str]) -> None:
    assert add_brackets(typed, Options) == parsed


def test_the_values_of_an_option_are_found_in_both_spellings() -> None:
    assert list(option_values(["fit", "-c", "a", "--config=b", "--config"], ["-c", "--config"])) == [
        (2, "", "a"),
        (3, "--config=", "b"),
    ]
