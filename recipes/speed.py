"""Benchmarks beside torch's own: recurrent layers, a language model's training steps, single steps of a stream.

Variants take turns in a shuffled order, round by round, once it is shown that they compute the same. Each is compared
with the baseline of its own round, and one variant is the baseline a second time: where its ratio is off, no other
ratio counts.

Layers, forward and backward, LSTMs of three sizes in float32, in two minutes; then every size, kind and dtype:
    wnseq run speed
    wnseq run speed layers --full true
Layers at a size of your own, on a GPU:
    wnseq run speed layers --sizes 70x20x1150x1 --dtypes bf16 --device cuda
Whole training steps of the recipe language_model beside the usual PyTorch loop:
    wnseq run speed step
    wnseq run speed step --corpus ptb --hidden_size 650 --num_layers 2 --equal_steps 300
One step of an LSTM cell, and a language model that samples, at batch 1:
    wnseq run speed stream --vocabulary 33278 --threads 1,2

Expect a CSV and a table for each mode in the folder ``out``, and a figure of the layers; docs/speed.md has the results
of one machine.

Deviations from common benchmarks:
1. A weight's gradient is compared as that of the composed weight, ∇w = ‖v‖/g ∇v + ∇g v/‖v‖, where v and g are stored.
2. The layer-normalised LSTM is compared with torch's without its norms.
3. The variants on CUDA, flashrnn's among them, have been written from documentation and never run.
4. The recipe's training step is timed from batch to batch in the Lightning Trainer, with all that it does in between;
   of the steps of a turn the median counts.
5. Weight normalisation takes other steps with g and v than the usual loop with w: its losses are compared at the first
   step only, and those of its last steps are shown.
6. In a stream the weights are untrained and the tokens arbitrary; weights that fit into the processor's caches are read
   from there, as in the plain read.
"""

import contextlib
import copy
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import wnseq
from wnseq.data.text import LINE_END, UNKNOWN, TextDataModule, WordTokenizer
from wnseq.training import benchmark
from wnseq.training.allocator import keep_freed_memory
from wnseq.training.benchmark import Benchmark, RecurrentTask, Row, TrainingProcess, TurnTaker, quartiles
from wnseq.training.cli.errors import suggest

TORCH, TORCH_AGAIN, READ = "torch.nn", "torch.nn again", "plain read"
USUAL, USUAL_AGAIN = "usual loop", "usual loop again"
TOLERANCE = {"float32": 1e-4, "bf16": 0.1}  # of the largest value of what is compared
QUICK = ["1x1x512x1", "35x20x200x2", "35x20x650x2"]
FULL = [*QUICK, "70x20x1150x1", "35x64x1024x1", "256x32x128x1"]
SIZE = "{steps}x{batch}x{hidden}x{layers}"
TITLE = "{kind}, {mode}, {dtype}, {device}, {threads} threads"
PHASES = {"training": ("forward", "backward", "both"), "inference": ("forward",)}
WARM_UP, TURN = 4, 3  # training steps before the clock starts, and those of a turn
FIRST, ALL, LAST = slice(1), slice(None), slice(-20, None)  # training steps whose losses are compared
LEARNING_RATE, CLIP = 5.0, 0.25

same = partial(benchmark.check_same, baseline=TORCH)
Calls = dict[str, Callable[[], Any]]


