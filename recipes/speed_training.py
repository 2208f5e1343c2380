"""Benchmark of a language model's whole training steps: the usual PyTorch loop beside the recipe language_model.

Each contender is a process of its own, since what is told to the C library or to torch holds for a whole process, and
the processes take turns: one works through some steps while the others sleep. All start from the same weights, see the
same windows and take the same SGD steps with clipping, without dropout; that their losses agree is checked before the
clock starts, and shown at the end. One contender is the usual loop a second time: where its ratio is off, no other's
counts.

    wnseq run speed_training
    wnseq run speed_training --corpus ptb --hidden_size 650 --num_layers 2 --equal_steps 300

Expect, in the folder ``out``, ``training.csv`` and a table ``training.md``; docs/speed.md has those of one machine.

Deviations from common benchmarks:
1. The recipe's step is timed from batch to batch in the Lightning Trainer, with all that the Trainer does in between.
2. Of the steps of a turn the median counts.
3. Weight normalisation is the same function and another way of training it: its losses are compared at the first step
   alone, and those of its last steps are shown.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from torch import Tensor, nn

from wnseq.data.text import TextDataModule
from wnseq.training import benchmark
from wnseq.training.benchmark import Row
from wnseq.training.cli.errors import suggest, user_errors

USUAL, AGAIN = "usual loop", "usual loop again"
WARM, TURN = 4, 3  # steps before the clock starts, and steps of a turn
FIRST, ALL, LAST = slice(1), slice(None), slice(-20, None)  # steps whose losses are compared
PIPES = "WNSEQ_SPEED_PIPES"  # tells a contender its ends of two pipes
LEARNING_RATE, CLIP = 5.0, 0.25

MIXED = "--trainer.precision=bf16-mixed"
CONTENDERS: dict[str, list[str]] = {  # the recipe's arguments
    USUAL: [],
    AGAIN: [],
    "plain float32": ["--model.norm=none"],
    "plain medium": ["--model.norm=none", "--matmul_precision=medium"],
    "weight float32": ["--model.norm=weight"],
    "plain bf16": ["--model.norm=none", MIXED],
    "weight bf16": ["--model.norm=weight", MIXED],
    "chunked bf16": ["--model.norm=none", MIXED, "--model.chunked_softmax=true"],
}


def tolerance(name: str) -> float:
    """Say by what part of the loss a contender may be off."""
    return 0.01 if "bf16" in name else 0.005


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


class Turns:
    """A contender's side of the talk: waits until it is told a number of steps, takes them, tells what came out."""

    def __init__(self) -> None:
        read, write = map(int, os.environ[PIPES].split(","))
        self.read, self.write = os.fdopen(read), os.fdopen(write, "w")
        self.left = 0
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.start = 0.0

    def before(self) -> None:
        """Begin a step; after the last one of a turn, first hand the turn over, and end where there is none."""
        if self.left == 0:
            if self.seconds:
                print(json.dumps([self.seconds, self.losses, benchmark.resident("VmHWM")]), file=self.write, flush=True)
            told = self.read.readline()
            if not told.strip():
                os._exit(0)  # nothing that a Trainer does at its end is wanted
            self.left, self.seconds, self.losses = int(told), [], []
            self.start = time.perf_counter()
        self.left -= 1

    def after(self, loss: float) -> None:
        """End a step."""
        now = time.perf_counter()
        self.seconds.append(now - self.start)
        self.losses.append(loss)
        self.start = now


class TakeTurns(Callback):
    """The talk of a Trainer, from batch to batch."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.loss: float | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """End a step and begin one."""
        if self.loss is not None:
            self.turns.after(self.loss)
        self.turns.before()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Note the loss."""
        self.loss = loss.item()


