"""Initialisation of weight-normalised models, from a batch of data or from none."""

from wnseq.init._data_dependent import data_init
from wnseq.init._norms import g_from_v_
from wnseq.init._report import InitReport
from wnseq.init._scales import data_free_init, draw_directions, hidden_scales

__all__ = [
    "InitReport",
    "data_free_init",
    "data_init",
    "draw_directions",
    "g_from_v_",
    "hidden_scales",
]
