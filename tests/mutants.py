"""Breaks the recurrence on purpose, one mistake after the other, and reports which of them the tests miss.

Run ``python tests/mutants.py`` from the root of the repository, or with the first words of some mutants' names. Each
mistake is made in a copy of the tree, and the tests of that place run there. A mutant that survives calls for a test.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 300  # seconds of one mutant; one that takes longer has been noticed
LOOPS = ("tests/recurrence/test_cpu_loops.py",)
GENERIC = ("tests/test_autograd.py", "tests/test_contract.py", "-k", "cpu and loop")  # with the loops forced
RESETS = ("tests/recurrence/test_resets.py", "-k", "not compile and not export")
CPU_LSTM = ("tests/recurrence/test_cpu_lstm.py",)
TORCH_FUNC = ("tests/test_autograd.py", "-k", "vmap or jacobian")  # by unrolled steps
EQUATIONS = ("tests/nn/test_rnn.py", "-k", "equations")
TORCHS = ("tests/nn/test_rnn.py", "-k", "torch_module or dropout")
CELLS = ("tests/nn/test_cells.py",)
OPERATORS = ("tests/recurrence/test_dispatch.py", "-k", "between_layers")


@dataclass(frozen=True)
class Mutant:
    """A mistake: in a file of wnseq, a text that occurs once, and what replaces it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = [
    Mutant(
        "lstm loop: gradient of the forget gate with the other sign",
        "_recurrence/cpu_loops.py",
        "_sigmoid_backward(d_new * old, f,",
        "_sigmoid_backward(-d_new * old, f,",
        LOOPS,
    ),
    Mutant(
        "lstm loop: projection's gradient without the output gate",
        "_recurrence/cpu_loops.py",
        "(gates.chunk(4, 1)[3] * _tanh(cells))",
        "_tanh(cells)",
        LOOPS,
    ),
    Mutant(
        "gru loop: gradient of the update gate with the other sign",
        "_recurrence/cpu_loops.py",
        "_sigmoid_backward(before - new, z,",
        "_sigmoid_backward(new - before, z,",
        GENERIC,
    ),
    Mutant(
        "gru loop: gradients of the biases swapped",
        "_recurrence/cpu_loops.py",
        "d_hh, d.sum(0, dtype=h.dtype), d_b_hh\n",
        "d_hh, d_b_hh, d.sum(0, dtype=h.dtype)\n",
        GENERIC,
    ),
    Mutant(
        "loops: reverse ignored",
        "_recurrence/cpu_loops.py",
        "return steps[::-1] if reverse else steps",
        "return steps",
        GENERIC,
    ),
    Mutant(
        "loops: batch sizes ignored, a sequence that has ended loses its state",
        "_recurrence/cpu_loops.py",
        "torch.cat([alive, state[len(alive) :].to(alive.dtype)])",
        "torch.cat([alive, 0 * state[len(alive) :].to(alive.dtype)])",
        LOOPS,
    ),
    Mutant(
        "lstm loop: a gradient crosses a reset",
        "_recurrence/cpu_loops.py",
        "        zero_(f, row)  # so that no gradient passes it\n",
        "",
        RESETS,
    ),
    Mutant(
        "gru loop: the state crosses a reset",
        "_recurrence/cpu_loops.py",
        "alive = zero(h[: len(h_t)], row)",
        "alive = h[: len(h_t)]",
        RESETS,
    ),
    Mutant(
        "elman loop: bias dropped",
        "_recurrence/cpu_loops.py",
        "output = linear(x, w_ih, bias)",
        "output = linear(x, w_ih, None)",
        LOOPS,
    ),
    Mutant(
        "gru loop: initial state dropped",
        "_recurrence/cpu_gru.py",
        "widen(h), w_ih.to(dtype)",
        "widen(h) * 0, w_ih.to(dtype)",
        GENERIC,
    ),
    Mutant(
        "gru loop: second derivative ignores reverse",
        "_recurrence/cpu_gru.py",
        "(h,), weights, ctx.reverse",
        "(h,), weights, False",
        ("tests/recurrence/test_cpu_gru.py",),
    ),
    Mutant(
        "bfloat16 lstm loop: output left in reverse",
        "_recurrence/cpu_lstm.py",
        "output.flip(0) if reverse else output",
        "output",
        CPU_LSTM,
    ),
    Mutant(
        "bfloat16 lstm loop: forget gate left out of the cell's gradient",
        "_recurrence/cpu_lstm.py",
        "d_c.mul_(f)",
        "d_c.mul_(1)",
        CPU_LSTM,
    ),
    Mutant(
        "bfloat16 lstm: torch's wrong gradient taken",
        "_recurrence/lstm_gradient.py",
        "<= LARGEST_ERROR *",
        "<= 100 *",
        ("tests/recurrence/test_lstm_gradient.py",),
    ),
    Mutant(
        "lstm step: order of the gates",
        "_recurrence/steps.py",
        "i, f, g, o = total.chunk",
        "f, i, g, o = total.chunk",
        CELLS,
    ),
    Mutant(
        "gru step: recurrent bias dropped",
        "_recurrence/steps.py",
        "memory_bound_linear(h, w_hh, b_hh).chunk(3",
        "memory_bound_linear(h, w_hh, None).chunk(3",
        CELLS,
    ),
    Mutant(
        "steps: reverse ignored",
        "_recurrence/unrolled.py",
        "in reversed(steps) if reverse else steps:",
        "in steps:",
        TORCH_FUNC,
    ),
    Mutant(
        "steps: batch sizes ignored, a sequence that has ended loses its state",
        "_recurrence/unrolled.py",
        "s[alive:].to(n.dtype)",
        "0 * s[alive:].to(n.dtype)",
        TORCH_FUNC,
    ),
    Mutant(
        "operator: gradient of the wrong bias",
        "_recurrence/custom_ops.py",
        "(None, None) if inputs[-1] is None else (d_b_ih, d_b_hh)",
        "(None, None) if inputs[-1] is None else (d_b_hh, d_b_hh)",
        OPERATORS,
    ),
    Mutant(
        "layers: batch_first ignored",
        "_recurrence/backend.py",
        "swap = config.batch_first and call.batch_sizes is None",
        "swap = False",
        GENERIC,
    ),
    Mutant(
        "layers: no dropout between them",
        "_recurrence/backend.py",
        "if first and config.dropout:",
        "if False:",
        ("tests/test_autograd.py", "-k", "dropout"),
    ),
    Mutant(
        "packed: states left in the order of lengths",
        "_recurrence/call.py",
        "if inverse is not None:",
        "if False:",
        TORCHS,
    ),
    Mutant(
        "weights: biases before the recurrent weight",
        "nn/_rnn.py",
        "else getattr(self, name) for name in self._flat_weights_names]",
        "else getattr(self, name) for name in sorted(self._flat_weights_names)]",
        EQUATIONS,
    ),
    Mutant(
        "weights: composed with a g that gets no gradient",
        "nn/_module.py",
        "compose_in(memory[name], *self.v_and_g(name), *self.layouts[name])",
        "compose_in(memory[name], self.v_and_g(name)[0], self.v_and_g(name)[1].detach(), *self.layouts[name])",
        EQUATIONS,
    ),
    Mutant(
        "bind: stale weights go unnoticed",
        "nn/_module.py",
        "            check()\n            if not has_hooks(self):",
        "            if not has_hooks(self):",
        ("tests/test_autograd.py", "-k", "bind or bound"),
    ),
    Mutant(
        "weight norm: second derivative not at a right angle to v",
        "functional.py",
        "* (d_w - unit * d_g",
        "* (d_w + unit * d_g",
        ("tests/test_functional.py",),
    ),
]