@dataclass
class Layers(Benchmark):
    """Recurrent layers beside torch's own, forward and backward.

    Args:
        sizes: Steps, batch, hidden size (the input's too) and layers of each, as in 35x20x650x2.
        kinds: lstm, gru or both.
        dtypes: float32, bf16 (float32 weights under autocast) or both.
        full: Whether sizes, kinds and dtypes default to all there are instead of the quick ones.
        variants: Variants to time beside torch.nn; by default all that run on the device.
        device: Where to run.
        least_ms: Shorter runs are repeated within a round, until torch.nn takes this long.
        keep_memory: Whether the process keeps freed memory; without, page faults are timed as well.
    """

    sizes: list[str] | None = None
    kinds: list[Literal["lstm", "gru"]] | None = None
    dtypes: list[Literal["float32", "bf16"]] | None = None
    full: bool = False
    variants: list[str] | None = None
    device: str = "cpu"
    least_ms: float = 5.0
    keep_memory: bool = True

    def __post_init__(self) -> None:
        """Fill in and check the values."""
        super().__post_init__()
        self.sizes = self.sizes or (FULL if self.full else QUICK)
        self.kinds = self.kinds or (["lstm", "gru"] if self.full else ["lstm"])
        self.dtypes = self.dtypes or (["float32", "bf16"] if self.full else ["float32"])
        self.variants = chosen(self.variants, LAYERS, TORCH, TORCH_AGAIN)
        for size in self.sizes:
            numbers(size)
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device is {self.device}, and this torch sees no GPU")

    def set_up_process(self) -> None:
        """Keep freed memory, unless told otherwise."""
        if self.keep_memory:
            keep_freed_memory()

    def measure(self, threads: int) -> Iterator[list[Row]]:
        """Check and time every variant, size by size, in training and in inference."""
        for dtype, kind, size in product(self.dtypes, self.kinds, self.sizes):
            print(f"{kind} {size}, {dtype}, {threads} threads …", flush=True)
            about = {"device": self.device, "threads": threads, "dtype": dtype, "kind": kind, **numbers(size)}
            yield [{**about, **row} for row in self.time(kind, dtype, **numbers(size))]

    def time(self, kind: str, dtype: str, steps: int, batch: int, hidden: int, layers: int) -> Iterator[Row]:
        """Check and time every variant at one size."""
        torch.manual_seed(0)
        device = torch.device(self.device)
        plain = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](hidden, hidden, layers).to(device)
        x, gradient = torch.randn(2, steps, batch, hidden, device=device)
        h, c = torch.randn(2, layers, batch, hidden, device=device)
        for mode, phases in PHASES.items():
            task = RecurrentTask(x, (h, c) if kind == "lstm" else h, gradient if mode == "training" else None)
            expected, task = task.compute(plain), task._replace(autocast=dtype == "bf16")
            calls, errors = {}, {}
            for name in self.variants:
                variant = LAYERS[name]
                if variant.runs(kind, mode, device):
                    with torch.set_grad_enabled(mode == "training"):
                        call = variant.make(plain)
                    if type(call) is type(plain):
                        call.flatten_parameters()  # the weights in one piece, as cuDNN wants them
                    checked = variant.check(plain) if variant.check else call
                    errors[name] = same(name, task.compute(checked), expected, tolerance=TOLERANCE[dtype])
                    calls[name] = task.timed(call)
            memory = {name: benchmark.peak_memory(call, device) for name, call in calls.items()}
            times = benchmark.time_rounds(calls, pairs=self.pairs, least=self.least_ms / 1e3)
            for row in benchmark.summarise(times, phases):
                yield {"mode": mode, **row, "peak_mb": memory[row["variant"]], "error": errors[row["variant"]]}

    def table(self, rows: list[Row]) -> str:
        """Return the results in markdown, a table for each kind, mode, dtype, device and number of threads."""
        text = ""
        for title, part in benchmark.groups(rows, TITLE).items():
            columns, phases = {"TxNxHxL": SIZE, "variant": "{variant}"}, PHASES[part[0]["mode"]]
            columns |= {f"{phase}, ms": quartiles(f"{phase}_ms", ".3g") for phase in phases}
            columns |= {f"{phase}, ratio": quartiles(f"{phase}_ratio", ".3f") for phase in phases}
            columns |= {"peak MB": "" if part[0]["peak_mb"] is None else "{peak_mb:.1f}", "error": "{error:.0e}"}
            lines = benchmark.table(benchmark.phase_columns(part, SIZE), columns)
            text += f"{title}, torch {torch.__version__}\n\n{lines}"
            text += benchmark.doubts(part, TORCH_AGAIN, SIZE + " {phase}") + "\n"
        return text

    def draw(self, rows: list[Row], figure: Path) -> None:
        """Draw the ratios of forward and backward together, or of the forward in inference."""
        shown = [row for row in rows if row["phase"] == PHASES[row["mode"]][-1] and row["variant"] != TORCH]
        benchmark.plot_ratios(shown, figure, panel=TITLE, tick=SIZE, label=f"time over {TORCH}")


