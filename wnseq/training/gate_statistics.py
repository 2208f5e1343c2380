"""What gates do: how long each unit remembers, how often it is shut or open, and how fast v turns in the end."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from wnseq.nn import WNModule, gate_values

__all__ = ["UNIT_COLUMNS", "UnitStatistics", "equilibrium_turn", "text_law", "timescale"]

SHUT, OPEN = 0.1, 0.9  # as Karpathy et al. 2015 count, arXiv 1506.02078
UNIT_COLUMNS = ("layer", "gate", "unit", "mean", "shut", "open")
POSITIONS, STREAMS = 2048, 16  # that are read of each module, and of how many sequences side by side


def timescale(keep: Tensor) -> Tensor:
    """Return how many steps a unit remembers, T = −1/log E[f], from the mean of the gate that keeps its state.

    Source:
        Mahto, Vo, Turek & Huth 2021, arXiv 2009.12727.
    """
    return 1 / keep.log().abs()  # a gate of 1 forgets nothing, whatever the sign of its log's zero


def text_law(steps: Tensor, shape: float = 0.56) -> Tensor:
    """Return the share of units that remember longer than so many steps, if text decides: an inverse gamma law.

    P(T > t) of T ~ InvGamma(α, 1), the mixture of exponentials whose sum decays as the power law t^−α

    Args:
        steps: t.
        shape: α; 0.56 is that of the paper for English words.

    Source:
        Mahto, Vo, Turek & Huth 2021, arXiv 2009.12727.
    """
    share: Tensor = torch.special.gammainc(torch.full_like(steps, shape), 1 / steps)
    return share


def equilibrium_turn(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float | None:
    """Return the angle in radians by which a step turns v in equilibrium, where decay undoes what steps add to ‖v‖.

    √(2ηλ (1 − β₁)/(1 + β₁)) for AdamW, √(2ηλ/(1 + μ)) for SGD of momentum μ; whatever the gradients are, as long as
    those of different steps point in different directions

    Args:
        optimizer: The optimiser.
        group: The group of its parameters in which v is.

    Returns:
        The angle. None without a decay of v, whose length then grows for ever, and for other optimisers.

    Source:
        Kosson, Messmer & Jaggi 2023, arXiv 2305.17212.
    """
    if not (decay := float(group.get("weight_decay", 0))):
        return None
    if group.get("decoupled_weight_decay") and "betas" in group:
        beta = float(group["betas"][0])
        return math.sqrt(2 * float(group["lr"]) * decay * (1 - beta) / (1 + beta))
    if isinstance(optimizer, torch.optim.SGD) and not group["nesterov"] and not group["dampening"]:
        return math.sqrt(2 * float(group["lr"]) * decay / (1 + float(group["momentum"])))
    return None


class UnitStatistics:
    """Mean of each unit's gates, and how often they are shut and open, over what recurrent layers read meanwhile.

    It sees the first 2048 positions, of at most 16 sequences side by side, that each weight-normalised recurrent module
    of a model reads between :meth:`watch` and :meth:`stop`, with the states that the module was given.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {
            path: module
            for path, module in model.named_modules()
            if isinstance(module, WNModule) and hasattr(module, "gate_g") and hasattr(module, "num_layers")
        }
        self._hooks: list[Any] = []
        self._sums: dict[tuple[str, str], Tensor] = {}  # by layer and gate: of values, of shut and open ones, (3, H)
        self._read: dict[str, int] = {}  # positions of each module

    def watch(self) -> None:
        """Forget what was seen before, and look at what is read from now on."""
        self.stop()
        self._sums, self._read = {}, dict.fromkeys(self._modules, 0)
        for path, module in self._modules.items():

            def look(layers: Any, args: tuple[Any, ...], kwargs: dict[str, Any], path: str = path) -> None:
                if self._read[path] < POSITIONS:
                    self._add(path, layers, **dict(zip(("input", "hx", "reset"), args, strict=False)), **kwargs)

            self._hooks.append(module.register_forward_pre_hook(look, with_kwargs=True))

    def missed_compiled(self, model: nn.Module) -> bool:
        """Return True if nothing was seen, in a model that is compiled: a graph has no hooks that were added later."""
        if not self._hooks or any(self._read.values()):
            return False
        marks = ("_compiled_call_impl", "_orig_mod", "_compiler_ctx")  # of compile(), torch.compile, and in Lightning
        return any(getattr(each, mark, None) is not None for each in model.modules() for mark in marks)

    def stop(self) -> None:
        """Look no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _add(self, path: str, module: Any, input: Any, hx: Any = None, reset: Any = None) -> None:
        dtype = next(module.parameters()).dtype
        data: Tensor = input.data if isinstance(input, PackedSequence) else input
        if not data.numel():  # of a process that has none of the streams
            return
        input = input.to(dtype)
        pair = isinstance(hx, tuple | list)
        states = [] if hx is None else [state.to(dtype) for state in (hx if pair else [hx])]
        if data.ndim == 3 and data.shape[axis := int(not module.batch_first)] > STREAMS:
            input = input.narrow(axis, 0, STREAMS)
            reset = None if reset is None else reset.narrow(axis, 0, STREAMS)
            states = [state.narrow(1, 0, STREAMS).contiguous() for state in states]
        with torch.autocast(data.device.type, enabled=False):
            found = gate_values(module, input, (tuple(states) if pair else states[0]) if states else None, reset)
        for layer, gates in found.items():
            for gate, values in gates.items():
                flat = values.flatten(0, -2).double()  # (T·N, H)
                sums = torch.stack([flat.sum(0), (flat < SHUT).double().sum(0), (flat > OPEN).double().sum(0)]).cpu()
                name = f"{path}.{layer}".lstrip("."), gate
                self._sums[name] = self._sums.get(name, 0) + sums
        self._read[path] += data.shape[:-1].numel() if data.ndim < 3 else input.shape[:-1].numel()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield layer, gate, unit, mean, share of positions where it is shut, and of those where it is open."""
        for (layer, gate), sums in self._sums.items():
            read = self._read[layer.rpartition(".")[0]]
            for unit, shares in enumerate((sums / read).t().tolist()):
                yield layer, gate, unit, *shares

    def write(self, file: Path) -> None:
        """Write the table, if anything was seen."""
        if self._sums:
            with file.open("w", newline="", encoding="utf-8") as table:
                csv.writer(table).writerow(UNIT_COLUMNS)
                csv.writer(table).writerows([*row[:3], *(f"{share:.7g}" for share in row[3:])] for row in self.rows())
