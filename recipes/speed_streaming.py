"""Benchmark of streaming: one step of an LSTM cell, and a language model that samples, at batch 1.

A step at batch 1 does two operations for each weight that it reads, so that memory is its limit: each contender is
put beside a plain read (a sum) of as many bytes as its weights have. Contenders run in one process, one after the other
in a shuffled order, round by round, once it is shown that they compute the same; each is compared with ``torch.nn`` in
its own round, and one is ``torch.nn`` a second time: where that one's ratio is off, no other's counts.

    wnseq run speed_streaming
    wnseq run speed_streaming --vocabulary 33278 --threads "[1, 2]"

Expect, in the folder ``out``, ``streaming.csv`` and a table ``streaming.md``; docs/speed.md has those of one machine.

Deviations from common benchmarks:
1. The weights are untrained, and so is the text.
2. Weights that fit into the processor's caches are read from there, as is the plain read.
"""

import copy
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

import wnseq
from wnseq.data.text import LINE_END, UNKNOWN, WordTokenizer
from wnseq.training import benchmark
from wnseq.training.benchmark import Row
from wnseq.training.cli.errors import user_errors

PLAIN, AGAIN, READ = "torch.nn", "torch.nn again", "plain read"
TOLERANCE = 1e-4  # of the largest value of what is compared

Calls = dict[str, Callable[[], Any]]


@dataclass
class Streaming:
    """What is timed.

    Args:
        hidden_sizes: Sizes of the cell, its input's too.
        vocabulary: Words of the language model.
        hidden_size: Its hidden size.
        num_layers: Its layers.
        tokens: Tokens of one measurement.
        threads: Numbers of threads; by default torch's.
        pairs: Rounds; each pairs every contender with torch.nn.
        least_ms: What is over sooner is repeated within a round, until torch.nn takes this long.
        out: Folder of the results.
    """

    hidden_sizes: list[int] = field(default_factory=lambda: [512])
    vocabulary: int = 10_000
    hidden_size: int = 650
    num_layers: int = 2
    tokens: int = 50
    threads: list[int] = field(default_factory=lambda: [torch.get_num_threads()])
    pairs: int = 15
    least_ms: float = 20.0
    out: str = "runs/speed_streaming"

    def __post_init__(self) -> None:
        """Check the values."""
        benchmark.check(self.pairs, self.threads)
        sizes = {"hidden_size": self.hidden_size, "num_layers": self.num_layers, "tokens": self.tokens}
        for name, value in {**sizes, "hidden_sizes": min(self.hidden_sizes, default=1)}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.vocabulary < 2:
            raise ValueError(f"vocabulary must be at least 2, an unknown word and a line's end, got {self.vocabulary}")


def run(streaming: Streaming) -> list[Row]:
    """Time everything; write CSV and table."""
    rows: list[Row] = []
    model = f"language model, {streaming.num_layers} x {streaming.hidden_size}, {streaming.vocabulary:,} words"
    for threads in streaming.threads:
        with benchmark.threads(threads):
            for hidden in streaming.hidden_sizes:
                rows += timed(streaming, f"LSTM, 1x1x{hidden}", threads, *steps_of_a_cell(hidden), 1)
            rows += timed(streaming, model, threads, *tokens_of_a_model(streaming), streaming.tokens)
    out = Path(streaming.out)
    benchmark.write(rows, out / "streaming.csv")
    text = table(rows)
    (out / "streaming.md").write_text(text, "utf-8")
    print(f"\n{text}\nresults  {os.path.relpath(out)}")
    return rows


