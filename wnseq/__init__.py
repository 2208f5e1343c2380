"""Weight-normalised recurrent networks for PyTorch."""

from wnseq.cells import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq.convert import param_groups
from wnseq.regularise import LockedDropout
from wnseq.rnn import WNGRU, WNLSTM, WNRNN
from wnseq.weight_norm import ShapeError, decompose, exp_weight_norm, log_scale, weight_norm

__version__ = "0.1.0"

__all__ = [
    "WNGRU",
    "WNLSTM",
    "WNRNN",
    "LockedDropout",
    "ShapeError",
    "WNGRUCell",
    "WNLSTMCell",
    "WNRNNCell",
    "decompose",
    "exp_weight_norm",
    "log_scale",
    "param_groups",
    "weight_norm",
]
