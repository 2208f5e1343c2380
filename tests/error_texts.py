"""Pairs of a module of torch and wnseq's, and the comparison of what they say of bad input."""

import re

from torch import nn

import wnseq

LAYERS = [(nn.RNN, wnseq.WNRNN), (nn.GRU, wnseq.WNGRU), (nn.LSTM, wnseq.WNLSTM)]
CELLS = [(nn.RNNCell, wnseq.WNRNNCell), (nn.GRUCell, wnseq.WNGRUCell), (nn.LSTMCell, wnseq.WNLSTMCell)]
CONVS = [(nn.Conv1d, wnseq.WNConv1d), (nn.Conv2d, wnseq.WNConv2d), (nn.Conv3d, wnseq.WNConv3d)]
TRANSPOSED = [
    (nn.ConvTranspose1d, wnseq.WNConvTranspose1d),
    (nn.ConvTranspose2d, wnseq.WNConvTranspose2d),
    (nn.ConvTranspose3d, wnseq.WNConvTranspose3d),
]
FEEDFORWARD = [(nn.Linear, wnseq.WNLinear), *CONVS, *TRANSPOSED]


def caught(function):
    try:
        function()
    except Exception as error:
        return error
    return None


def in_order(text):
    """Sort what stands in braces: torch prints a set, whose order differs from process to process."""
    return re.sub(r"\{(.*)\}", lambda found: str(sorted(found[1].split(", "))), text)


def assert_torch_s_words_first(theirs, ours):
    phrase = str(theirs).rstrip(". ").partition("dimension -")[0]  # torch says how many rows of gates that would be
    assert isinstance(ours, RuntimeError if isinstance(theirs, NotImplementedError) else type(theirs)), (theirs, ours)
    assert in_order(str(ours)).replace("WN", "").startswith(in_order(phrase)), (theirs, ours)
