"""A yard-stick for language models: what a compressor needs for a text when it has seen another."""

import lzma


def compressed_bits_per_byte(train: bytes, test: bytes) -> float:
    """Return what xz (``-9e``) adds for ``test`` when it comes after ``train``, in bits per byte of ``test``.

    Args:
        train: what the compressor has seen; xz looks 64 MB back.
        test: what is measured; not empty.
    """
    return 8 * (_size(train + test) - _size(train)) / len(test)


def _size(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
