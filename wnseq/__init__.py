"""Weight-normalised recurrent networks for PyTorch."""

from wnseq.cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.convert import (
    Converted,
    direction_norms,
    fold,
    param_groups,
    renormalize_,
    state_dict_as,
    weight_normalize,
)
from wnseq.module import add_safe_globals
from wnseq.regularise import LockedDropout
from wnseq.rnn import WNGRU, WNLSTM, WNRNN
from wnseq.weight_norm import ShapeError, decompose, exp_weight_norm, log_scale, weight_norm

__version__ = "0.1.0"

__all__ = [
    "WNGRU",
    "WNLSTM",
    "WNRNN",
    "Converted",
    "LockedDropout",
    "ShapeError",
    "WNGRUCell",
    "WNLSTMCell",
    "WNRNNCell",
    "add_safe_globals",
    "decompose",
    "direction_norms",
    "exp_weight_norm",
    "fold",
    "log_scale",
    "param_groups",
    "renormalize_",
    "state_dict_as",
    "weight_norm",
    "weight_normalize",
]
