"""Benchmark of the recurrent layers beside torch's own, forward and backward.

Contenders run in one process, one after the other in a shuffled order, round by round, once it is shown that they
compute the same: outputs and gradients. Each is compared with ``torch.nn`` in its own round, and one contender is
``torch.nn`` a second time: where that one's ratio is off, no other's counts.

LSTMs of three sizes in float32, in two minutes; then every size, kind and dtype:
    wnseq run speed
    wnseq run speed --full true
At a size of your own, on a GPU:
    wnseq run speed --sizes "[70x20x1150x1]" --dtypes "[bf16]" --device cuda

Expect, in the folder ``out``, ``recurrence.csv``, a table ``recurrence.md`` and a figure ``recurrence.png``;
docs/speed.md has those of one machine.

Deviations from common benchmarks:
1. A weight's gradient is compared as that of the composed weight, ∇w = ‖v‖/g ∇v + ∇g v/‖v‖, whoever keeps v and g.
2. The layer-normalised LSTM is no twin: it is held against torch's with its norms left out.
3. The contenders on CUDA, flashrnn's among them, have been written from documentation and never run.
"""

import contextlib
import copy
import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import wnseq
from wnseq.nn import WNModule
from wnseq.training import benchmark
from wnseq.training.allocator import keep_freed_memory
from wnseq.training.benchmark import Lap, Row
from wnseq.training.cli.errors import suggest, user_errors

PLAIN, AGAIN = "torch.nn", "torch.nn again"
TOLERANCE = {"float32": 1e-4, "bf16": 0.1}  # of the largest value of what is compared
QUICK = ["1x1x512x1", "35x20x200x2", "35x20x650x2"]
LAST_PHASE = {"training": "both", "inference": "forward"}
FULL = [*QUICK, "70x20x1150x1", "35x64x1024x1", "256x32x128x1"]

State = Tensor | tuple[Tensor, Tensor]


class Size(NamedTuple):
    """The size of a recurrence, written as 35x20x650x2."""

    steps: int
    batch: int
    hidden: int
    layers: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @classmethod
    def of(cls, row: Row) -> "Size":
        """Take the size that a row of results is of."""
        return cls(*(row[key] for key in cls._fields))

    @classmethod
    def read(cls, text: str) -> "Size":
        """Read a size.

        Raises:
            ValueError: It is not four numbers above zero.
        """
        parts = text.split("x")
        if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
            raise ValueError(f"a size is steps x batch x hidden size x layers, as in 35x20x650x2; got {text!r}")
        return cls(*map(int, parts))


class LayerNormLSTM(nn.Module):
    """LSTM with layer normalisation (Ba et al. 2016, arXiv 1607.06450), its cell written out in Python."""

    def __init__(self, plain: nn.LSTM) -> None:
        super().__init__()
        self.plain = copy.deepcopy(plain)
        sizes = (4 * plain.hidden_size, 4 * plain.hidden_size, plain.hidden_size)
        self.norms = nn.ModuleList(nn.ModuleList(map(nn.LayerNorm, sizes)) for _ in range(plain.num_layers))
        self.normalises = True

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over a sequence, the input's products of all steps in one."""
        final = []
        for h, c, weights, norms in zip(*state, self.plain.all_weights, self.norms, strict=True):
            norm_x, norm_h, norm_c = norms if self.normalises else (nn.Identity(),) * 3
            w_ih, w_hh, b_ih, b_hh = weights
            outputs = []
            for of_x in norm_x(F.linear(x, w_ih)).unbind(0):  # (N, 4·H)
                i, f, g, o = (of_x + norm_h(F.linear(h, w_hh)) + (b_ih + b_hh)).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * norm_c(c).tanh()
                outputs.append(h)
            x = torch.stack(outputs)  # (T, N, H)
            final.append((h, c))
        h, c = map(torch.stack, zip(*final, strict=True))
        return x, (h, c)


