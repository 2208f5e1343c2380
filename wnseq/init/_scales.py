"""Initialisation in closed form, without data."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wnseq._recurrence.steps import GATES, gate_slice
from wnseq.init._report import CELLS, FEEDFORWARD, InitReport, find_layers
from wnseq.nn._arguments import check_inside
from wnseq.nn._linear import WNLinear
from wnseq.nn._module import WNModule
from wnseq.nn._weight_pairs import directions


@torch.no_grad()
def data_free_init(
    model: nn.Module,
    gamma: float | Mapping[str, float] = 2.0,
    *,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    input_share: float = 0.8,
) -> InitReport:
    """Set g and bias of every weight-normalised layer without data, so that norms keep their size through the net.

    fan_in: g = √(γ·in/out); fan_out: g = √γ; b = 0; recurrent modules and cells for an input of mean 0 and standard
    deviation 1, as :func:`hidden_scales`

    In a plain network the weights are set to w = g·v/‖v‖.

    Args:
        model: Any module. v stays as it was drawn: see :func:`draw_directions`.
        gamma: γ, 2 before a ReLU, 1 before no activation; a number, or numbers by patterns of qualified names as in
            :func:`data_init`, 2 where none matches. In a residual net the last layer of each of B blocks needs 1/B, and
            a shortcut 1.
        mode: ``fan_in`` preserves the norm in the forward pass, ``fan_out`` that of the gradients in the backward pass,
            as in ``torch.nn.init.kaiming_normal_``.
        input_share: ρ, in recurrent modules and cells the share of the variance that comes from the input.

    Shape:
        - in, out: features or channels; the area of a kernel and groups are on both sides and cancel

    Returns:
        What was set, and what was skipped and why.

    Raises:
        ValueError: The model has no layer to set; a γ is not positive, or the share not between 0 and 1; a pattern
            matches no layer; or there is no such mode.

    Example:
        >>> from wnseq.nn import WNLinear
        >>> net = WNLinear(8, 4)
        >>> _ = data_free_init(net)
        >>> net.weight_g.tolist()
        [2.0, 2.0, 2.0, 2.0]

    Source:
        Arpit, Campos & Bengio 2019, arXiv 1906.02341.
    """
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"data_free_init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    input_share = check_inside("data_free_init", "input_share", input_share, 0, 1, "between 0 and 1")
    groups, skipped = find_layers(model, gamma, "data_free_init: gamma", 2.0)
    notes: dict[str, str] = {}
    for group in groups:
        for layer in group.normalized:
            if not isinstance(layer, FEEDFORWARD):
                init_recurrent_without_data_(layer, 1.0, input_share)
                continue
            inputs, outputs = _fans(layer)
            layer.weight_g.fill_(math.sqrt(group.scale * (inputs / outputs if mode == "fan_in" else 1.0)))
            if layer.bias is not None and layer.bias.requires_grad:
                layer.bias.zero_()
            elif layer.bias is not None:
                notes[group.name] = "its bias is frozen, and stays"
        group.write_back()
    return InitReport([group.name for group in groups], skipped, notes, 0.0)


@torch.no_grad()
def draw_directions(model: nn.Module, std: float = 0.05) -> None:
    """Draw every direction of a model in place, v ~ N(0, std²); every g stays.

    Args:
        model: Any module. Only its weight-normalised layers of wnseq are changed.
        std: Standard deviation, 0.05 in the paper. It changes no function, but the effect of a learning rate: the
            longer v, the smaller the turn by a step.

    Raises:
        ValueError: ``std`` is not positive.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3.
    """
    std = check_inside("draw_directions", "std", std, 0, math.inf, "a number greater than 0")
    for _, params in directions(model, writable=True):
        params.v.normal_(0, std)
    for module in model.modules():
        if isinstance(module, WNModule):
            module.accept_v_and_g()  # g stays on purpose


def _fans(layer: Any) -> tuple[int, int]:
    """Return the features or channels of a layer's input and output."""
    if isinstance(layer, WNLinear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


KEEPING = ("forget", "update")  # the gates that keep the state
MEMORY_MEAN = 1.0  # their target; that of the others is 0


def hidden_scales(
    kind: str, nonlinearity: str, memory_mean: float, scale: float, input_share: float
) -> tuple[list[float], float]:
    """Compute one g^h for each gate, and E h², as if every pre-activation were independent and Gaussian.

    LSTM: C = E[σ(i)²]·E[tanh(g)²]/(1 − E[σ(f)²]), Q = E[σ(o)²]·E[tanh(√C·z)²], g^h = s√(1−ρ)/√Q;
    GRU: Q = E[(1−z)²]·E[tanh(n)²]/(1 − E[z²]), g^h = s√(1−ρ)/√Q, and for n s√(1−ρ)/√(E[r²]·Q);
    Elman: Q = E[φ(a)²], g^h = s√(1−ρ)/√Q

    Args:
        kind: ``rnn``, ``lstm`` or ``gru``.
        nonlinearity: φ of an Elman net, ``tanh`` or ``relu``.
        memory_mean: Mean of an LSTM's forget gate or a GRU's update gate before its sigmoid; the other means are 0.
        scale: s, the standard deviation of every pre-activation.
        input_share: ρ, the input's share of its variance.

    Returns:
        The scales, in the order of the gates, and Q = E h².

    Source:
        After Laurent, Ballas & Vincent 2017, Recurrent Normalization Propagation, which compensates Var h at every
        step, where this does once.
    """
    for name, value, known in (
        ("kind", kind, ("rnn", "lstm", "gru")),
        ("nonlinearity", nonlinearity, ("tanh", "relu")),
    ):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"hidden_scales: {name} must be one of {', '.join(known)}, got {value!r}")
    memory_mean = check_inside("hidden_scales", "memory_mean", memory_mean, -30, 30, "between -30 and 30")
    scale = check_inside("hidden_scales", "scale", scale, 1e-30, 1e30, "between 1e-30 and 1e30")
    input_share = check_inside("hidden_scales", "input_share", input_share, 0, 1, "between 0 and 1")
    memory = scale * math.sqrt(1 - input_share)
    if kind == "lstm":
        gate, forget = _expect(torch.sigmoid, 0.0, scale), _expect(torch.sigmoid, memory_mean, scale)
        cell = gate * _expect(torch.tanh, 0.0, scale) / (1 - forget)
        square = gate * _expect(torch.tanh, 0.0, math.sqrt(cell))
        return [memory / math.sqrt(square)] * 4, square
    if kind == "gru":
        kept = _expect(torch.sigmoid, memory_mean, scale)
        new = _expect(lambda a: torch.sigmoid(-a), memory_mean, scale)
        reset = _expect(torch.sigmoid, 0.0, scale)
        square = new * _expect(torch.tanh, 0.0, scale) / (1 - kept)
        gated = memory / math.sqrt(square)
        return [gated, gated, gated / math.sqrt(reset)], square
    square = _expect(torch.tanh if nonlinearity == "tanh" else torch.relu, 0.0, scale)
    return [memory / math.sqrt(square)], square


