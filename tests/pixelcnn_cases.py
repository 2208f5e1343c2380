"""Layers, blocks and streams of PixelCNN++ for the tests of both its forms."""

from torch import nn

import wnseq
from wnseq.pixelcnn import DownRightShiftedConv2d, DownShiftedConv2d, GatedBlock, PixelCNNStage

CONV = {"weight": wnseq.WNConv2d, "none": nn.Conv2d}

UP = {"weight": wnseq.WNConvTranspose2d, "none": nn.ConvTranspose2d}

KERNELS = [
    *((DownShiftedConv2d, kernel) for kernel in ((1, 1), (1, 3), (2, 3), (3, 5))),
    *((DownRightShiftedConv2d, kernel) for kernel in ((1, 1), (2, 1), (1, 2), (2, 2), (3, 4))),
]


def block(stream, shortcuts, classes=0, dropout=0.0, channels=3, norm="weight"):
    shifted, kernel = ((DownShiftedConv2d, (2, 3)), (DownRightShiftedConv2d, (2, 2)))[stream]
    first, second = (shifted(CONV[norm](2 * channels, times * channels, kernel)) for times in (1, 2))
    side = CONV[norm](2 * shortcuts * channels, channels, 1) if shortcuts else None
    return GatedBlock(first, second, side, classes, dropout)


def streams(classes=0, dropout=0.0, checkpointing=False, blocks=2, channels=3):
    """Two resolutions of both streams."""

    def pairs(number, *shortcuts):
        return [tuple(block(s, n, classes, dropout, channels) for s, n in enumerate(shortcuts)) for _ in range(number)]

    def between(kind):
        return [
            DownShiftedConv2d(kind["weight"](channels, channels, (2, 3), stride=2)),
            DownRightShiftedConv2d(kind["weight"](channels, channels, (2, 2), stride=2)),
        ]

    inner = PixelCNNStage(pairs(blocks, 0, 1), pairs(blocks, 1, 2), checkpointing=checkpointing)
    return PixelCNNStage(
        pairs(blocks, 0, 1), pairs(blocks + 1, 1, 2), between(CONV), inner, between(UP), checkpointing=checkpointing
    )
