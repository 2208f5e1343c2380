"""Arguments of any kind: constructors and functions take them or raise what they document. 10,000 by ``-m slow``."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import wnseq
from wnseq.init import hidden_scales
from wnseq.nn import backend, gate_slice

DOCUMENTED = (TypeError, ValueError)  # and ShapeError, which is one
FEW, MANY = 200, 10_000
COMMON = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
WORDS = [
    "",
    "tanh",
    "relu",
    "same",
    "valid",
    "zeros",
    "circular",
    "reflect",
    "no",
    "3",
    "hh",
    "*",
    "lstm",
    "gru",
    "rnn",
]
NUMBERS = st.one_of(st.integers(-2, 6), st.floats(), st.sampled_from([0.5, 1.0, np.int64(2), np.float32(0.5), 1 + 2j]))
LEAVES = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=3), st.just(b"3"), st.just(nn.GRU)
)
WHOLE = st.sampled_from([torch.ones(2), torch.tensor(3), np.ones(2), nn.Linear(2, 2), object(), Ellipsis, slice(2)])
ANYTHING = st.one_of(
    LEAVES,
    LEAVES,
    st.lists(LEAVES, max_size=3),
    st.lists(LEAVES, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(WORDS), LEAVES, max_size=2),
    WHOLE,
)
USUAL = {  # of an argument that has no default
    "input_size": 3, "hidden_size": 4, "in_features": 3, "out_features": 4, "in_channels": 2, "out_channels": 4,
    "kernel_size": 2, "num_features": 3, "p": 0.5, "name": "torch", "kind": "lstm", "gate": "forget", "form": "plain",
    "nonlinearity": "tanh", "memory_mean": 0.5, "scale": 1.0, "input_share": 0.8, "weight_decay": 0.1,
    "num_embeddings": 4, "embedding_dim": 3, "layers": [nn.GRU(2, 3)],
}  # fmt: skip


def model() -> nn.Module:
    return nn.ModuleDict({"rnn": wnseq.WNGRU(2, 3), "out": nn.Linear(3, 2)})


def of_model(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **arguments: function(model(), **arguments)


def forced(name: Any) -> None:
    with backend(name):
        pass


def data_init(**arguments: Any) -> None:
    wnseq.data_init(wnseq.WNLinear(2, 3), torch.randn(4, 2), **arguments)


CLASSES = [
    wnseq.WNRNN, wnseq.WNGRU, wnseq.WNLSTM, wnseq.WNRNNCell, wnseq.WNGRUCell, wnseq.WNLSTMCell, wnseq.WNLinear,
    wnseq.WNConv1d, wnseq.WNConv2d, wnseq.WNConvTranspose1d, wnseq.WNConvTranspose2d, wnseq.WNConv3d,
    wnseq.WNConvTranspose3d, wnseq.WNEmbedding, wnseq.MeanOnlyBatchNorm1d,
    wnseq.MeanOnlyBatchNorm2d, wnseq.LockedDropout, wnseq.EmbeddingDropout, wnseq.RNNStack, wnseq.WNMinGRU,
    wnseq.WNMinGRUCell,
]  # fmt: skip
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "weight_normalize": (of_model(wnseq.weight_normalize), ["target_modules", "adopt"]),
    "remove_weight_norm": (of_model(wnseq.remove_weight_norm), ["target_modules"]),
    "conversion_report": (of_model(wnseq.conversion_report), ["target_modules", "adopt"]),
    "state_dict_as": (of_model(wnseq.state_dict_as), ["form"]),
    "state_dict_as like": (of_model(wnseq.state_dict_as), ["like"]),
    "data_init": (data_init, ["init_scale", "input_share", "horizon", "max_sweeps"]),
    "data_free_init": (of_model(wnseq.data_free_init), ["gamma", "mode", "input_share"]),
    "draw_directions": (of_model(wnseq.draw_directions), ["std"]),
    "hidden_scales": (hidden_scales, ["kind", "nonlinearity", "memory_mean", "scale", "input_share"]),
    "param_groups": (of_model(wnseq.param_groups), ["weight_decay"]),
    "backend": (forced, ["name"]),
    "gate_slice": (lambda **arguments: gate_slice(hidden_size=4, **arguments), ["kind", "gate"]),
}
CASES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    cls.__name__: (cls, [name for name in inspect.signature(cls).parameters if name not in ("device", "dtype")])
    for cls in CLASSES  # device and dtype are torch's to check
} | FUNCTIONS


def fuzz(what: str, examples: int) -> None:
    call, names = CASES[what]
    wrong = st.dictionaries(st.sampled_from(names), ANYTHING, min_size=1, max_size=3)

    @settings(max_examples=examples, **COMMON)
    @given(wrong)
    def run(arguments: dict[str, Any]) -> None:
        usual = {name: USUAL[name] for name in names if name in USUAL and (what != "WNRNN" or name != "nonlinearity")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                made = call(**{**usual, **arguments})
            except DOCUMENTED as error:
                assert str(error)
            else:
                assert repr(made)

    run()


@pytest.mark.parametrize("what", CASES)
def test_arguments(what: str) -> None:
    fuzz(what, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", CASES)
def test_many_arguments(what: str) -> None:
    fuzz(what, MANY)


def test_every_public_class_is_here() -> None:
    public = {getattr(wnseq, name) for name in wnseq.__all__}
    modules = {each for each in public if isinstance(each, type) and issubclass(each, nn.Module)}
    by_torch = {wnseq.GRU, wnseq.LSTM, wnseq.RNN}  # their constructors are torch's
    minimal = {each for each in modules if each.__name__.removeprefix("WN").startswith(("Min", "MLSTM"))}
    assert {each.__init__ for each in minimal} == {wnseq.WNMinGRU.__init__, wnseq.WNMinGRUCell.__init__}
    assert modules == {*CLASSES} | by_torch | minimal and len(minimal) == 12
