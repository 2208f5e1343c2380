"""Ways in which code for torch.nn initialises a model, and what comes of each with wnseq: a table for the pages.

``python tests/compatibility.py`` writes it into docs/compatibility.md.
"""

import copy
import functools
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import init
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import wnseq
import wnseq.init

SAME, WARNS, RAISES = "as torch", "warns with the remedy", "raises with the remedy"
REMEDY = re.compile(r"wnseq\.weight_normalize|wnseq\.remove_weight_norm|assign (it|a changed copy|each weight)")
SWAPPED, BEFORE, AFTER = "the class swapped", "before `weight_normalize`", "after `weight_normalize`"
TIMES = (SWAPPED, BEFORE, AFTER)
MODULES = {  # torch's class, wnseq's, arguments, input
    "LSTM": (nn.LSTM, wnseq.WNLSTM, (8, 16), (3, 2, 8)),
    "GRU": (nn.GRU, wnseq.WNGRU, (8, 16), (3, 2, 8)),
    "RNN": (nn.RNN, wnseq.WNRNN, (8, 16), (3, 2, 8)),
    "LSTMCell": (nn.LSTMCell, wnseq.WNLSTMCell, (8, 16), (2, 8)),
    "GRUCell": (nn.GRUCell, wnseq.WNGRUCell, (8, 16), (2, 8)),
    "RNNCell": (nn.RNNCell, wnseq.WNRNNCell, (8, 16), (2, 8)),
    "Linear": (nn.Linear, wnseq.WNLinear, (8, 16), (2, 8)),
    "Conv2d": (nn.Conv2d, wnseq.WNConv2d, (8, 16, 3), (2, 8, 5, 5)),
}
IDIOMS: dict[str, Callable[[nn.Module], Any]] = {}


