"""An hour of training with three stops keeps its memory.

``WNSEQ_SOAK_MINUTES=10 pytest -m slow tests/faults/test_soak.py`` takes ten minutes.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from faults.nursery import Nursery
from faults.test_kills import RECIPES, SHORT, module, prepare

MINUTES = float(os.environ.get("WNSEQ_SOAK_MINUTES", "60"))
STOPS = 3
LATE = 600  # seconds after the signal until a run that hangs is killed; a busy machine may stand still for minutes
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 * MINUTES + STOPS * LATE)]


def test_memory_stays_within_five_percent_over_a_run_of_three_stops(
    nursery: Nursery, tmp_path: Path, outcome: Any
) -> None:
    recipe, folder = "language_model", tmp_path / "run"
    words = ["fit", *RECIPES[recipe], *SHORT, "--trainer.limit_train_batches=1.0", "--trainer.val_check_interval=1.0",
             "--trainer.max_epochs=1000000", "--model.schedule=constant"]  # fmt: skip
    environment, seconds = prepare(folder), 60 * MINUTES / (STOPS + 1)
    growth = []
    for part in range(STOPS + 1):
        resume = ["--ckpt_path", "last"] if part else []
        answer = nursery.run(
            folder, module(recipe), [*words, *resume], environment=environment, seconds=seconds + LATE,
            sample=seconds / 100, signals=[(0, signal.SIGTERM, seconds)],
        )  # fmt: skip
        assert answer["statuses"] == [143], (folder / "output.txt").read_text()[-2000:]
        assert answer["ended"] <= 5
        memory = answer["memory"][len(answer["memory"]) // 4 :]  # the first quarter fills caches
        growth.append(max(memory) / memory[0])
    outcome(recipe, f"soak of {MINUTES:g} min", sum(each <= 1.05 for each in growth), STOPS + 1)
    assert max(growth) <= 1.05, growth
