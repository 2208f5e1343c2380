"""Weight-normalised layers and recurrent networks for PyTorch."""

from wnseq.convert import ConversionReport, remove_weight_norm, state_dict_as, weight_normalize
from wnseq.errors import ShapeError
from wnseq.functional import decompose, exp_weight_norm, log_scale, weight_norm
from wnseq.init._data_dependent import data_init
from wnseq.init._report import InitReport
from wnseq.init._scales import data_free_init, draw_directions
from wnseq.nn._batch_norm import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d
from wnseq.nn._cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.nn._conv import WNConv1d, WNConv2d, WNConvTranspose1d, WNConvTranspose2d
from wnseq.nn._dropout import LockedDropout
from wnseq.nn._linear import WNLinear
from wnseq.nn._module import add_safe_globals
from wnseq.nn._rnn import GRU, LSTM, WNGRU, WNLSTM, WNRNN
from wnseq.optim import direction_norms, param_groups, renormalize_

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "WNGRU",
    "WNLSTM",
    "WNRNN",
    "ConversionReport",
    "InitReport",
    "LockedDropout",
    "MeanOnlyBatchNorm1d",
    "MeanOnlyBatchNorm2d",
    "ShapeError",
    "WNConv1d",
    "WNConv2d",
    "WNConvTranspose1d",
    "WNConvTranspose2d",
    "WNGRUCell",
    "WNLSTMCell",
    "WNLinear",
    "WNRNNCell",
    "add_safe_globals",
    "data_free_init",
    "data_init",
    "decompose",
    "direction_norms",
    "draw_directions",
    "exp_weight_norm",
    "log_scale",
    "param_groups",
    "remove_weight_norm",
    "renormalize_",
    "state_dict_as",
    "weight_norm",
    "weight_normalize",
]