def chosen(names: list[str] | None, known: Iterable[str], *always: str) -> list[str]:
    """Check the names of the variants to time, all that are known by default; return them in the known order."""
    for name in names or ():
        if name not in known:
            raise ValueError(f"there is no variant {name!r}.{suggest(name, known)}")
    return [name for name in known if names is None or name in (*always, *names)]


def numbers(size: str) -> dict[str, int]:
    """Return the numbers of a size; raise ValueError unless it is four numbers above zero."""
    parts = size.split("x")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"a size is steps x batch x hidden size x layers, as in 35x20x650x2; got {size!r}")
    return dict(zip(("steps", "batch", "hidden", "layers"), map(int, parts), strict=True))


class LayerNormLSTM(nn.Module):
    """LSTM with layer normalisation (Ba et al. 2016, arXiv 1607.06450), its cell written out in Python."""

    def __init__(self, plain: nn.LSTM, normalises: bool = True) -> None:
        super().__init__()
        self.plain = copy.deepcopy(plain)
        self.normalises = normalises
        sizes = (4 * plain.hidden_size, 4 * plain.hidden_size, plain.hidden_size)
        self.norms = nn.ModuleList(nn.ModuleList(map(nn.LayerNorm, sizes)) for _ in range(plain.num_layers))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over a sequence, the input's products of all steps in one."""
        final = []
        for h, c, (w_ih, w_hh, b_ih, b_hh), norms in zip(*state, self.plain.all_weights, self.norms, strict=True):
            norm_x, norm_h, norm_c = norms if self.normalises else (nn.Identity(),) * 3
            outputs = []
            for gates_x in norm_x(F.linear(x, w_ih)).unbind(0):  # (N, 4·H)
                i, f, g, o = (gates_x + norm_h(F.linear(h, w_hh)) + (b_ih + b_hh)).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * norm_c(c).tanh()
                outputs.append(h)
            x = torch.stack(outputs)  # (T, N, H)
            final.append((h, c))
        return x, tuple(map(torch.stack, zip(*final, strict=True)))


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
            gates_x = F.linear(x, w_ih).transpose(0, 1).unflatten(2, (4, 1, size)).to(dtype)  # (N, T, 4, 1, H)
            recurrent, bias = (part.unflatten(0, (4, 1, size)).to(dtype) for part in (w_hh, b_ih + b_hh))
            start = torch.stack((h, c))[:, :, None, None].to(dtype)  # (2, N, 1, 1, H)
            name = str(dtype).removeprefix("torch.")
            states, last = self.run(gates_x, recurrent, bias, states=start, function="lstm", dtype=name)
            x = states[0, :, :, 0].transpose(0, 1)  # (T, N, H)
            final.append((last[0].reshape(h.shape), last[1].reshape(c.shape)))
        return x, tuple(map(torch.stack, zip(*final, strict=True)))


def parametrised(plain: nn.Module) -> nn.Module:
    """Copy torch's module, with torch's own weight norm on every weight."""
    module = copy.deepcopy(plain)
    for name, _ in plain.named_parameters():
        if name.startswith("weight"):
            parametrizations.weight_norm(module, name)
    return module


def normalised(plain: nn.Module) -> Any:
    """Return wnseq's module with torch's weights."""
    return wnseq.weight_normalize(plain)


def removed(plain: nn.Module) -> nn.Module:
    """Return torch's module with the weights of wnseq's."""
    return wnseq.remove_weight_norm(normalised(plain))


