"""Those who are compared in docs/compatibility.md: torch's RNNs, the same with torch's weight norm, and ours."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

import wnseq

PLAIN, THEIRS, OURS = CONTENDERS = ("torch.nn", "torch.nn with weight_norm", "wnseq")
SEQUENCES, CELLS = ("LSTM", "GRU", "RNN"), ("LSTMCell", "GRUCell", "RNNCell")


class NothingToTry(Exception):
    """Raised by a row for a contender that has not what the row is about."""


def weights_of(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters() if name.startswith("weight")]


def normalised(module: nn.Module) -> nn.Module:
    """Put torch's weight norm on every weight of a module, in place."""
    for name in weights_of(module):
        parametrizations.weight_norm(module, name)
    return module


@dataclass(frozen=True)
class Subject:
    """One module of one contender, as a row makes it."""

    contender: str
    kind: str

    @property
    def is_cell(self) -> bool:
        return self.kind in CELLS

    @property
    def weights(self) -> list[str]:
        return weights_of(self.make_plain(device="meta"))

    def _make(self, cls: type[nn.Module], seed: int, sizes: tuple[int, int], extra: dict[str, Any]) -> nn.Module:
        torch.manual_seed(seed)
        return cls(*sizes, **({} if self.is_cell else {"num_layers": 2}), **extra)

    def make_plain(self, seed: int = 0, sizes: tuple[int, int] = (5, 6), **extra: Any) -> nn.Module:
        return self._make(getattr(nn, self.kind), seed, sizes, extra)

    def make_theirs(self, seed: int = 0, sizes: tuple[int, int] = (5, 6), **extra: Any) -> nn.Module:
        return normalised(self.make_plain(seed, sizes, **extra))

    def make(self, seed: int = 0, sizes: tuple[int, int] = (5, 6), **extra: Any) -> nn.Module:
        """Make a module; with the same seed, that of each contender is the same function."""
        if self.contender == PLAIN:
            return self.make_plain(seed, sizes, **extra)
        if self.contender == THEIRS:
            return self.make_theirs(seed, sizes, **extra)
        return self._make(getattr(wnseq, f"WN{self.kind}"), seed, sizes, extra)

    def input(self, features: int = 5, **kwargs: Any) -> torch.Tensor:
        return torch.randn((3, features) if self.is_cell else (4, 3, features), **kwargs)

    def v_and_g(self, module: nn.Module, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        if self.contender == PLAIN:
            raise NothingToTry
        if self.contender == OURS:
            return module.v_and_g(name)
        chain = module.parametrizations[name]
        return chain.original1, chain.original0

    def counted(self, module: nn.Module) -> list[str]:
        """Note the name of a weight in the list that is returned each time it is composed."""
        calls: list[str] = []
        if self.contender == PLAIN:
            raise NothingToTry
        if self.contender == OURS:
            look_up = module.v_and_g
            module.v_and_g = lambda name: calls.append(name) or look_up(name)
        else:
            for name in self.weights:
                module.parametrizations[name][0].register_forward_hook(lambda *_, name=name: calls.append(name))
        return calls
