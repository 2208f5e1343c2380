"""The length of a run."""

from types import SimpleNamespace

import pytest

from wnseq.training.schedules import total_steps


def test_the_steps_of_a_run() -> None:
    assert total_steps(SimpleNamespace(estimated_stepping_batches=12)) == 12  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the schedule needs --trainer\.max_epochs or --trainer\.max_steps"):
        total_steps(SimpleNamespace(estimated_stepping_batches=float("inf")))  # type: ignore[arg-type]
