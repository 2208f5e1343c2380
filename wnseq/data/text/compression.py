"""What a compressor needs for a text, the figure to beat."""

import lzma

__all__ = ["compressed_bits_per_byte"]


def compressed_bits_per_byte(train: bytes, test: bytes) -> float:
    """Compute what xz (``-9e``) adds for ``test`` when it comes after ``train``, in bits per byte of ``test``."""
    with_test, alone = (len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in (train + test, train))
    return 8 * (with_test - alone) / len(test)
