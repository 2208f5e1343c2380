"""The registry of cases: every weight-normalised module in every form, with its torch twin.

The full product of forms is for eager mode, once. Everything else, and whatever compiles, exports or translates, runs
on a covering array: a few forms in which every pair of arguments occurs.
"""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import wnseq
from wnseq._recurrence.backend import backend
from wnseq.nn._weight_pairs import find_weight_norm, qualified_name

AUTO, CPU_LOOP = "auto", "cpu_loop"  # the back end of the fixed rule, and the CPU loops at any size


def seed_cpu(seed: int) -> None:
    """Seed the CPU's generator alone: torch.manual_seed formats the stack once for each accelerator, 2 ms in all."""
    torch.default_generator.manual_seed(seed)


@dataclass(frozen=True)
class Case:
    """A weight-normalised module, its torch twin, and the arguments of both."""

    kind: str
    module: type[nn.Module]
    twin: type[nn.Module]
    args: tuple[Any, ...] = (5, 6)
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()  # of one input of a layer
    backend: str = AUTO  # what runs the recurrence during a test of this case

    @property
    def name(self) -> str:
        sizes = [",".join(map(str, self.args))] if self.kind in ("layer", "embedding") else []
        forced = ["cpu loop"] if self.backend == CPU_LOOP else []
        options = (f"{key}={value}" for key, value in self.kwargs.items())
        return "-".join([self.module.__name__, *sizes, *options, *forced])

    def running(self) -> AbstractContextManager[None]:
        """Return the context of the backend of this case; the tests run inside it."""
        return backend(self.backend, AUTO)

    @property
    def has_cell_state(self) -> bool:
        return self.kind == "lstm"

    @property
    def is_cell(self) -> bool:
        return self.module.__name__.endswith("Cell")

    @property
    def is_layer(self) -> bool:
        return self.kind == "layer"

    @property
    def dim(self) -> int:
        """The output axis of the weights."""
        return int("Transpose" in self.module.__name__)

    @property
    def groups(self) -> int:
        return self.kwargs.get("groups", 1)

    def make(self, seed: int = 0, **extra: Any) -> nn.Module:
        seed_cpu(seed)
        return self.module(*self.args, **self.kwargs, **extra)

    def make_twin(self, seed: int = 0, **extra: Any) -> nn.Module:
        seed_cpu(seed)
        return self.twin(*self.args, **self.kwargs, **extra)

    def lay_out(self, x: torch.Tensor) -> torch.Tensor:
        """Turn a time-first batch into the layout of this case."""
        return x.transpose(0, 1) if self.kwargs.get("batch_first") else x

    def input(self, batch: int = 3, dtype: torch.dtype = torch.float32, steps: int = 4) -> torch.Tensor:
        """Draw an input in the layout of this case: sequences, single steps for a cell, or examples."""
        if self.kind == "embedding":
            return torch.randint(self.args[0], (batch, *self.shape))
        if self.is_layer:
            return torch.randn(batch, *self.shape, dtype=dtype)
        shape = (batch, self.args[0]) if self.is_cell else (steps, batch, self.args[0])
        return self.lay_out(torch.randn(shape, dtype=dtype))

    def states(self, batch: int, dtype: torch.dtype = torch.float32) -> Any:
        """Draw initial states ``(L·D, N, ·)``, or ``(N, ·)`` for a cell."""
        if self.is_cell:
            h = torch.randn(batch, self.args[1], dtype=dtype)
            return (h, torch.randn_like(h)) if self.has_cell_state else h
        lead = self.kwargs.get("num_layers", 1) * (1 + self.kwargs.get("bidirectional", False))
        hidden = self.args[1]
        h = torch.randn(lead, batch, self.kwargs.get("proj_size") or hidden, dtype=dtype)
        return (h, torch.randn(lead, batch, hidden, dtype=dtype)) if self.has_cell_state else h


SEQUENCE = {
    "rnn": (wnseq.WNRNN, nn.RNN),
    "lstm": (wnseq.WNLSTM, nn.LSTM),
    "gru": (wnseq.WNGRU, nn.GRU),
}
CELL = {
    "rnn": (wnseq.WNRNNCell, nn.RNNCell),
    "lstm": (wnseq.WNLSTMCell, nn.LSTMCell),
    "gru": (wnseq.WNGRUCell, nn.GRUCell),
}


LAYER = {
    "linear": (wnseq.WNLinear, nn.Linear),
    "conv1d": (wnseq.WNConv1d, nn.Conv1d),
    "conv2d": (wnseq.WNConv2d, nn.Conv2d),
    "conv3d": (wnseq.WNConv3d, nn.Conv3d),
    "transpose1d": (wnseq.WNConvTranspose1d, nn.ConvTranspose1d),
    "transpose2d": (wnseq.WNConvTranspose2d, nn.ConvTranspose2d),
    "transpose3d": (wnseq.WNConvTranspose3d, nn.ConvTranspose3d),
}

