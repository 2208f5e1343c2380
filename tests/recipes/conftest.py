"""Recipes run as without matplotlib, but for the tests that look at a figure: drawing is a third of a small run."""

import sys

import pytest


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide matplotlib from a test that is not marked ``figures``."""
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
