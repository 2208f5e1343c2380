"""Weight-normalised layers and recurrent networks for PyTorch."""

from wnseq.batch_norm import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d
from wnseq.cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.convert import Converted, fold, state_dict_as, weight_normalize
from wnseq.data_init import Started, data_free_init, data_init, draw_directions
from wnseq.layers import WNConv1d, WNConv2d, WNConvTranspose1d, WNConvTranspose2d, WNLinear
from wnseq.module import add_safe_globals
from wnseq.optimise import direction_norms, param_groups, renormalize_
from wnseq.plain import GRU, LSTM
from wnseq.regularise import LockedDropout
from wnseq.rnn import WNGRU, WNLSTM, WNRNN
from wnseq.weight_norm import ShapeError, decompose, exp_weight_norm, log_scale, weight_norm

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "WNGRU",
    "WNLSTM",
    "WNRNN",
    "Converted",
    "LockedDropout",
    "MeanOnlyBatchNorm1d",
    "MeanOnlyBatchNorm2d",
    "ShapeError",
    "Started",
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
    "fold",
    "log_scale",
    "param_groups",
    "renormalize_",
    "state_dict_as",
    "weight_norm",
    "weight_normalize",
]
