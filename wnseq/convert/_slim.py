"""A smaller model of the same function, without the units of its recurrent layers that do nothing."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from wnseq.convert._copies import Copies
from wnseq.functional import decompose_like
from wnseq.nn._module import WNModule
from wnseq.nn._units import Readers, Units, find_units
from wnseq.state_dict import param_names


def slim(model: nn.Module, readers: Readers, tolerance: float = 0.0) -> nn.Module:
    """Return the model with smaller recurrent layers, which lack the units that do nothing.

    A unit goes if its strength is at most ``tolerance``:
    min(‖weights and bias of its candidate gate‖, ‖weights that read it‖). The candidate gate is an LSTM's cell gate, a
    GRU's new gate: without it the state stays zero. Its rows go from every input and recurrent weight, its column from
    every weight that reads it. The caller's model is left as it is.

    Args:
        model: Any module with recurrent layers, weight-normalised or plain.
        readers: The recurrent layers, by name, and the linear or recurrent layers or cells that read the output of
            each, all of its features and nothing else: ``{"rnn": "decoder"}``. Between the two may stand what treats
            each feature alone, as dropout. Layers with a projection need none: ``{"rnn": ()}``.
        tolerance: Largest strength of a unit that goes. With 0 the function is the same, from the zero state.

    Raises:
        TypeError: A module of ``readers`` is neither recurrent nor linear nor a cell.
        ValueError: There is no such module; its readers are missing, of another width, or read two of the recurrent
            layers; a weight is computed, as by pruning; the tolerance is negative.

    Note:
        All layers of a module keep as many units as the largest needs, the strongest ones. A weight that is tied to
        another becomes a smaller one of its own. Each weight-normalised weight begins again with v = w and g = ‖w‖.
        The state is smaller too.

    Example:
        >>> import torch
        >>> model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 6), "out": torch.nn.Linear(6, 2)})
        >>> with torch.no_grad():
        ...     _ = model["out"].weight[:, 4:].zero_(), model["rnn"].weight_hh_l0[:, 4:].zero_()
        >>> slim(model, {"rnn": "out"})
        ModuleDict(
          (rnn): LSTM(3, 4)
          (out): Linear(in_features=4, out_features=2, bias=True)
        )

    Source:
        Wen et al. 2018, arXiv 1709.05027, whose intrinsic sparse structures these are.
    """
    if not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise ValueError(f"slim: tolerance must be a number and at least 0, got {tolerance!r}")
    smaller = Copies(model).of(model)
    keep: dict[tuple[int, str, int], dict[int, Tensor]] = defaultdict(dict)  # of a weight's axis, by the first place
    modules: dict[int, Any] = {id(module): module for module in smaller.modules()}
    sizes: list[tuple[Any, int]] = []
    for _, every in find_units(smaller, readers, "slim"):
        rnn = every[0].rnn
        for units, kept in zip(every, kept_units(every, tolerance), strict=True):
            gates = torch.arange(len(getattr(rnn, units.rows[0])) // rnn.hidden_size, device=kept.device)
            rows = (gates.unsqueeze(1) * rnn.hidden_size + kept).flatten()
            for name in (*units.rows, *units.biases):
                keep[id(rnn), name, 0][0] = rows
            for module, name, at in units.columns:
                keep[id(module), name, 1][at] = at + kept
        sizes.append((rnn, len(kept)))
    parts: dict[tuple[int, str], Tensor] = {}
    for (module, name, axis), indices in keep.items():
        whole = parts[module, name] if (module, name) in parts else getattr(modules[module], name).detach()
        parts[module, name] = whole.index_select(axis, torch.cat([indices[at] for at in sorted(indices)]))
    for (module, name), part in parts.items():
        _replace(modules[module], name, part)
    for rnn, size in sizes:
        rnn.hidden_size = size
    for module in {module for module, _, axis in keep if axis == 1}:
        _set_input_size(modules[module])
    return smaller


def kept_units(every: list[Units], tolerance: float) -> list[Tensor]:
    """Return the units that each layer and direction of one module keeps, as many in each."""
    strengths = [units.strength() for units in every]
    least = getattr(every[0].rnn, "proj_size", 0) + 1  # a projection must be smaller than what it projects
    number = max(least, *(int((strength > tolerance).sum()) for strength in strengths))
    return [strength.argsort(descending=True, stable=True)[:number].sort().values for strength in strengths]


def _replace(module: Any, name: str, value: Tensor) -> None:
    """Replace a weight or a bias by a part of it."""
    if isinstance(module, WNModule) and name in module.weight_names:
        v, g = module.v_and_g(name)
        if g.ndim == 1:
            shape = value.shape[:1]
        else:  # along another axis than the outputs', or one scale for the whole weight
            shape = torch.Size(new if old > 1 else 1 for old, new in zip(g.shape, value.shape, strict=False))
            module._g_shapes[name] = shape
        parts = decompose_like(value, g.new_empty(shape), *module.layouts[name])
        for part, new, before in zip(param_names(name), parts, (v, g), strict=True):
            setattr(module, part, nn.Parameter(new, requires_grad=before.requires_grad))
    else:
        setattr(module, name, nn.Parameter(value.clone(), requires_grad=getattr(module, name).requires_grad))


def _set_input_size(module: Any) -> None:
    """Set the number of features that a layer reads to that of its weight."""
    for name, attribute in (("weight_ih_l0", "input_size"), ("weight_ih", "input_size"), ("weight", "in_features")):
        if hasattr(module, attribute) and hasattr(module, name) and getattr(module, name).ndim == 2:
            setattr(module, attribute, getattr(module, name).shape[1])