EMBEDDING = (wnseq.WNEmbedding, nn.Embedding)


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("rnn", {"nonlinearity": "tanh"}),
    ("rnn", {"nonlinearity": "relu"}),
    ("lstm", {}),
    ("lstm", {"proj_size": 3}),
    ("gru", {}),
]
SWITCHES = {"num_layers": (1, 2), "bidirectional": (False, True), "bias": (True, False), "batch_first": (False, True)}


def product(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]


def pairs(row: dict[str, int]) -> set[frozenset[tuple[str, int]]]:
    return {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}


def all_pairs(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return few rows in which every two levels of every two factors occur together.

    Greedy and always the same: each row is the one of the full product with the most pairs not yet seen, the first of
    equals; so the first row has the first level of every factor.
    """
    candidates = product(
        {name: range(len(levels)) for name, levels in factors.items()}
    )  # by number: levels may be dicts
    missing = set().union(*map(pairs, candidates))
    rows = []
    while missing:
        row = max(candidates, key=lambda candidate: len(pairs(candidate) & missing))
        missing -= pairs(row)
        rows.append({name: factors[name][level] for name, level in row.items()})
    return rows


def sequence_case(form: tuple[str, dict[str, Any]], **switches: Any) -> Case:
    kind, own = form
    return Case(kind, *SEQUENCE[kind], kwargs={**switches, **own})


def sequence_cases() -> list[Case]:
    """Return the full product: 80 modules."""
    return [sequence_case(**row) for row in product({"form": FORMS, **SWITCHES})]


def covering_cases() -> list[Case]:
    """Return a covering array of :func:`sequence_cases`."""
    return [sequence_case(**row) for row in all_pairs({"form": FORMS, **SWITCHES})]


def loop_cases(kinds: Sequence[str] = ("gru",)) -> list[Case]:
    """Return a covering array of what the CPU loops take, with the loops forced: at these sizes no rule takes them.

    That of an LSTM runs under bfloat16 autocast alone, without a projection.
    """
    cases = [sequence_case((kind, {}), **row) for kind in kinds for row in all_pairs(SWITCHES)]
    return [replace(case, backend=CPU_LOOP) for case in cases]


def cell_cases() -> list[Case]:
    cases = [Case(kind, *CELL[kind], kwargs={"bias": bias}) for kind in CELL for bias in (True, False)]
    return [*cases, Case("rnn", *CELL["rnn"], kwargs={"nonlinearity": "relu"})]


def layer_cases() -> list[Case]:
    line, image, volume = (4, 6), (4, 5, 6), (4, 3, 4, 5)
    forms: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ("linear", (5, 6), (5,), {}),
        ("linear", (5, 6), (2, 5), {"bias": False}),
        ("conv1d", (4, 6, 3), line, {}),
        ("conv1d", (4, 6, 3), line, {"stride": 2, "padding": 1, "groups": 2, "bias": False}),
        ("conv1d", (4, 6, 2), line, {"padding": "same", "dilation": 3, "padding_mode": "circular"}),
        ("conv2d", (4, 6, 3), image, {}),
        ("conv2d", (4, 6, 2), image, {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2), "groups": 2}),
        ("conv2d", (4, 6, (2, 3)), image, {"padding": (2, 1), "padding_mode": "reflect", "bias": False}),
        ("conv2d", (4, 6, 2), image, {"padding": "valid", "padding_mode": "replicate"}),
        ("conv3d", (4, 6, 2), volume, {}),
        ("conv3d", (4, 6, (1, 2, 3)), volume, {"padding": (0, 1, 1), "groups": 2, "padding_mode": "circular"}),
        ("transpose1d", (4, 6, 3), line, {}),
        ("transpose1d", (4, 4, 3), line, {"stride": 2, "padding": 1, "output_padding": 1, "bias": False}),
        ("transpose1d", (4, 6, 2), line, {"groups": 2, "dilation": 2}),
        ("transpose2d", (4, 6, 2), image, {}),
        ("transpose2d", (4, 8, 2), image, {"groups": 4, "stride": (2, 1), "output_padding": (1, 0), "bias": False}),
        ("transpose3d", (4, 6, 2), volume, {}),
        ("transpose3d", (4, 6, (1, 2, 2)), volume, {"groups": 2, "stride": (1, 2, 1), "output_padding": (0, 1, 0)}),
    ]
    return [Case("layer", *LAYER[name], args, kwargs, shape) for name, args, shape, kwargs in forms]


def embedding_cases() -> list[Case]:
    forms: list[dict[str, Any]] = [
        {},
        {"padding_idx": -2},
        {"scale_grad_by_freq": True, "padding_idx": 1},
        {"max_norm": 1.0},
        {"sparse": True, "padding_idx": 1, "max_norm": 2.0},
    ]
    return [Case("embedding", *EMBEDDING, (7, 4), form, (5,)) for form in forms]


def class_cases() -> list[Case]:
    """Return one case of each class, and a projected LSTM: for what takes seconds and is the same for every form."""
    cases = [*covering_cases(), *cell_cases()[::2], *layer_cases()[::-1], *embedding_cases()[:1]]
    return list({(case.module, "proj_size" in case.kwargs): case for case in cases}.values())


class Model(nn.Module):
    """A model around one module, as programs have it."""

    def __init__(self, module: nn.Module, weight: str) -> None:
        super().__init__()
        self.module, self.weight = module, weight

    def forward(self, x: torch.Tensor) -> Any:
        output = self.module(x)
        return output[0] if isinstance(output, tuple) else output


class Tied(Model):
    """Its output layer has the rows of a weight of the module, of its first gate."""

    def forward(self, x: torch.Tensor) -> Any:
        output = super().forward(x)
        return output @ getattr(self.module, self.weight)[: output.shape[-1]]


class Penalised(Model):
    """It returns a penalty on a weight beside the output."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), getattr(self.module, self.weight).square().sum()


@dataclass(frozen=True)
class Usage:
    """A kind of model that does more with a module than call it."""

    way: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.way}"

    @property
    def reads_weight(self) -> bool:
        return self.way in ("tied", "penalty")

    def input(self) -> torch.Tensor:
        return torch.randn(4, 3, 5) if self.kind in ("LSTM", "GRU") else torch.randn(3, 5)

    def make(self, seed: int = 0) -> Model:
        seed_cpu(seed)
        return self._around(USED[self.kind][0](5, 6))

    def make_torch(self, seed: int = 0) -> Model:
        """Make the model of torch's module, with torch's weight norm on every weight; the same function."""
        seed_cpu(seed)
        module = USED[self.kind][1](5, 6)
        for name in [name for name, _ in module.named_parameters() if name.startswith("weight")]:
            parametrizations.weight_norm(module, name)
        return self._around(module)

    def _around(self, module: nn.Module) -> Model:
        _, _, weight, bias = USED[self.kind]
        if self.way == "pruned bias":
            prune.l1_unstructured(module, bias, 0.5)
        if self.way == "parametrised bias":
            parametrize.register_parametrization(module, bias, nn.Softplus())
        return {"tied": Tied, "penalty": Penalised}.get(self.way, Model)(module, weight)


