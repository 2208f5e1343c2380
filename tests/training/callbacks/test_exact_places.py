"""Where a checkpoint resumes to the bit."""

from types import SimpleNamespace
from typing import Any

import pytest

from wnseq.training.callbacks import exact_places


@pytest.mark.parametrize(
    ("changed", "exact"),
    [
        ({}, True),
        ({"is_last_batch": True}, False),
        ({"max_steps": 5}, False),
        ({"max_steps": 6}, True),
        ({"accumulates": True}, False),
        ({"validates": True}, False),
    ],
)
def test_not_before_what_lightning_would_skip_and_not_with_half_a_gradient(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], exact: bool
) -> None:
    usual = {"is_last_batch": False, "max_steps": -1, "global_step": 5}
    trainer: Any = SimpleNamespace(**usual | changed)
    monkeypatch.setattr(exact_places, "validation_follows", lambda _: changed.get("validates", False))
    monkeypatch.setattr(exact_places, "gradient_is_pending", lambda _: changed.get("accumulates", False))
    assert exact_places.resumes_exactly(trainer) is exact


def test_a_validation_that_was_left_is_begun_again_and_then_forgotten() -> None:
    total = {"ready": 9, "started": 9, "processed": 9, "completed": 8}
    current = {"ready": 3, "started": 3, "processed": 3, "completed": 2}
    progress: dict[str, Any] = {"total": total, "current": current, "is_last_batch": True}
    checkpoint = {"loops": {"fit_loop": {exact_places.PROGRESS: progress}}}
    assert not exact_places.awaits_validation(checkpoint)
    exact_places.rewind_validation(checkpoint)
    assert exact_places.awaits_validation(checkpoint)
    assert total == {"ready": 7, "started": 7, "processed": 6, "completed": 6}
    assert set(current.values()) == {0} and not progress["is_last_batch"]
    restored = SimpleNamespace(**total)
    loop = SimpleNamespace(val_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=restored)))
    exact_places.begin_validation(SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=loop)))  # type: ignore[arg-type]
    assert set(vars(restored).values()) == {6}