def usual_loop(folder: Path) -> None:
    """Train as PyTorch's example does."""
    turns = Turns()
    start = torch.load(folder / "start.pt")
    layers = sum(name.startswith("rnn.weight_ih") for name in start)
    model = UsualModel(*start["encoder.weight"].shape, layers)
    model.load_state_dict(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    state = None
    for tokens, targets in torch.load(folder / "windows.pt"):
        turns.before()
        state = None if state is None else tuple(each.detach() for each in state)
        optimizer.zero_grad()
        logits, state = model(tokens, state)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        turns.after(loss.item())
    turns.before()


class Process:
    """This side of the talk with a contender."""

    def __init__(self, name: str, command: list[str], folder: Path, threads: int) -> None:
        self.name = name
        self.output = folder / f"{name}.txt"
        (read, theirs_write), (theirs_read, write) = os.pipe(), os.pipe()
        told = {PIPES: f"{theirs_read},{theirs_write}", "OMP_NUM_THREADS": str(threads)}
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **told},
                pass_fds=(theirs_read, theirs_write),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        os.close(theirs_read)
        os.close(theirs_write)
        self.read, self.write = os.fdopen(read), os.fdopen(write, "w")
        self.losses: list[float] = []
        self.peak = 0

    def take(self, steps: int) -> tuple[float, ...]:
        """Let it take some steps; return the median of their seconds.

        Raises:
            ValueError: It has ended.
        """
        answer = ""
        with suppress(BrokenPipeError):  # it has ended, and says below of what
            print(steps, file=self.write, flush=True)
            answer = self.read.readline()
        if not answer:
            said = "\n".join(self.output.read_text("utf-8", "replace").splitlines()[-5:])
            raise ValueError(f"the contender {self.name!r} ended with status {self.process.wait()}; it said:\n{said}")
        seconds, losses, self.peak = json.loads(answer)
        self.losses += losses
        return (median(seconds),)

    def loss(self, part: slice) -> float:
        """Take the mean loss of some steps."""
        return fmean(self.losses[part])

    def end(self) -> None:
        """End it, wherever it is."""
        self.process.kill()
        self.process.wait()
        for end in (self.read, self.write):
            with suppress(BrokenPipeError):
                end.close()


@dataclass
class Training:
    """What is timed.

    Args:
        corpus: Name of a corpus, or path of a text.
        hidden_size: Of embedding and LSTM.
        num_layers: Layers of the LSTM.
        batch_size: Columns of a window.
        window: Tokens of a column.
        contenders: Whom to time beside the usual loop; by default all.
        threads: Threads of each; by default torch's.
        pairs: Turns of each contender.
        equal_steps: Steps after which the losses of the last twenty are compared; by default those that are timed.
        out: Folder of the results.
    """

    corpus: str = "python"
    hidden_size: int = 256
    num_layers: int = 1
    batch_size: int = 20
    window: int = 35
    contenders: list[str] | None = None
    threads: int = field(default_factory=torch.get_num_threads)
    pairs: int = 15
    equal_steps: int | None = None
    out: str = "runs/speed_training"

    def __post_init__(self) -> None:
        """Fill in and check the values."""
        benchmark.check(self.pairs, [self.threads])
        for name in self.contenders or []:
            if name not in CONTENDERS:
                raise ValueError(f"there is no contender {name!r}.{suggest(name, CONTENDERS)}")
        self.contenders = [USUAL, AGAIN, *(CONTENDERS if self.contenders is None else self.contenders)]

    @property
    def steps(self) -> int:
        """Count the steps that everyone takes."""
        return max(self.equal_steps or 0, WARM + TURN * self.pairs)


def prepare(training: Training, folder: Path) -> int:
    """Write windows and first weights for everyone; return the size of the vocabulary.

    Raises:
        ValueError: The corpus has too few windows.
    """
    data = TextDataModule(training.corpus, "word", batch_size=training.batch_size, bptt=training.window)
    data.prepare_data()
    data.setup("fit")
    windows = [(each.inputs.clone(), each.targets.clone()) for each in islice(data.train_dataloader(), training.steps)]
    if len(windows) < training.steps:
        raise ValueError(
            f"{training.steps} steps are asked for, and {training.corpus} has {len(windows)} windows of "
            f"{training.batch_size} x {training.window}; lower pairs or equal_steps, or take a larger corpus"
        )
    torch.save(windows, folder / "windows.pt")
    torch.manual_seed(1)
    model = UsualModel(len(data.tokenizer), training.hidden_size, training.num_layers)
    torch.save(model.state_dict(), folder / "start.pt")
    return len(data.tokenizer)


def command(name: str, training: Training, folder: Path) -> list[str]:
    """Write the command of a contender."""
    if name in (USUAL, AGAIN):
        return [sys.executable, __file__, USUAL, str(folder)]
    recipe = find_spec("wnseq.recipes.language_model").origin
    options = {
        "data.corpus": training.corpus,
        "data.tokenizer": "word",
        "data.batch_size": training.batch_size,
        "data.bptt": training.window,
        "model.hidden_size": training.hidden_size,
        "model.num_layers": training.num_layers,
        "model.dropout": 0,
        "model.optimizer": "sgd",
        "model.learning_rate": LEARNING_RATE,
        "model.schedule": "constant",
        "model.init_from": folder / "start.pt",
        "trainer.gradient_clip_val": CLIP,
        "trainer.max_epochs": 1,
        "trainer.limit_val_batches": 0,
        "trainer.logger": "false",
        "trainer.enable_checkpointing": "false",
        "trainer.default_root_dir": folder / name,
        "trainer.callbacks+": "wnseq.recipes.speed_training.TakeTurns",
    }
    return [sys.executable, recipe, "fit", *(f"--{key}={value}" for key, value in options.items()), *CONTENDERS[name]]