@dataclass(frozen=True)
class Variant:
    """One way to run a recurrence.

    Args:
        make: Makes its module from torch's; in inference any function of input and state.
        check: Makes one that computes the same as torch's, where its own does not.
        modes: ``training``, ``inference`` or both.
        kinds: Those it has.
        needs: A library that it needs, on CUDA only.
    """

    make: Callable[[nn.Module], Any]
    check: Callable[[nn.Module], Any] | None = None
    modes: tuple[str, ...] = ("training", "inference")
    kinds: tuple[str, ...] = ("lstm", "gru")
    needs: str | None = None

    def runs(self, kind: str, mode: str, device: torch.device) -> bool:
        """Return True if it runs there."""
        found = self.needs is None or (device.type == "cuda" and importlib.util.find_spec(self.needs) is not None)
        return found and kind in self.kinds and mode in self.modes


LAYERS = {
    TORCH: Variant(copy.deepcopy),
    TORCH_AGAIN: Variant(copy.deepcopy),
    "torch weight_norm": Variant(parametrised),
    "wnseq": Variant(normalised),
    "wnseq removed": Variant(removed, modes=("inference",)),
    "wnseq bound": Variant(lambda plain: normalised(plain).bind(), modes=("inference",)),
    "layer norm": Variant(LayerNormLSTM, check=partial(LayerNormLSTM, normalises=False), kinds=("lstm",)),
    "flashrnn": Variant(FlashLSTM, kinds=("lstm",), needs="flashrnn"),
}


