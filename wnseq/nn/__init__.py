"""Weight-normalised layers, cells and recurrent networks, drop-ins for ``torch.nn``, and the parts to build others.

``WNModule`` is the base class; ``RECURRENT_LAYERS`` has the recurrent layers by kind and norm; ``rnn_step``,
``lstm_step`` and ``gru_step`` are one step as pure functions, whose gate order is in ``GATES`` and ``gate_slice``;
``backend`` forces which kernel runs, ``explain_backend`` says which did, and why.
"""

from wnseq._recurrence.backend import backend
from wnseq._recurrence.dispatch import BackendChoice, explain_backend
from wnseq._recurrence.matmul import memory_bound_linear
from wnseq._recurrence.steps import GATES, gate_slice, gru_step, lstm_step, rnn_step
from wnseq.nn._batch_norm import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d
from wnseq.nn._cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.nn._conv import WNConv1d, WNConv2d, WNConv3d, WNConvTranspose1d, WNConvTranspose2d, WNConvTranspose3d
from wnseq.nn._dropout import EmbeddingDropout, LockedDropout
from wnseq.nn._embedding import WNEmbedding
from wnseq.nn._gate_values import gate_values
from wnseq.nn._kinds import RECURRENT_LAYERS
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
from wnseq.nn._module import WNModule, add_safe_globals
from wnseq.nn._plain_rnn import GRU, LSTM, RNN
from wnseq.nn._rnn import WNGRU, WNLSTM, WNRNN
from wnseq.nn._stack import RNNStack, stack_layers
from wnseq.nn._tied import composed_weight, is_tied, tie_weights

__all__ = [
    "GATES",
    "GRU",
    "LSTM",
    "MLSTM",
    "RECURRENT_LAYERS",
    "RNN",
    "WNGRU",
    "WNLSTM",
    "WNMLSTM",
    "WNRNN",
    "BackendChoice",
    "EmbeddingDropout",
    "LockedDropout",
    "MLSTMCell",
    "MeanOnlyBatchNorm1d",
    "MeanOnlyBatchNorm2d",
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "MinLSTMCell",
    "RNNStack",
    "WNConv1d",
    "WNConv2d",
    "WNConv3d",
    "WNConvTranspose1d",
    "WNConvTranspose2d",
    "WNConvTranspose3d",
    "WNEmbedding",
    "WNGRUCell",
    "WNLSTMCell",
    "WNLinear",
    "WNMLSTMCell",
    "WNMinGRU",
    "WNMinGRUCell",
    "WNMinLSTM",
    "WNMinLSTMCell",
    "WNModule",
    "WNRNNCell",
    "add_safe_globals",
    "backend",
    "composed_weight",
    "explain_backend",
    "gate_slice",
    "gate_values",
    "gru_step",
    "is_tied",
    "lstm_step",
    "memory_bound_linear",
    "rnn_step",
    "stack_layers",
    "tie_weights",
]