def explained(name: str, off: float, part: slice) -> bool:
    """Tell whether rounding explains by what part of the usual loss a contender's is off over some steps."""
    its_own_way = name.startswith("weight") and part != FIRST  # g and v take other steps than w
    return its_own_way or abs(off) <= tolerance(name)


def check(process: Process, usual: Process, part: slice) -> None:
    """Hold the losses of a contender over some steps against those of the usual loop.

    Raises:
        ValueError: Rounding does not explain the difference.
    """
    mean, expected = process.loss(part), usual.loss(part)
    if not explained(process.name, mean / expected - 1, part):
        raise ValueError(
            f"{process.name} computes something else than the {USUAL}: its loss is {mean:.4f} where that one's is "
            f"{expected:.4f}, and rounding explains at most {tolerance(process.name):.1%}"
        )


def run(training: Training) -> list[Row]:
    """Let everyone take turns; write CSV and table."""
    folder = Path(tempfile.mkdtemp(prefix="wnseq-speed-"))
    processes: list[Process] = []
    try:
        vocabulary = prepare(training, folder)
        for name in CONTENDERS:
            if name in training.contenders:
                print(f"{name} …", flush=True)
                processes.append(Process(name, command(name, training, folder), folder, training.threads))
                processes[-1].take(WARM)
                check(processes[-1], processes[0], FIRST)
                check(processes[-1], processes[0], ALL)
        times: benchmark.Times = {process.name: [] for process in processes}
        order, shuffle = list(processes), random.Random(0).shuffle
        for _ in range(training.pairs):
            shuffle(order)
            for process in order:
                times[process.name].append(process.take(TURN))
        left = training.steps - WARM - TURN * training.pairs
        for process in processes if left else []:
            process.take(left)
        rows = []
        for row, process in zip(benchmark.summarised(times, ("step",)), processes, strict=True):
            row["tokens_per_s"] = 1e3 * training.batch_size * training.window / row["ms"]
            row |= {"peak_mb": process.peak / benchmark.MEGABYTE, "steps": training.steps}
            row |= {"loss": process.loss(LAST), "loss_off": process.loss(LAST) / processes[0].loss(LAST) - 1}
            rows.append(row)
    finally:
        for process in processes:
            process.end()
        shutil.rmtree(folder, ignore_errors=True)
    out = Path(training.out)
    benchmark.write(rows, out / "training.csv")
    text = (
        f"{training.corpus}, {vocabulary:,} words, {training.num_layers} x {training.hidden_size}, "
        f"{training.batch_size} x {training.window} tokens a step, {training.threads} threads, torch "
        f"{torch.__version__}\n\n{table(rows)}"
    )
    (out / "training.md").write_text(text, "utf-8")
    print(f"\n{text}\nresults  {os.path.relpath(out)}")
    return rows


def table(rows: list[Row]) -> str:
    """Write the results in markdown."""
    head = ["contender", "ms a step", "tokens a second", "times the usual", "peak MB", "last loss", "off by"]
    lines = []
    for row in rows:
        faster = [1 / row[key] for key in ("ratio", "ratio_upper", "ratio_lower")]
        lines.append([row["contender"], benchmark.quartiles(row, "ms", ".3g"), f"{row['tokens_per_s']:,.0f}"])
        lines[-1] += ["{:.3f} ({:.3f}, {:.3f})".format(*faster), f"{row['peak_mb']:.0f}"]
        lines[-1] += [f"{row['loss']:.4f}", f"{row['loss_off']:+.2%}"]
    text = benchmark.table(head, lines)
    if abs(rows[1]["ratio"] - 1) > benchmark.SAME:
        text += f"\nThe {AGAIN} is off by more than {benchmark.SAME:.0%}, so that no ratio counts.\n"
    if far := [row["contender"] for row in rows if not explained(row["contender"], row["loss_off"], LAST)]:
        text += f"\nThe last losses are further off than rounding explains in so few steps: {', '.join(far)}.\n"
    return text


def main(args: list[str] | None = None) -> list[Row]:
    """Run the command line; return the rows of the results."""
    parser = ArgumentParser(prog="speed_training", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", action="config", help="A YAML file with these options.")
    parser.add_class_arguments(Training, as_group=False)
    with user_errors():
        options = parser.parse_args(args).as_dict()
        return run(Training(**{name: value for name, value in options.items() if name != "config"}))


if __name__ == "__main__":
    if sys.argv[1:2] == [USUAL]:
        usual_loop(Path(sys.argv[2]))
    else:
        main()