def timed(streaming: Streaming, what: str, threads: int, calls: Calls, read: int, steps: int) -> Iterator[Row]:
    """Time the calls, each of so many steps, and as many plain reads of what a step reads, in bytes."""
    print(f"{what}, {threads} threads …", flush=True)
    weights = torch.ones(read // 4)
    laps = {name: benchmark.clocked(call) for name, call in calls.items()}
    laps[READ] = benchmark.clocked(lambda: [weights.sum() for _ in range(steps)])
    with torch.inference_mode():
        times = benchmark.rounds(laps, pairs=streaming.pairs, least=streaming.least_ms / 1e3)
    each = {name: [(of[0] / steps,) for of in own] for name, own in times.items()}
    rows = list(benchmark.summarised(each, ("step",)))
    limit = next(row["ms"] for row in rows if row["contender"] == READ)
    for row in rows:
        rates = {"per_second": 1e3 / row["ms"], "gb_per_s": read / row["ms"] / 1e6, "of_limit": limit / row["ms"]}
        yield {"what": what, "threads": threads, **row, "mb": read / benchmark.MEGABYTE, **rates}


def steps_of_a_cell(hidden: int) -> tuple[Calls, int]:
    """Make one step of each cell, and of a layer that is fed one step; count the bytes of the weights."""
    torch.manual_seed(0)
    cell, layer = nn.LSTMCell(hidden, hidden), nn.LSTM(hidden, hidden)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    ours = wnseq.weight_normalize(cell).model
    x, h, c = (torch.randn(1, hidden) for _ in range(3))
    with torch.no_grad():
        cells = {
            PLAIN: copy.deepcopy(cell),
            AGAIN: copy.deepcopy(cell),
            "wnseq": ours,
            "wnseq folded": wnseq.remove_weight_norm(ours).model,
            "wnseq bound": ours.bind(),
        }
        layers = {"nn.LSTM": layer, "WNLSTM bound": wnseq.weight_normalize(layer).model.bind()}
        calls: Calls = {name: partial(step, x, (h, c)) for name, step in cells.items()}
        calls |= {name: partial(step, x[None], (h[None], c[None])) for name, step in layers.items()}
        expected = torch.cat(cell(x, (h, c)))
        for name, call in calls.items():
            found = call()[1] if name in layers else call()
            found = torch.cat([state.view(1, hidden) for state in found])
            benchmark.same(name, "state", found, expected, base=PLAIN, tolerance=TOLERANCE)
    return calls, 4 * (cell.weight_ih.numel() + cell.weight_hh.numel())


def tokens_of_a_model(streaming: Streaming) -> tuple[Calls, int]:
    """Make samplers of the recipe language_model; count the bytes of weights that a token needs."""
    recipe = importlib.import_module("wnseq.recipes.language_model")
    words = WordTokenizer([UNKNOWN, LINE_END, *map(str, range(streaming.vocabulary - 2))])
    sampling = recipe.Sampling(max_new_tokens=streaming.tokens)
    text = torch.arange(5).unsqueeze(1) % streaming.vocabulary  # (T, 1)
    calls: Calls = {}
    of_plain = torch.empty(0)
    for name, norm in ((PLAIN, "none"), (AGAIN, "none"), ("wnseq", "weight")):
        torch.manual_seed(0)
        model = recipe.LanguageModel(norm=norm, hidden_size=streaming.hidden_size, num_layers=streaming.num_layers)
        model.build(words)
        model.eval()
        with torch.no_grad():
            logits, _ = model(text)
        of_plain = logits if name == PLAIN else of_plain
        benchmark.same(name, "logits", logits, of_plain, base=PLAIN, tolerance=TOLERANCE)
        calls[name] = lambda model=model: list(recipe.sample(model, sampling))
    with torch.no_grad():
        step = model.network.bind()

    def without_drawing() -> None:
        state = None
        for _ in range(streaming.tokens):
            _, state = step(text[:1], state)

    calls["wnseq, nothing drawn"] = without_drawing
    network = model.network
    weights = [network.decoder.weight, *(getattr(network.rnn, name) for name in network.rnn.weight_names)]
    return calls, 4 * sum(weight.numel() for weight in weights)


def table(rows: list[Row]) -> str:
    """Write the results in markdown."""
    head = ["what", "contender", "threads", "ms a step", "ratio", "steps a second", "MB", "GB/s", "of the limit"]
    lines = []
    for row in rows:
        lines.append([row["what"], row["contender"], str(row["threads"]), benchmark.quartiles(row, "ms", ".3g")])
        lines[-1] += [benchmark.quartiles(row, "ratio", ".3f"), f"{row['per_second']:,.0f}", f"{row['mb']:.1f}"]
        lines[-1] += [f"{row['gb_per_s']:.1f}", f"{row['of_limit']:.0%}"]
    text = f"Inference, float32, cpu, torch {torch.__version__}\n\n{benchmark.table(head, lines)}"
    doubtful = [row["what"] for row in rows if row["contender"] == AGAIN and abs(row["ratio"] - 1) > benchmark.SAME]
    if doubtful:
        text += f"\n{AGAIN} is off by more than {benchmark.SAME:.0%}, so that no ratio counts: {', '.join(doubtful)}\n"
    return text


def main(args: list[str] | None = None) -> list[Row]:
    """Run the command line; return the rows of the results."""
    parser = ArgumentParser(prog="speed_streaming", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", action="config", help="A YAML file with these options.")
    parser.add_class_arguments(Streaming, as_group=False)
    with user_errors():
        options = parser.parse_args(args).as_dict()
        return run(Streaming(**{name: value for name, value in options.items() if name != "config"}))


if __name__ == "__main__":
    main()