USED = {  # both classes, and the weight and the bias that a model uses
    "LSTM": (*SEQUENCE["lstm"], "weight_ih_l0", "bias_hh_l0"),
    "GRU": (*SEQUENCE["gru"], "weight_hh_l0", "bias_ih_l0"),
    "GRUCell": (*CELL["gru"], "weight_hh", "bias_hh"),
    "Linear": (*LAYER["linear"], "weight", "bias"),
}
USAGES = [Usage(way, kind) for way in ("tied", "penalty", "pruned bias", "parametrised bias") for kind in USED]


def accept_v_and_g(network: nn.Module) -> nn.Module:
    """Accept every g of a network as it is: what a test has written into v and g is on purpose."""
    for module in network.modules():
        if isinstance(module, wnseq.nn.WNModule):
            module.accept_v_and_g()
    return network


def normalized_weights(model: nn.Module) -> list[str]:
    """Return the names of the weights with weight normalisation, wnseq's and torch's."""
    found = [(path, name) for path, module in model.named_modules() for name in find_weight_norm(module)]
    return [qualified_name(path, name) for path, name in found]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def tensors(result: Any) -> list[torch.Tensor]:
    """List the tensors of an output, whatever it is made of."""
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in tensors(part)]
    return [result] if isinstance(result, torch.Tensor) else []


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    """Return a list that grows by one entry each time a function of a module is called."""
    counted: list[int] = []
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: counted.append(1) or function(*args, **kwargs))
    return counted


every_sequence = each(sequence_cases())  # eager mode only
each_sequence = each(covering_cases())
each_loop = each(loop_cases())
each_cell = each(cell_cases())
each_layer = each(layer_cases())
each_embedding = each(embedding_cases())
each_recurrent = each(covering_cases() + cell_cases())
each_class = each(class_cases())
each_form = each(covering_cases() + cell_cases() + layer_cases())  # where the loops cannot run: in float64, in a graph
each_module = each(covering_cases() + loop_cases() + cell_cases() + layer_cases())