def idiom(title: str) -> Callable[[Callable[[nn.Module], Any]], Callable[[nn.Module], Any]]:
    """Register an initialisation under the code that the table shows."""

    def register(function: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
        IDIOMS[title] = function
        return function

    return register


def over_all(title: str, draw: Callable[[torch.Tensor], Any]) -> None:
    """Register a draw over parameters()."""

    @idiom(f"`{title}` over `parameters()`")
    def initialise(model: nn.Module) -> None:
        for parameter in model.parameters():
            draw(parameter)


def by_name(title: str, draw: Callable[[torch.Tensor], Any]) -> None:
    """Register a draw over the weights of named_parameters()."""

    @idiom(f"`{title}` over `named_parameters()` with `weight` in the name")
    def initialise(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if "weight" in name:
                draw(parameter)


def by_axes(title: str, draw: Callable[[torch.Tensor], Any], other: Callable[[torch.Tensor], Any]) -> None:
    """Register a draw of matrices over parameters()."""

    @idiom(f"`{title}` over `parameters()`")
    def initialise(model: nn.Module) -> None:
        for parameter in model.parameters():
            (draw if parameter.dim() > 1 else other)(parameter)


def weights_of(module: nn.Module) -> Iterator[str]:
    """Yield the names of a layer's weights, torch's or wnseq's."""
    yield from getattr(module, "weight_names", [name for name, p in module._parameters.items() if p.ndim > 1])


def on_weights(title: str, draw: Callable[[torch.Tensor], Any]) -> None:
    """Register a draw of what a module's weights are read as, over modules()."""

    @idiom(f"`{title}` over `modules()`")
    def initialise(model: nn.Module) -> None:
        for module in model.modules():
            for name in weights_of(module):
                draw(getattr(module, name))


over_all("p.data.uniform_(-0.1, 0.1)", lambda p: p.data.uniform_(-0.1, 0.1))
over_all("init.uniform_(p, -0.1, 0.1)", lambda p: init.uniform_(p, -0.1, 0.1))
over_all("init.normal_(p, 0, 0.02)", lambda p: init.normal_(p, 0, 0.02))
over_all("init.trunc_normal_(p, std=0.02)", lambda p: init.trunc_normal_(p, std=0.02))
over_all("init.constant_(p, 0.05)", lambda p: init.constant_(p, 0.05))
over_all("p.data.zero_()", lambda p: p.data.zero_())
over_all("p.data.mul_(2)", lambda p: p.data.mul_(2))
by_axes("if p.dim() > 1: init.xavier_uniform_(p)", init.xavier_uniform_, lambda p: None)
by_axes("if p.dim() > 1: init.kaiming_normal_(p)", init.kaiming_normal_, lambda p: None)
by_axes("if p.dim() > 1: init.orthogonal_(p); else: init.normal_(p)", init.orthogonal_, init.normal_)
by_axes("if p.dim() > 1: init.xavier_normal_(p); else: p.data.zero_()", init.xavier_normal_, lambda p: p.data.zero_())
by_name("init.uniform_(p, -0.08, 0.08)", lambda p: init.uniform_(p, -0.08, 0.08))
by_name("init.normal_(p, std=0.02)", lambda p: init.normal_(p, std=0.02))
by_name("init.trunc_normal_(p, std=0.02)", lambda p: init.trunc_normal_(p, std=0.02))
by_name("init.orthogonal_(p)", init.orthogonal_)
by_name("init.orthogonal_(p.data)", lambda p: init.orthogonal_(p.data))
by_name("init.xavier_uniform_(p)", init.xavier_uniform_)
by_name("init.xavier_normal_(p.data)", lambda p: init.xavier_normal_(p.data))
by_name("init.kaiming_uniform_(p)", init.kaiming_uniform_)
by_name("init.kaiming_normal_(p.data)", lambda p: init.kaiming_normal_(p.data))
on_weights("init.orthogonal_(module.weight)", init.orthogonal_)
on_weights("init.xavier_uniform_(module.weight)", init.xavier_uniform_)
on_weights("module.weight.data.normal_(0, 0.02)", lambda w: w.data.normal_(0, 0.02))


@idiom("`module.weight = nn.Parameter(init.orthogonal_(w))` over `modules()`")
def assign(model: nn.Module) -> None:
    for module in model.modules():
        for name in weights_of(module):
            setattr(module, name, nn.Parameter(init.orthogonal_(torch.empty(getattr(module, name).shape))))


@idiom("`module.reset_parameters()` over `modules()`")
def reset(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


@idiom("`vector_to_parameters(0.05 * torch.randn(n), model.parameters())`")
def from_vector(model: nn.Module) -> None:
    vector_to_parameters(0.05 * torch.randn(len(parameters_to_vector(model.parameters()))), model.parameters())


@idiom("`load_state_dict` of a torch.nn model initialised in any way")
def load(model: nn.Module) -> None:
    kind = next(kind for kind in MODULES if type(model[0]).__name__.removeprefix("WN") == kind)
    model.load_state_dict({name: 2 * value for name, value in make(kind, SWAPPED, False).state_dict().items()})


def make(kind: str, time: str, weight_normalized: bool = True) -> nn.Sequential:
    """Make a model of one layer, the same function for every time of initialising and with either class."""
    plain, normalized, args, _ = MODULES[kind]
    torch.manual_seed(0)
    model = nn.Sequential((normalized if weight_normalized and time == SWAPPED else plain)(*args))
    return wnseq.weight_normalize(model) if weight_normalized and time == AFTER else model


def weights(model: nn.Sequential) -> list[torch.Tensor]:
    return [getattr(model[0], name).detach().as_subclass(torch.Tensor) for name in weights_of(model[0])]


@functools.cache  # one test looks at each, another at the page
def outcome(initialise: Callable[[nn.Module], Any], kind: str, time: str) -> str:
    """Try an initialisation with one module at one time; raise AssertionError for what is different and silent."""
    torch_s, ours = make(kind, time, False), make(kind, time)
    torch.manual_seed(1)
    initialise(torch_s)
    torch.manual_seed(1)
    try:
        initialise(ours)
    except (RuntimeError, ValueError) as error:
        if not REMEDY.search(str(error)):
            raise AssertionError(f"no remedy in {error}") from error
        return RAISES
    if time == BEFORE:
        ours = wnseq.weight_normalize(ours)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours(torch.randn(MODULES[kind][3]))
    if not caught:
        torch.testing.assert_close(weights(ours), weights(torch_s))
        return SAME
    (warning,) = caught
    if "wnseq.init.g_from_v_(model)" not in str(warning.message):
        raise AssertionError(f"no remedy in {warning.message}")
    mended = copy.deepcopy(ours)
    wnseq.init.g_from_v_(mended)
    torch.testing.assert_close(  # drawn from another part of the stream
        [w.square().mean().sqrt() for w in weights(mended)],
        [w.square().mean().sqrt() for w in weights(torch_s)],
        rtol=0.25,
        atol=0.0,
    )
    return WARNS


def try_all() -> dict[str, dict[str, dict[str, str]]]:
    """Return the outcomes by idiom, time and kind of module."""
    found: dict[str, dict[str, dict[str, str]]] = {title: {time: {} for time in TIMES} for title in IDIOMS}
    for title, time, kind in itertools.product(IDIOMS, TIMES, MODULES):
        try:
            found[title][time][kind] = outcome(IDIOMS[title], kind, time)
        except AssertionError as error:
            error.add_note(f"{title}, {time}, {kind}")
            raise
    return found


def table(found: dict[str, dict[str, dict[str, str]]]) -> list[str]:
    """Write the section of the page."""
    kinds = [f"`WN{kind}`" for kind in MODULES]
    lines = [
        "## Initialising as torch.nn is initialised",
        "",
        "Code that draws the parameters of a `torch.nn` model, run on "
        f"{', '.join(kinds[:-1])} and {kinds[-1]}. g is one of `parameters()`: a draw that overwrites it, or v alone, "
        "gives weights of other norms. The first forward with gradients warns of it, and "
        "`wnseq.init.g_from_v_(model)` then makes v the weight.",
        "",
        f"| | {' | '.join(TIMES)} |",
        "| --- " * 4 + "|",
    ]
    for title, times in found.items():
        cells = ["; ".join(dict.fromkeys(times[time].values())) for time in TIMES]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines
