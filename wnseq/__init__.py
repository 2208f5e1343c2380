"""Weight-normalised layers and recurrent networks for PyTorch."""

from wnseq import _command_start  # noqa: F401 # isort: skip - before torch
from wnseq.convert import ConversionReport, conversion_report, remove_weight_norm, state_dict_as, weight_normalize
from wnseq.errors import ShapeError
from wnseq.functional import decompose, exp_weight_norm, log_scale, weight_norm
from wnseq.init import InitReport, data_free_init, data_init, draw_directions
from wnseq.nn import (
    GRU,
    LSTM,
    WNGRU,
    WNLSTM,
    WNRNN,
    LockedDropout,
    MeanOnlyBatchNorm1d,
    MeanOnlyBatchNorm2d,
    MinGRU,
    MinGRUCell,
    MinLSTM,
    MinLSTMCell,
    WNConv1d,
    WNConv2d,
    WNConv3d,
    WNConvTranspose1d,
    WNConvTranspose2d,
    WNConvTranspose3d,
    WNEmbedding,
    WNGRUCell,
    WNLinear,
    WNLSTMCell,
    WNMinGRU,
    WNMinGRUCell,
    WNMinLSTM,
    WNMinLSTMCell,
    WNRNNCell,
    add_safe_globals,
)
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
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "MinLSTMCell",
    "ShapeError",
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
    "WNMinGRU",
    "WNMinGRUCell",
    "WNMinLSTM",
    "WNMinLSTMCell",
    "WNRNNCell",
    "add_safe_globals",
    "conversion_report",
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


def __dir__() -> list[str]:
    """List the public names and packages."""
    return [name for name in globals() if not name.startswith("_") or name.startswith("__")]