@dataclass
class Step(Benchmark):
    """Training steps of a language model: the recipe language_model beside the usual PyTorch loop.

    Each variant is a process of its own, and the processes take turns. All start from the same weights, see the same
    batches and take the same SGD steps with clipping, without dropout.

    Args:
        corpus: Name of a corpus, or path of a text.
        hidden_size: Size of embedding and LSTM.
        num_layers: Layers of the LSTM.
        batch_size: Streams of a batch.
        bptt: Tokens of a stream.
        variants: Variants to time beside the usual loop; by default all.
        equal_steps: Steps after which the losses of the last twenty are compared; by default those that are timed.
    """

    corpus: str = "python"
    hidden_size: int = 256
    num_layers: int = 1
    batch_size: int = 20
    bptt: int = 35
    variants: list[str] | None = None
    equal_steps: int | None = None

    def __post_init__(self) -> None:
        """Fill in and check the values."""
        super().__post_init__()
        self.variants = chosen(self.variants, STEPS, USUAL, USUAL_AGAIN)

    @property
    def steps(self) -> int:
        """Steps that every variant takes."""
        return max(self.equal_steps or 0, WARM_UP + TURN * self.pairs)

    def measure(self, threads: int) -> Iterator[list[Row]]:
        """Check every variant's first losses, then time it."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wnseq-speed-")))
            words = self.prepare(folder)
            processes: dict[str, TrainingProcess] = {}
            for name in self.variants:
                print(f"{name}, {threads} threads …", flush=True)
                train = usual_loop if name in (USUAL, USUAL_AGAIN) else recipe_loop
                args = (folder, *self.recipe_arguments(folder), *STEPS[name])
                processes[name] = process = TrainingProcess(name, train, args, folder, threads=threads)
                stack.callback(process.end)
                process.take(WARM_UP)
                for part in (FIRST, ALL):
                    check_loss(name, process.mean_loss(part), processes[USUAL].mean_loss(part), part)
            times = benchmark.take_turns(self.variants, lambda name: [median(processes[name].take(TURN))], self.pairs)
            if left := self.steps - WARM_UP - TURN * self.pairs:
                for process in processes.values():
                    process.take(left)
        rows = []
        for row in benchmark.summarise(times, ("step",)):
            process = processes[row["variant"]]
            loss, usual = process.mean_loss(LAST), processes[USUAL].mean_loss(LAST)
            faster = [1 / row[key] for key in ("ratio", "ratio_upper", "ratio_lower")]
            row |= dict(zip(("speedup", "speedup_lower", "speedup_upper"), faster, strict=True))
            row |= {"tokens_per_s": 1e3 * self.batch_size * self.bptt / row["ms"], "steps": self.steps}
            row |= {"peak_mb": process.peak, "loss": loss, "loss_off": loss / usual - 1}
            rows.append({"threads": threads, "words": words, **row})
        yield rows

    def prepare(self, folder: Path) -> int:
        """Write batches and first weights for all variants; return the size of the vocabulary."""
        data = TextDataModule(self.corpus, "word", batch_size=self.batch_size, bptt=self.bptt)
        data.prepare_data()
        data.setup("fit")
        batches = [(x.inputs.clone(), x.targets.clone()) for x in islice(data.train_dataloader(), self.steps + 1)]
        if len(batches) <= self.steps:  # one more than is timed
            raise ValueError(
                f"{self.steps} steps need a batch more, and {self.corpus} has {len(batches)} batches of "
                f"{self.batch_size} x {self.bptt}; lower pairs or equal_steps, or take a larger corpus"
            )
        torch.save(batches, folder / "batches.pt")
        torch.manual_seed(1)
        model = UsualModel(len(data.tokenizer), self.hidden_size, self.num_layers)
        torch.save(model, folder / "model.pt")
        start = {"state_dict": model.state_dict(), "wnseq": {"tokenizer": data.tokenizer.state()}}
        torch.save(start, folder / "start.pt")
        return len(data.tokenizer)

    def recipe_arguments(self, folder: Path) -> Iterator[str]:
        """Yield the recipe's arguments that make its steps those of the usual loop."""
        for name in ("data.corpus", "data.batch_size", "data.bptt", "model.hidden_size", "model.num_layers"):
            yield f"--{name}={getattr(self, name.partition('.')[2])}"
        yield from ("--data.tokenizer=word", "--model.dropout=0", f"--model.init_from={folder / 'start.pt'}")
        yield from ("--model.optimizer=sgd", f"--model.learning_rate={LEARNING_RATE}", "--model.schedule=constant")
        yield from (f"--trainer.gradient_clip_val={CLIP}", "--trainer.max_epochs=1", "--trainer.limit_val_batches=0")
        yield from ("--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.precision=32-true")
        yield from (f"--trainer.default_root_dir={folder}", "--trainer.callbacks+=wnseq.training.benchmark.TurnTaker")

    def table(self, rows: list[Row]) -> str:
        """Return the results in markdown."""
        columns = {"variant": "{variant}", "threads": "{threads}", "ms a step": quartiles("ms", ".3g")}
        columns |= {"tokens a second": "{tokens_per_s:,.0f}", "times the usual": quartiles("speedup", ".3f")}
        columns |= {"peak MB": "{peak_mb:.0f}", "last loss": "{loss:.4f}", "off by": "{loss_off:+.2%}"}
        text = (
            f"{self.corpus}, {rows[0]['words']:,} words, {self.num_layers} x {self.hidden_size}, "
            f"{self.batch_size} x {self.bptt} tokens a step, CPU, torch {torch.__version__}\n\n"
        )
        text += benchmark.table(rows, columns) + benchmark.doubts(rows, USUAL_AGAIN, "{threads} threads")
        if far := [row["variant"] for row in rows if not abs(row["loss_off"]) <= allowed(row["variant"], LAST)]:
            text += f"\nThe last losses are further off than rounding explains in so few steps: {', '.join(far)}.\n"
        return text


