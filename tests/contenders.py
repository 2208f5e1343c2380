"""What docs/compatibility.md compares: torch's RNNs, the same with torch's weight norm, and wnseq's."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

import wnseq

TORCH, TORCH_WN, WNSEQ = CONTENDERS = ("torch.nn", "torch.nn with weight_norm", "wnseq")
SEQUENCES, CELLS = ("LSTM", "GRU", "RNN"), ("LSTMCell", "GRUCell", "RNNCell")


class NothingToTry(Exception):
    """Raised by a row that does not apply to a contender."""


def weights_of(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters() if name.startswith("weight")]


def normalised(module: nn.Module) -> nn.Module:
    """Add torch's weight norm to every weight of a module, in place; return the module."""
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

    def make_torch_wn(self, seed: int = 0, sizes: tuple[int, int] = (5, 6), **extra: Any) -> nn.Module:
        return normalised(self.make_plain(seed, sizes, **extra))

    def make(self, seed: int = 0, sizes: tuple[int, int] = (5, 6), **extra: Any) -> nn.Module:
        """Make a module; with the same seed, those of all contenders are one function."""
        if self.contender == TORCH:
            return self.make_plain(seed, sizes, **extra)
        if self.contender == TORCH_WN:
            return self.make_torch_wn(seed, sizes, **extra)
        return self._make(getattr(wnseq, f"WN{self.kind}"), seed, sizes, extra)

    def input(self, features: int = 5, **kwargs: Any) -> torch.Tensor:
        return torch.randn((3, features) if self.is_cell else (4, 3, features), **kwargs)

    def v_and_g(self, module: nn.Module, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        if self.contender == TORCH:
            raise NothingToTry
        if self.contender == WNSEQ:
            return module.v_and_g(name)
        chain = module.parametrizations[name]
        return chain.original1, chain.original0

    def counted(self, module: nn.Module) -> list[str]:
        """Return a list that grows by the name of a weight each time the weight is composed."""
        calls: list[str] = []
        if self.contender == TORCH:
            raise NothingToTry
        if self.contender == WNSEQ:
            look_up = module.v_and_g
            module.v_and_g = lambda name: calls.append(name) or look_up(name)
        else:
            for name in self.weights:
                module.parametrizations[name][0].register_forward_hook(lambda *_, name=name: calls.append(name))
        return calls
