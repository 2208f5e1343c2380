"""Recipes run as without matplotlib, but for the tests that look at a figure: drawing is a third of a small run.

They run in float32 on every processor.
"""

from collections.abc import Iterator

import pytest
from figures import without_figures

from wnseq.training.cli import text


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hide matplotlib from a test that is not marked ``figures``."""
    if request.node.get_closest_marker("figures") is not None:
        yield
        return
    with without_figures():
        yield


@pytest.fixture(autouse=True, scope="session")
def float32() -> Iterator[None]:
    """Let no processor choose bfloat16, so that results are the same on all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "has_fast_bfloat16", lambda: False)
        yield
