"""Recipes run as without matplotlib, but for the tests that look at a figure: drawing is a third of a small run."""

from collections.abc import Iterator

import pytest
from figures import without_figures


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hide matplotlib from a test that is not marked ``figures``."""
    if request.node.get_closest_marker("figures") is not None:
        yield
        return
    with without_figures():
        yield