class FlashLSTM(nn.Module):
    """LSTM by flashrnn (Pöppel et al. 2024, arXiv 2412.07752), one call a layer, with one head."""

    def __init__(self, plain: nn.LSTM) -> None:
        super().__init__()
        self.plain = copy.deepcopy(plain)
        self.run = importlib.import_module("flashrnn").flashrnn

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over a sequence."""
        size, final = self.plain.hidden_size, []
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        for h, c, (w_ih, w_hh, b_ih, b_hh) in zip(*state, self.plain.all_weights, strict=True):
            of_x = F.linear(x, w_ih).transpose(0, 1).unflatten(2, (4, 1, size)).to(dtype)  # (N, T, 4, 1, H)
            recurrent, bias = (part.unflatten(0, (4, 1, size)).to(dtype) for part in (w_hh, b_ih + b_hh))
            start = torch.stack((h, c))[:, :, None, None].to(dtype)  # (2, N, 1, 1, H)
            name = str(dtype).removeprefix("torch.")
            states, last = self.run(of_x, recurrent, bias, states=start, function="lstm", dtype=name)
            x = states[0, :, :, 0].transpose(0, 1)  # (T, N, H)
            final.append((last[0].reshape(h.shape), last[1].reshape(c.shape)))
        h, c = map(torch.stack, zip(*final, strict=True))
        return x, (h, c)


def twin(plain: nn.RNNBase) -> nn.RNNBase:
    """Copy torch's module, its weights in one piece, as cuDNN wants them."""
    module = copy.deepcopy(plain)
    module.flatten_parameters()
    return module


def parametrised(plain: nn.Module) -> nn.Module:
    """Put torch's own weight norm on every weight."""
    module = copy.deepcopy(plain)
    for name, _ in plain.named_parameters():
        if name.startswith("weight"):
            parametrizations.weight_norm(module, name)
    return module


def normalised(plain: nn.Module) -> nn.Module:
    """Make our module of torch's."""
    return wnseq.weight_normalize(plain).model


def folded(plain: nn.Module) -> nn.Module:
    """Make ours, and torch's of it again."""
    module = wnseq.remove_weight_norm(normalised(plain)).model
    module.flatten_parameters()
    return module


@dataclass(frozen=True)
class Contender:
    """One way to run a recurrence.

    Args:
        make: Makes its module out of torch's; both compute the same.
        begin: Makes what is called each time out of the module.
        modes: ``training``, ``inference`` or both.
        kinds: What it has.
        needs: A library, which runs on CUDA alone.
    """

    make: Callable[[nn.Module], nn.Module]
    begin: Callable[[nn.Module], Callable[..., Any]] = lambda module: module
    modes: tuple[str, ...] = ("training", "inference")
    kinds: tuple[str, ...] = ("lstm", "gru")
    needs: str | None = None

    def runs(self, kind: str, device: torch.device) -> bool:
        """Tell whether it runs there."""
        there = self.needs is None or (device.type == "cuda" and importlib.util.find_spec(self.needs) is not None)
        return kind in self.kinds and there


CONTENDERS = {
    PLAIN: Contender(twin),
    AGAIN: Contender(twin),
    "torch weight_norm": Contender(parametrised),
    "wnseq": Contender(normalised),
    "wnseq folded": Contender(folded, modes=("inference",)),
    "wnseq bound": Contender(normalised, begin=lambda module: module.bind(), modes=("inference",)),
    "layer norm": Contender(LayerNormLSTM, kinds=("lstm",)),
    "flashrnn": Contender(FlashLSTM, kinds=("lstm",), needs="flashrnn"),
}


class Task(NamedTuple):
    """What every contender is given.

    Args:
        x: Input, ``(T, N, H)``.
        state: Initial states.
        gradient: Gradient of the output to go back from; None for inference.
        dtype: Of :data:`TOLERANCE`.
    """

    x: Tensor
    state: State
    gradient: Tensor | None
    dtype: str

    @property
    def mode(self) -> str:
        """Name what is done."""
        return "inference" if self.gradient is None else "training"

    def input(self) -> Tensor:
        """Take the input, as an embedding would hand it on."""
        return self.x.clone().requires_grad_(self.gradient is not None)

    def forward(self) -> contextlib.ExitStack:
        """Make the context of a forward."""
        contexts = contextlib.ExitStack()
        contexts.enter_context(torch.inference_mode(self.gradient is None))
        contexts.enter_context(torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.dtype == "bf16"))
        return contexts


def computed(call: Callable[..., Any], module: nn.Module, task: Task) -> dict[str, Tensor]:
    """Run once; return output, final states and, in training, every gradient."""
    x = task.input()
    with task.forward():
        output, final = call(x, task.state)
    found = {"output": output}
    found |= {f"final state {k}": each for k, each in enumerate(final if isinstance(final, tuple) else (final,))}
    if task.gradient is not None:
        output.backward(task.gradient.to(output.dtype))
        found["gradient of the input"] = x.grad
        found |= {f"gradient of {name}": value for name, value in weight_gradients(module)}
        module.zero_grad()
    return {name: value.detach().float() for name, value in found.items()}


