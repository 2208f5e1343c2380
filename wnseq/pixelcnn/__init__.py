"""Causal convolutions and blocks of PixelCNN++, and the same with caches for sampling."""

from wnseq.pixelcnn.cached import (
    CachedStreams,
    ConcatELUBuffer,
    PixelConv,
    PixelGated,
    PixelTransposed,
    RowConv,
    RowGated,
    RowTransposed,
    weight_and_bias,
)
from wnseq.pixelcnn.layers import (
    DownRightShiftedConv2d,
    DownShiftedConv2d,
    GatedBlock,
    PixelCNNStage,
    concat_elu,
    down_shift,
    right_shift,
)

__all__ = [
    "CachedStreams",
    "ConcatELUBuffer",
    "DownRightShiftedConv2d",
    "DownShiftedConv2d",
    "GatedBlock",
    "PixelCNNStage",
    "PixelConv",
    "PixelGated",
    "PixelTransposed",
    "RowConv",
    "RowGated",
    "RowTransposed",
    "concat_elu",
    "down_shift",
    "right_shift",
    "weight_and_bias",
]