def copy_tree(to: Path) -> None:
    for name in ("wnseq", "tests", "recipes"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)


def run_tests(tree: Path, tests: tuple[str, ...]) -> bool:
    """Run tests on the wnseq of a tree; return True if they pass."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):  # neither passed nor failed: no tests, or none that could be collected
        raise SystemExit(f"pytest {' '.join(tests)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def survives(mutant: Mutant, tree: Path) -> bool:
    """Return True if the tests pass with the mistake; the tree is restored."""
    path = tree / "wnseq" / mutant.file
    source = path.read_text("utf-8")
    if source.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} has {source.count(mutant.old)} times {mutant.old!r}, not once")
    path.write_text(source.replace(mutant.old, mutant.new), "utf-8")
    try:
        return run_tests(tree, mutant.tests)
    finally:
        path.write_text(source, "utf-8")


def main(wanted: list[str]) -> int:
    """Try the mutants, all or those whose names begin as wanted; return the exit status, 1 if one survives."""
    if unknown := [name for name in wanted if not any(mutant.name.startswith(name) for mutant in MUTANTS)]:
        known = "\n".join(f"  {mutant.name}" for mutant in MUTANTS)
        raise SystemExit(f"no mutant's name begins with {', '.join(map(repr, unknown))}; there are:\n{known}")
    mutants = [mutant for mutant in MUTANTS if not wanted or mutant.name.startswith(tuple(wanted))]
    survivors = []
    with tempfile.TemporaryDirectory(prefix="wnseq-mutants-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            if not run_tests(tree, tests):
                raise SystemExit(f"pytest {' '.join(tests)} fails without a mistake")
        for mutant in mutants:
            start = time.perf_counter()
            survived = survives(mutant, tree)
            survivors += [mutant.name] * survived
            outcome = "SURVIVED" if survived else "killed"
            print(f"{outcome:8} {time.perf_counter() - start:4.0f} s  {mutant.name}", flush=True)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