def weight_gradients(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Go through the gradients of weights and biases, those of v and g put together to the weight's."""
    if isinstance(module, WNModule):
        pairs = {name: module.v_and_g(name) for name in module.weight_names}
    else:
        theirs = getattr(module, "parametrizations", {})
        pairs = {name: (chain.original1, chain.original0) for name, chain in theirs.items()}
    for name, (v, g) in pairs.items():
        length, scale = v.detach().norm(dim=1, keepdim=True), g.detach().view(-1, 1)
        yield name, length / scale * v.grad + g.grad.view(-1, 1) * v.detach() / length
    parts = {id(part) for pair in pairs.values() for part in pair}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and id(parameter) not in parts:
            yield name.removeprefix("plain."), parameter.grad


def checked(name: str, call: Callable[..., Any], module: nn.Module, task: Task, expected: dict[str, Tensor]) -> float:
    """Hold a contender against torch.nn in float32; return the largest difference, in parts of the largest value.

    Raises:
        ValueError: It computes something else.
    """
    has_norms = isinstance(module, LayerNormLSTM)
    if has_norms:
        module.normalises = False
    found = computed(call, module, task)
    if has_norms:
        module.normalises = True
    tolerance = TOLERANCE[task.dtype]
    return max(
        benchmark.same(name, part, found[part], value, base=PLAIN, tolerance=tolerance)
        for part, value in expected.items()
    )


def lap(call: Callable[..., Any], module: nn.Module, task: Task) -> Lap:
    """Make one timed run: forward and, in training, backward and both."""
    x = task.input()

    def now() -> float:
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def once() -> tuple[float, ...]:
        with task.forward():
            start = now()
            output, _ = call(x, task.state)
            forward = now() - start
        if task.gradient is None:
            return (forward,)
        gradient = task.gradient.to(output.dtype)
        start = now()
        output.backward(gradient)
        backward = now() - start
        x.grad = None
        module.zero_grad()
        return forward, backward, forward + backward

    return once


@dataclass
class Grid:
    """What is timed.

    Args:
        sizes: Steps, batch, hidden size (the input's too) and layers of each, as in 35x20x650x2.
        kinds: lstm, gru or both.
        dtypes: float32, bf16 (float32 weights under autocast) or both.
        full: Whether sizes, kinds and dtypes that are not given stand for all there are, not for the quick ones.
        contenders: Whom to time beside torch.nn; by default all that run there.
        threads: Numbers of threads; by default torch's.
        device: Where to run.
        pairs: Rounds; each pairs every contender with torch.nn.
        least_ms: What is over sooner is repeated within a round, until torch.nn takes this long.
        keep_memory: Whether the process keeps freed memory, whoever frees it; without, page faults are timed as well.
        out: Folder of the results.
    """

    sizes: list[str] | None = None
    kinds: list[Literal["lstm", "gru"]] | None = None
    dtypes: list[Literal["float32", "bf16"]] | None = None
    full: bool = False
    contenders: list[str] | None = None
    threads: list[int] = field(default_factory=lambda: [torch.get_num_threads()])
    device: str = "cpu"
    pairs: int = 15
    least_ms: float = 5.0
    keep_memory: bool = True
    out: str = "runs/speed"

    def __post_init__(self) -> None:
        """Fill in and check the values."""
        self.sizes = self.sizes or (FULL if self.full else QUICK)
        self.kinds = self.kinds or (["lstm", "gru"] if self.full else ["lstm"])
        self.dtypes = self.dtypes or (["float32", "bf16"] if self.full else ["float32"])
        self.contenders = [PLAIN, AGAIN, *(CONTENDERS if self.contenders is None else self.contenders)]
        for size in self.sizes:
            Size.read(size)
        for name in self.contenders:
            if name not in CONTENDERS:
                raise ValueError(f"there is no contender {name!r}.{suggest(name, CONTENDERS)}")
        benchmark.check(self.pairs, self.threads)
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device is {self.device}, and this torch sees no GPU")


def run(grid: Grid) -> list[Row]:
    """Time everything, writing what there is after each size; then write the table and draw the figure."""
    rows: list[Row] = []
    out = Path(grid.out)
    if grid.keep_memory:
        keep_freed_memory()
    for threads, dtype, kind, size in product(grid.threads, grid.dtypes, grid.kinds, map(Size.read, grid.sizes)):
        print(f"{kind} {size}, {dtype}, {threads} threads …", flush=True)
        about = {"device": grid.device, "threads": threads, "dtype": dtype, "kind": kind, **size._asdict()}
        with benchmark.threads(threads):
            rows += [{**about, **row} for row in timed(grid, kind, size, dtype)]
        benchmark.write(rows, out / "recurrence.csv")
    text = table(rows)
    (out / "recurrence.md").write_text(text, "utf-8")
    print(f"\n{text}")
    panels: dict[str, dict[str, list[tuple[str, Row]]]] = {}
    for row in rows:
        if row["phase"] == LAST_PHASE[row["mode"]] and row["contender"] != PLAIN:
            title = ", ".join((row["kind"].upper(), *(str(row[key]) for key in ("mode", "dtype", "device"))))
            panel = panels.setdefault(f"{title}, {row['threads']} threads", {})
            panel.setdefault(row["contender"], []).append((str(Size.of(row)), row))
    if benchmark.ratios(panels, out / "recurrence.png", label=f"time over {PLAIN}"):
        print(f"figure   {os.path.relpath(out / 'recurrence.png')}")
    print(f"results  {os.path.relpath(out)}")
    return rows


def timed(grid: Grid, kind: str, size: Size, dtype: str) -> Iterator[Row]:
    """Check every contender at one size, then time them: in training, and in inference."""
    torch.manual_seed(0)
    steps, batch, hidden, layers = size
    device = torch.device(grid.device)
    plain = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](hidden, hidden, layers).to(device)
    x, gradient = torch.randn(2, steps, batch, hidden, device=device)
    h, c = torch.randn(2, layers, batch, hidden, device=device)
    for goal in (gradient, None):
        task = Task(x, (h, c) if kind == "lstm" else h, goal, dtype)
        expected = computed(plain, plain, task._replace(dtype="float32"))
        laps, errors = {}, {}
        for name, entry in CONTENDERS.items():
            if name in grid.contenders and task.mode in entry.modes and entry.runs(kind, device):
                module = entry.make(plain)
                with torch.set_grad_enabled(goal is not None):
                    call = entry.begin(module)
                errors[name] = checked(name, call, module, task, expected)
                laps[name] = lap(call, module, task)
        memory = {name: benchmark.peak_memory(once, device) for name, once in laps.items()}
        times = benchmark.rounds(laps, pairs=grid.pairs, least=grid.least_ms / 1e3)
        for row in benchmark.summarised(times, ("forward",) if goal is None else ("forward", "backward", "both")):
            name = row["contender"]
            yield {"mode": task.mode, **row, "peak_mb": memory[name], "error": errors[name]}


