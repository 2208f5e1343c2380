"""A nursery for all tests of faults, and the table of what they have found."""

from collections.abc import Iterator
from typing import Any

import pytest
from faults.nursery import Nursery

OUTCOMES: dict[str, dict[str, list[int]]] = {}  # recipe -> fault -> how many were good, and tried


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def outcome() -> Any:
    """Return a function that adds outcomes to the table."""

    def enter(recipe: str, fault: str, good: int, tried: int) -> None:
        counts = OUTCOMES.setdefault(recipe, {}).setdefault(fault, [0, 0])
        counts[:] = counts[0] + good, counts[1] + tried

    return enter


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of fault, recipe and outcome."""
    if not OUTCOMES:
        return
    faults = list(dict.fromkeys(fault for row in OUTCOMES.values() for fault in row))
    terminalreporter.section("faults: runs that resumed to the bit")
    for cells in (
        ["recipe", *faults],
        *(
            [name, *("{} of {}".format(*row[fault]) if fault in row else "" for fault in faults)]
            for name, row in OUTCOMES.items()
        ),
    ):
        terminalreporter.write_line(" | ".join(f"{cell:<18}" for cell in cells))
