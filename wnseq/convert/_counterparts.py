"""The layers of torch that have a weight-normalised counterpart, and how one is made from the other."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from wnseq.nn._cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.nn._conv import WNConv1d, WNConv2d, WNConv3d, WNConvTranspose1d, WNConvTranspose2d, WNConvTranspose3d
from wnseq.nn._embedding import WNEmbedding
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
from wnseq.nn._mlstm import MLSTM, WNMLSTM, MLSTMCell, WNMLSTMCell
from wnseq.nn._module import WNModule
from wnseq.nn._plain_rnn import GRU, LSTM, RNN
from wnseq.nn._rnn import WNGRU, WNLSTM, WNRNN
from wnseq.nn._weight_pairs import find_weight_norm
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
_SIZES = ("num_embeddings", "embedding_dim")
_EMBEDDING = (*_SIZES, "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
COUNTERPARTS = (
    Counterpart(nn.Linear, WNLinear, ("in_features", "out_features", "bias")),
    Counterpart(nn.Conv1d, WNConv1d, _CONV),
    Counterpart(nn.Conv2d, WNConv2d, _CONV),
    Counterpart(nn.Conv3d, WNConv3d, _CONV),
    Counterpart(nn.ConvTranspose1d, WNConvTranspose1d, (*_CONV, "output_padding")),
    Counterpart(nn.ConvTranspose2d, WNConvTranspose2d, (*_CONV, "output_padding")),
    Counterpart(nn.ConvTranspose3d, WNConvTranspose3d, (*_CONV, "output_padding")),
    Counterpart(nn.Embedding, WNEmbedding, _EMBEDDING),
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
    Counterpart(MLSTM, WNMLSTM, _LAYER),
    Counterpart(MLSTMCell, WNMLSTMCell, _CELL),
)
BY_PLAIN: dict[type, Counterpart] = {pair.plain: pair for pair in COUNTERPARTS}
BY_PLAIN |= {RNN: BY_PLAIN[nn.RNN], LSTM: BY_PLAIN[nn.LSTM], GRU: BY_PLAIN[nn.GRU]}
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
    if "bias" in values and not isinstance(values["bias"], bool):  # of a layer the bias itself
        values["bias"] = values["bias"] is not None
    if "bidirectional" in values:
        values["bidirectional"] = bool(values["bidirectional"])  # torch accepts a number, too
    new = cls(**values, device="meta")
    if hasattr(old, "dropout"):
        new.dropout = old.dropout  # not by the constructor, which would warn once more of dropout in one layer
    if hasattr(old, "weight_drop") and hasattr(new, "weight_drop"):
        new.weight_drop = old.weight_drop
    return new


def split_weights(old: nn.Module, new: WNModule) -> dict[str, Any]:
    """Return the parameters of a layer with each weight split into v, in its memory format, and g.

    A weight with torch's weight norm has its own v, the very parameter, and its g, flat if it lies along the outputs.
    """
    normalized = find_weight_norm(old)
    with torch.no_grad():
        given = dict(old._parameters)
        for name, (v, g, _) in normalized.items():
            given.update(zip(param_names(name), (v, g), strict=True))
        entries = to_wnseq(given, new.layouts)
        for name in new.weight_names:
            v_name, g_name = param_names(name)
            if name in normalized:
                scale = normalized[name].g
                if entries[g_name] is not scale:
                    entries[g_name] = nn.Parameter(entries[g_name].clone(), requires_grad=scale.requires_grad)
                continue
            weight = old.get_parameter(name)
            entries[v_name] = torch.empty_like(weight).copy_(entries[v_name])
            for part in (v_name, g_name):
                entries[part] = nn.Parameter(entries[part], requires_grad=weight.requires_grad)
    return entries
