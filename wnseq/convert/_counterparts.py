"""The layers of torch that have a weight-normalised counterpart, and how one is made from the other."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wnseq.nn._cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.nn._conv import WNConv1d, WNConv2d, WNConvTranspose1d, WNConvTranspose2d
from wnseq.nn._linear import WNLinear
from wnseq.nn._min_rnn import (
    MinGRU,
    MinGRUCell,
    MinLSTM,
    MinLSTMCell,
    WNMinGRU,
    WNMinGRUCell,
    WNMinLSTM,
    WNMinLSTMCell,
)
from wnseq.nn._module import WNModule
from wnseq.nn._plain_rnn import GRU, LSTM
from wnseq.nn._rnn import WNGRU, WNLSTM, WNRNN
from wnseq.state_dict import param_names, to_wnseq


class Counterpart(NamedTuple):
    """A layer of torch, that of wnseq, and the constructor's arguments, all of them attributes of both."""

    plain: type[nn.Module]
    normalized: type[WNModule]
    arguments: tuple[str, ...]


_CELL = ("input_size", "hidden_size", "bias")
_LAYER = (*_CELL, "num_layers", "batch_first", "bidirectional")
_CHANNELS = ("in_channels", "out_channels", "groups", "bias")
_CONV = (*_CHANNELS, "kernel_size", "stride", "padding", "dilation", "padding_mode")
COUNTERPARTS = (
    Counterpart(nn.Linear, WNLinear, ("in_features", "out_features", "bias")),
    Counterpart(nn.Conv1d, WNConv1d, _CONV),
    Counterpart(nn.Conv2d, WNConv2d, _CONV),
    Counterpart(nn.ConvTranspose1d, WNConvTranspose1d, (*_CONV, "output_padding")),
    Counterpart(nn.ConvTranspose2d, WNConvTranspose2d, (*_CONV, "output_padding")),
    Counterpart(nn.RNN, WNRNN, (*_LAYER, "nonlinearity")),
    Counterpart(nn.LSTM, WNLSTM, (*_LAYER, "proj_size")),
    Counterpart(nn.GRU, WNGRU, _LAYER),
    Counterpart(nn.RNNCell, WNRNNCell, (*_CELL, "nonlinearity")),
    Counterpart(nn.LSTMCell, WNLSTMCell, _CELL),
    Counterpart(nn.GRUCell, WNGRUCell, _CELL),
    Counterpart(MinGRU, WNMinGRU, _LAYER),
    Counterpart(MinLSTM, WNMinLSTM, _LAYER),
    Counterpart(MinGRUCell, WNMinGRUCell, _CELL),
    Counterpart(MinLSTMCell, WNMinLSTMCell, _CELL),
)
BY_PLAIN: dict[type, Counterpart] = {pair.plain: pair for pair in COUNTERPARTS}
BY_PLAIN |= {LSTM: BY_PLAIN[nn.LSTM], GRU: BY_PLAIN[nn.GRU]}
BY_NORMALIZED: dict[type, Counterpart] = {pair.normalized: pair for pair in COUNTERPARTS}


def normalized_layer(layer: nn.Module) -> WNModule | None:
    """Return a weight-normalised layer with a plain layer's function and its very biases, or None for other modules.

    A subclass counts as the class of torch that it is derived from.
    """
    for pair in COUNTERPARTS:
        if isinstance(layer, pair.plain):
            new: WNModule = empty_like(layer, pair.normalized, pair.arguments)
            new._parameters.update(split_weights(layer, new))
            return new
    return None


def empty_like(old: nn.Module, cls: type[nn.Module], arguments: Iterable[str]) -> Any:
    """Construct a module on the meta device with the arguments of another."""
    values: dict[str, Any] = {name: getattr(old, name) for name in arguments}
    if values["bias"] is None or isinstance(values["bias"], Tensor):  # of a layer the bias itself
        values["bias"] = values["bias"] is not None
    if "bidirectional" in values:
        values["bidirectional"] = bool(values["bidirectional"])  # torch accepts a number, too
    new = cls(**values, device="meta")
    if hasattr(old, "dropout"):
        new.dropout = old.dropout  # not by the constructor, which would warn once more of dropout in one layer
    return new


def split_weights(old: nn.Module, new: WNModule) -> dict[str, Any]:
    """Return the parameters of a plain layer with each weight split into v, in its memory format, and g."""
    with torch.no_grad():
        entries = to_wnseq(old._parameters, new.layouts)
        for name in new.weight_names:
            v, g = param_names(name)
            weight = old.get_parameter(name)
            entries[v] = torch.empty_like(weight).copy_(entries[v])
            for part in (v, g):
                entries[part] = nn.Parameter(entries[part], requires_grad=weight.requires_grad)
    return entries