def table(rows: list[Row]) -> str:
    """Write the results in markdown, a table for each kind, mode, dtype, device and number of threads."""
    groups: dict[tuple[Any, ...], dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        group = groups.setdefault(tuple(row[key] for key in ("kind", "mode", "dtype", "device", "threads")), {})
        group.setdefault((str(Size.of(row)), row["contender"]), []).append(row)
    text = ""
    for (kind, mode, dtype, device, threads), group in groups.items():
        phases = [row["phase"] for row in next(iter(group.values()))]
        head = ["TxNxHxL", "contender", *(f"{phase}, ms" for phase in phases), *(f"{phase}, ratio" for phase in phases)]
        lines, doubtful = [], []
        for (size, name), of_phases in group.items():
            cells = [benchmark.quartiles(row, "ms", ".3g") for row in of_phases]
            cells += [benchmark.quartiles(row, "ratio", ".3f") for row in of_phases]
            memory, error = (of_phases[0][key] for key in ("peak_mb", "error"))
            lines.append([size, name, *cells, "" if memory is None else f"{memory:.1f}", f"{error:.0e}"])
            if name == AGAIN and (off := [row for row in of_phases if abs(row["ratio"] - 1) > benchmark.SAME]):
                doubtful.append(f"{size} ({', '.join(row['phase'] for row in off)})")
        text += f"{kind.upper()}, {mode}, {dtype}, {device}, {threads} threads, torch {torch.__version__}\n\n"
        text += benchmark.table([*head, "peak MB", "error"], lines)
        if doubtful:
            text += (
                f"\n{AGAIN} is off by more than {benchmark.SAME:.0%}, so that no ratio counts: {', '.join(doubtful)}\n"
            )
        text += "\n"
    return text


def main(args: list[str] | None = None) -> list[Row]:
    """Run the command line; return the rows of the results."""
    parser = ArgumentParser(prog="speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", action="config", help="A YAML file with these options.")
    parser.add_class_arguments(Grid, as_group=False)
    with user_errors():
        options = parser.parse_args(args).as_dict()
        return run(Grid(**{name: value for name, value in options.items() if name != "config"}))


if __name__ == "__main__":
    main()