def _expect(function: Callable[[Tensor], Tensor], mean: float, std: float) -> float:
    """Integrate the square of a function over N(mean, std²)."""
    z = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    weight = (-z.square() / 2).exp()
    return float((weight * function(mean + std * z).square()).sum() / weight.sum())


def init_recurrent_without_data_(module: WNModule, scale: float, input_share: float) -> None:
    """Set a recurrent module or cell in closed form, for an input whose features have mean 0 and standard deviation 1.

    g^x = s√ρ in the first layer and s√ρ/√Q in those above, g^h from :func:`hidden_scales`, b_ih = m, b_hh = 0; the
    scales of a projection are 1.
    """
    hidden, square = hidden_scales(*recurrence_of(module), scale, input_share)
    for layer, suffix in _suffixes(module):
        of_input = scale * math.sqrt(input_share) / (math.sqrt(square) if layer else 1.0)
        module.writable_v_and_g(f"weight_ih{suffix}")[1].fill_(of_input)
        set_hidden_scales_(module, suffix, hidden)
        if module.bias:
            means = gate_means(module)
            module.get_parameter(f"bias_ih{suffix}").copy_(means)
            module.get_parameter(f"bias_hh{suffix}").zero_()


def recurrence_of(module: Any) -> tuple[str, str, float]:
    """Return the kind, the nonlinearity and the mean of the gate that keeps the state, for :func:`hidden_scales`."""
    return module.kind, getattr(module, "nonlinearity", "tanh"), MEMORY_MEAN if module.bias else 0.0


def _suffixes(module: Any) -> list[tuple[int, str]]:
    """Return the layer and the suffix of the parameters' names for each layer and direction, or for a cell."""
    if isinstance(module, CELLS):
        return [(0, "")]
    ends = ["", "_reverse"] if module.bidirectional else [""]
    return [(layer, f"_l{layer}{end}") for layer in range(module.num_layers) for end in ends]


def gate_rows(module: Any) -> list[slice]:
    """Return the rows of each gate, in their order."""
    return [gate_slice(module.kind, gate, module.hidden_size) for gate in GATES[module.kind]]


def gate_means(module: Any) -> Tensor:
    """Return the target mean of each unit of each gate, ``(G·H,)``."""
    means = torch.zeros(len(GATES[module.kind]) * module.hidden_size)
    for gate in set(KEEPING) & set(GATES[module.kind]):
        means[gate_slice(module.kind, gate, module.hidden_size)] = MEMORY_MEAN
    return means


def set_hidden_scales_(module: Any, suffix: str, scales: list[float]) -> None:
    """Set g of a recurrent weight, one scale for each gate, and g of a projection to 1."""
    g = module.writable_v_and_g(f"weight_hh{suffix}")[1]
    for rows, scale in zip(gate_rows(module), scales, strict=True):
        g[rows] = scale
    if getattr(module, "proj_size", 0):
        module.writable_v_and_g(f"weight_hr{suffix}")[1].fill_(1.0)
