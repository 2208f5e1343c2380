"""What every test needs: fixed seeds, torch's global settings restored, the run's own caches, the case's backend."""

import gc
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: workers share the cores, and so do their children
os.environ["TORCH_DYNAMO_RUN_GC_AFTER_COMPILE"] = "0"  # it takes 20 ms of every graph

import numpy as np
import torch
from cases import Case, seed_cpu

torch._dynamo.guards.profile_guard_manager = lambda *_: 0.0  # a figure for torch's log, and 20 ms of every graph

FIXTURES_OF_SECONDS = (  # files whose module fixture takes seconds: each runs in one worker, so that it is made once
    "tests/recipes/test_language_model_parallel.py",
    "tests/recipes/test_own_images.py",
    "tests/recipes/test_pixelcnn.py",
    "tests/recipes/test_vae.py",
    "tests/test_compatibility.py",
    "tests/test_distributed.py",
    "tests/test_initialisation.py",
    "tests/test_readme.py",
    "tests/test_wheel.py",
    "tests/training/test_serving.py",
)
LONG = (*FIXTURES_OF_SECONDS, "tests/recipes/", "tests/recurrence/test_dispatch.py", "tests/test_onnx.py")


@pytest.hookimpl(optionalhook=True)  # of xdist, whose own --dist=loadgroup has no effect with pytest 9.2
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send the files above whole, and every other test with all its parameters, to the next free worker."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in FIXTURES_OF_SECONDS else nodeid.partition("[")[0]

        def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
            """Forget a test that is done: after each one the scheduler counts all that it knows of."""
            nodeid = self.registered_collections[node][item_index]
            scope, work = self._split_scope(nodeid), self.assigned_work[node]
            del work[scope][nodeid]
            if not work[scope]:
                del work[scope]
            self._reschedule(node)

    config.option.loadscopereorder = False  # in the order below, not by the number of tests
    return Scheduling(config, log)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Seed what a file draws as it is imported, so that it doesn't depend on which files were imported before."""
    if isinstance(collector, pytest.Module):
        _seed()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what takes long first, so that the workers end together."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish() -> None:
    """Keep what was imported and collected out of every later search for garbage, here and in forks."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20)
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Set one cache for the run, its xdist workers and every process they start, and no screen."""
    gc.disable()  # until everything is imported and collected: millions of objects, of which none is garbage
    if hasattr(config, "workerinput"):
        return  # a worker inherits the environment of the process that started it
    cache = tempfile.mkdtemp(prefix="wnseq-tests-")
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
    os.environ["WNSEQ_CACHE"] = cache
    os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture(autouse=True)
def isolation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed every generator, force the back end of the test's case, and restore what is the whole process's."""
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    _seed()
    with torch.enable_grad(), case.running() if isinstance(case, Case) else nullcontext():
        yield
    torch.set_default_dtype(dtype)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # this asks for a module each time, and is slow
        torch.use_deterministic_algorithms(deterministic)


def _seed() -> None:
    """Seed every generator of the CPU."""
    random.seed(0)
    np.random.seed(0)
    seed_cpu(0)


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Return a function that finds a real data set or skips: ``real_data("ptb")`` is the folder ``$WNSEQ_DATA/ptb``."""

    def find(name: str) -> Path:
        root = os.environ.get("WNSEQ_DATA")
        if not root:
            pytest.skip(f"needs {name}: WNSEQ_DATA is not set")
        folder = Path(root) / name
        if not folder.is_dir():
            pytest.skip(f"needs {name}: {folder} does not exist")
        return folder

    return find
