"""After a power cut a run goes on: what was renamed is whole.

The power cut is ext4's own: an ioctl after which nothing more reaches the disk, on a volume in a file.
"""

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from faults.nursery import Nursery
from faults.test_kills import RECIPES, SHORT, difference, finish, module, prepare

pytestmark = pytest.mark.slow
RECIPE = "language_model plateau"
CUTS = 10


def command(*words: Any) -> str:
    """Run a command; return why it could not be run."""
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() or f"status {done.returncode}" if done.returncode else ""


def mount(image: Path, place: Path) -> str:
    return command("mount", "-o", "loop", image, place)


def test_a_run_goes_on_after_a_power_cut(nursery: Nursery, tmp_path: Path, outcome: Any) -> None:
    whole, place, image = tmp_path / "whole", tmp_path / "volume", tmp_path / "image"
    words = ["fit", *RECIPES[RECIPE], *SHORT]
    record = tmp_path / "operations"
    answer = nursery.run(whole, module(RECIPE), words, environment=prepare(whole), record=str(record))
    assert answer["statuses"] == [0]
    operations = len(record.read_text().splitlines())
    place.mkdir()
    draw, problems = random.Random(0), []
    for cut in range(CUTS):
        with image.open("wb") as file:
            file.truncate(64 << 20)
        if reason := command("mkfs.ext4", "-q", "-F", image) or mount(image, place):
            pytest.skip(f"no volume can be mounted: {reason}")
        try:
            folder = place / "run"
            environment = prepare(folder)
            at = int((cut + draw.random()) * operations / CUTS) + 1
            subprocess.run(["sync", "-f", place], check=True)
            cut_off = nursery.run(folder, module(RECIPE), words, environment=environment, fault=(at, "power cut"))
            assert cut_off["statuses"] == [-9]
            subprocess.run(["umount", place], check=True)
            assert not mount(image, place)
            if wrong := finish(nursery, folder, RECIPE, words, environment) or difference(whole, folder):
                problems.append(f"cut at operation {at} of {operations}: {wrong}")
        finally:
            subprocess.run(["umount", place], check=True)
    outcome(RECIPE, "power cut", CUTS - len(problems), CUTS)
    assert not problems, "\n".join(problems)
