"""The recurrent layers by the name of their kind, with weight normalisation and without."""

from typing import Any

from wnseq.nn._min_rnn import MinGRU, MinLSTM, WNMinGRU, WNMinLSTM
from wnseq.nn._mlstm import MLSTM, WNMLSTM
from wnseq.nn._plain_rnn import GRU, LSTM, RNN
from wnseq.nn._rnn import WNGRU, WNLSTM, WNRNN

RECURRENT_LAYERS: dict[tuple[str, str], Any] = {
    ("lstm", "weight"): WNLSTM,
    ("gru", "weight"): WNGRU,
    ("rnn", "weight"): WNRNN,
    ("mingru", "weight"): WNMinGRU,
    ("minlstm", "weight"): WNMinLSTM,
    ("mlstm", "weight"): WNMLSTM,
    ("lstm", "none"): LSTM,
    ("gru", "none"): GRU,
    ("rnn", "none"): RNN,
    ("mingru", "none"): MinGRU,
    ("minlstm", "none"): MinLSTM,
    ("mlstm", "none"): MLSTM,
}
