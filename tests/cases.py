"""The registry of cases: every recurrent module in every form, with its torch twin."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import wnseq


@dataclass(frozen=True)
class Case:
    """A weight-normalised module, its torch twin, and the arguments of both."""

    kind: str
    module: type[nn.Module]
    twin: type[nn.Module]
    args: tuple[Any, ...] = (5, 6)
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "-".join([self.module.__name__, *(f"{key}={value}" for key, value in self.kwargs.items())])

    @property
    def has_cell_state(self) -> bool:
        return self.kind == "lstm"

    def make(self, seed: int = 0, **extra: Any) -> nn.Module:
        torch.manual_seed(seed)
        return self.module(*self.args, **self.kwargs, **extra)

    def make_twin(self, seed: int = 0, **extra: Any) -> nn.Module:
        torch.manual_seed(seed)
        return self.twin(*self.args, **self.kwargs, **extra)

    def lay_out(self, x: torch.Tensor) -> torch.Tensor:
        """Turn a time-first batch into the layout of this case."""
        return x.transpose(0, 1) if self.kwargs.get("batch_first") else x

    def states(self, batch: int, dtype: torch.dtype = torch.float32) -> Any:
        """Draw initial states ``(L·D, N, ·)``."""
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


def sequence_cases() -> list[Case]:
    cases = []
    for kind, layers, bidirectional, bias, batch_first in itertools.product(
        SEQUENCE, (1, 2), (False, True), (True, False), (False, True)
    ):
        forms = {
            "rnn": [{"nonlinearity": "tanh"}, {"nonlinearity": "relu"}],
            "lstm": [{}, {"proj_size": 3}],
            "gru": [{}],
        }
        for form in forms[kind]:
            kwargs = {
                "num_layers": layers,
                "bidirectional": bidirectional,
                "bias": bias,
                "batch_first": batch_first,
                **form,
            }
            cases.append(Case(kind, *SEQUENCE[kind], kwargs=kwargs))
    return cases


def cell_cases() -> list[Case]:
    cases = [Case(kind, *CELL[kind], kwargs={"bias": bias}) for kind in CELL for bias in (True, False)]
    return [*cases, Case("rnn", *CELL["rnn"], kwargs={"nonlinearity": "relu"})]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


each_sequence = each(sequence_cases())
each_cell = each(cell_cases())
each_module = each(sequence_cases() + cell_cases())