class UsualModel(nn.Module):
    """The word language model of PyTorch's examples, tied, without dropout."""

    def __init__(self, vocabulary: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, hidden)
        self.rnn = nn.LSTM(hidden, hidden, layers)
        self.decoder = nn.Linear(hidden, vocabulary)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Predict the token after each of the given ones."""
        output, state = self.rnn(self.encoder(tokens), state)
        return self.decoder(output), state


def usual_loop(folder: Path, *_: str) -> None:
    """Train as PyTorch's example does."""
    turns = TurnTaker()
    model = torch.load(folder / "model.pt", weights_only=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    state = None
    for tokens, targets in torch.load(folder / "batches.pt"):
        turns.next_step()
        state = None if state is None else tuple(each.detach() for each in state)
        optimizer.zero_grad()
        logits, state = model(tokens, state)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        turns.loss = loss.item()
    turns.next_step()


def recipe_loop(folder: Path, *arguments: str) -> None:
    """Train by the recipe's command line, in a process of its own, on the CPU as the usual loop does."""
    sys.argv = ["language_model", "fit", "--trainer.accelerator=cpu", "--trainer.devices=1", *arguments]
    importlib.import_module("wnseq.recipes.language_model").main()


def allowed(name: str, part: slice) -> float:
    """Return by what part of the usual loop's loss a variant's may be off over some steps."""
    if name.startswith("weight") and part != FIRST:  # it takes other steps, with g and v
        return math.inf
    return 0.01 if "bf16" in name else 0.005


def check_loss(name: str, loss: float, expected: float, part: slice) -> None:
    """Raise ValueError unless rounding explains how far a variant's mean loss is from the usual loop's."""
    if not abs(loss / expected - 1) <= allowed(name, part):
        raise ValueError(
            f"{name} computes something else than the {USUAL}: its loss is {loss:.4f} instead of {expected:.4f}, and "
            f"rounding explains at most {allowed(name, part):.1%}"
        )


MIXED = "--trainer.precision=bf16-mixed"
STEPS: dict[str, list[str]] = {  # arguments of the recipe language_model
    USUAL: [],
    USUAL_AGAIN: [],
    "plain float32": ["--model.norm=none"],
    "plain medium": ["--model.norm=none", "--matmul_precision=medium"],
    "weight float32": ["--model.norm=weight"],
    "plain bf16": ["--model.norm=none", MIXED],
    "weight bf16": ["--model.norm=weight", MIXED],
    "chunked bf16": ["--model.norm=none", MIXED, "--model.chunked_softmax=true"],
}


@dataclass
class Stream(Benchmark):
    """Single steps at batch 1: an LSTM cell, and a language model that samples.

    Each step does two operations for each weight that it reads, so memory is its limit: beside the variants is a plain
    read (a sum) of as many bytes as their weights have.

    Args:
        hidden_sizes: Sizes of the cell, its input's too.
        vocabulary: Words of the language model.
        hidden_size: Its hidden size.
        num_layers: Its layers.
        tokens: Tokens of one measurement.
        least_ms: Shorter runs are repeated within a round, until torch.nn takes this long.
    """

    hidden_sizes: list[int] = field(default_factory=lambda: [512])
    vocabulary: int = 10_000
    hidden_size: int = 650
    num_layers: int = 2
    tokens: int = 50
    least_ms: float = 20.0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        sizes = {"hidden_size": self.hidden_size, "num_layers": self.num_layers, "tokens": self.tokens}
        for name, value in {**sizes, "hidden_sizes": min(self.hidden_sizes, default=1)}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.vocabulary < 2:
            raise ValueError(f"vocabulary must be at least 2, an unknown word and a line's end, got {self.vocabulary}")

    def measure(self, threads: int) -> Iterator[list[Row]]:
        """Check and time the cell at every size, then the language model."""
        for hidden in self.hidden_sizes:
            yield list(self.time(f"LSTM, 1x1x{hidden}", threads, *cell_steps(hidden), 1))
        model = f"language model, {self.num_layers} x {self.hidden_size}, {self.vocabulary:,} words"
        yield list(self.time(model, threads, *self.sampled_tokens(), self.tokens))

    def time(self, what: str, threads: int, calls: Calls, size: int, steps: int) -> Iterator[Row]:
        """Time calls of some steps each, and as many plain reads of the bytes that a step reads."""
        print(f"{what}, {threads} threads …", flush=True)
        weights = torch.ones(size // 4)
        calls = {**calls, READ: lambda: [weights.sum() for _ in range(steps)]}
        timed = {name: benchmark.timed(call) for name, call in calls.items()}
        with torch.inference_mode():
            times = benchmark.time_rounds(timed, pairs=self.pairs, least=self.least_ms / 1e3)
        each = {name: [(seconds / steps,) for (seconds,) in own] for name, own in times.items()}
        rows = list(benchmark.summarise(each, ("step",)))
        limit = next(row["ms"] for row in rows if row["variant"] == READ)
        for row in rows:
            rates = {"per_second": 1e3 / row["ms"], "gb_per_s": size / row["ms"] / 1e6, "of_limit": limit / row["ms"]}
            yield {"what": what, "threads": threads, **row, "mb": size / benchmark.MEGABYTE, **rates}

    def sampled_tokens(self) -> tuple[Calls, int]:
        """Return samplers of the recipe language_model, and the bytes of the weights that a token needs."""
        recipe = importlib.import_module("wnseq.recipes.language_model")
        words = WordTokenizer([UNKNOWN, LINE_END, *map(str, range(self.vocabulary - 2))])
        sampling = recipe.Sampling(max_new_tokens=self.tokens)
        text = torch.arange(5).unsqueeze(1) % self.vocabulary  # (T, 1)
        calls: Calls = {}
        expected: dict[str, Tensor] = {}
        for name, norm in ((TORCH, "none"), (TORCH_AGAIN, "none"), ("wnseq", "weight")):
            torch.manual_seed(0)
            model = recipe.LanguageModel(norm=norm, hidden_size=self.hidden_size, num_layers=self.num_layers)
            model.build(words)
            model.eval()
            with torch.no_grad():
                found = {"logits": model(text)[0]}
            expected = expected or found
            same(name, found, expected, tolerance=TOLERANCE["float32"])
            calls[name] = lambda model=model: list(recipe.sample(model, sampling))
        network = model.network
        with torch.no_grad():
            step = network.bind()

        def without_drawing() -> None:
            state = None
            for _ in range(self.tokens):
                _, state = step(text[:1], state)

        calls["wnseq, nothing drawn"] = without_drawing
        weights = [network.decoder.weight, *(getattr(network.rnn, name) for name in network.rnn.weight_names)]
        return calls, 4 * sum(weight.numel() for weight in weights)

    def table(self, rows: list[Row]) -> str:
        """Return the results in markdown."""
        columns = {"what": "{what}", "variant": "{variant}", "threads": "{threads}"}
        columns |= {"ms a step": quartiles("ms", ".3g"), "ratio": quartiles("ratio", ".3f")}
        columns |= {"steps a second": "{per_second:,.0f}", "MB": "{mb:.1f}"}
        columns |= {"GB/s": "{gb_per_s:.1f}", "of the limit": "{of_limit:.0%}"}
        text = f"Inference, float32, cpu, torch {torch.__version__}\n\n{benchmark.table(rows, columns)}"
        return text + benchmark.doubts(rows, TORCH_AGAIN, "{what}, {threads} threads")


def cell_steps(hidden: int) -> tuple[Calls, int]:
    """Return one step of each cell, and of a layer that is fed one step, and the bytes of the weights."""
    torch.manual_seed(0)
    cell, layer = nn.LSTMCell(hidden, hidden), nn.LSTM(hidden, hidden)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x, h, c = (torch.randn(1, hidden) for _ in range(3))
    with torch.no_grad():
        cells = {TORCH: copy.deepcopy(cell), TORCH_AGAIN: copy.deepcopy(cell), "wnseq": normalised(cell)}
        cells |= {"wnseq removed": removed(cell), "wnseq bound": normalised(cell).bind()}
        layers = {"nn.LSTM": layer, "WNLSTM bound": normalised(layer).bind()}
        calls: Calls = {name: partial(step, x, (h, c)) for name, step in cells.items()}
        calls |= {name: partial(step, x[None], (h[None], c[None])) for name, step in layers.items()}
        for name, call in calls.items():
            state = call()[1] if name in layers else call()
            found = {"state": torch.cat([part.view(1, hidden) for part in state])}
            same(name, found, {"state": torch.cat(cell(x, (h, c)))}, tolerance=TOLERANCE["float32"])
    return calls, 4 * (cell.weight_ih.numel() + cell.weight_hh.numel())


def main(args: list[str] | None = None) -> list[Row]:
    """Run the command line, in the mode ``layers`` where it names none; return the rows of the results."""
    modes = {"layers": Layers, "step": Step, "stream": Stream}
    return benchmark.run(modes, args, recipe="speed", headline=__doc__.partition("\n")[0])


if __name__ == "__main__":
    main()
