"""Figures of runs, in one style. matplotlib is imported when something is drawn, and pyplot never is."""

from wnseq.training.plots._comparison import plot_dots, plot_sweep, plot_variants
from wnseq.training.plots._confusion import plot_confusion
from wnseq.training.plots._curves import plot_run
from wnseq.training.plots._gates import plot_gates, read_gates
from wnseq.training.plots._images import plot_images, save_animation
from wnseq.training.plots._row_lengths import plot_row_lengths
from wnseq.training.plots._saturation import plot_saturation
from wnseq.training.plots._series import Series, read_metrics
from wnseq.training.plots._timescales import plot_timescales

__all__ = [
    "Series",
    "plot_confusion",
    "plot_dots",
    "plot_gates",
    "plot_images",
    "plot_row_lengths",
    "plot_run",
    "plot_saturation",
    "plot_sweep",
    "plot_timescales",
    "plot_variants",
    "read_gates",
    "read_metrics",
    "save_animation",
]
