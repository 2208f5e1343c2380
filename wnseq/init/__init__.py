"""Initialisation of weight-normalised models, from a batch of data, from counts of tokens, or from neither."""

from wnseq.init._counts import bias_from_counts_, g_from_counts_
from wnseq.init._data_dependent import data_init
from wnseq.init._memory import memory_bias_
from wnseq.init._norms import g_from_v_
from wnseq.init._report import InitReport
from wnseq.init._scales import data_free_init, draw_directions, hidden_scales

__all__ = [
    "InitReport",
    "bias_from_counts_",
    "data_free_init",
    "data_init",
    "draw_directions",
    "g_from_counts_",
    "g_from_v_",
    "hidden_scales",
    "memory_bias_",
]
