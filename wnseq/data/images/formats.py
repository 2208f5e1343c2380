"""The file formats of the standard image sets: idx, amat, and the binary form of CIFAR."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wnseq.data._files import unpacked_blocks
from wnseq.errors import FileFormatError

Bytes = npt.NDArray[np.uint8]
IDX_UINT8 = 8  # the third byte of an idx file's magic number


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Read an idx file of bytes (MNIST): a magic number, the sizes (big-endian, 32 bits), the bytes.

    Args:
        path: The file, gzipped or not.
        dimensions: 3 for images, 1 for labels; the magic number must agree.

    Returns:
        The array, read-only.

    Raises:
        ValueError: The file is cut short, too long, or of another kind.
    """
    raw = _content(path)
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise FileFormatError(
            f"{path} is no idx file: expected it to begin with two zero bytes, got {raw[:4].hex(' ')}."
        )
    if raw[2] != IDX_UINT8 or raw[3] != dimensions:
        raise FileFormatError(
            f"{path}: expected the magic number {(IDX_UINT8 << 8) + dimensions} (bytes in {dimensions} dimensions), "
            f"got {int.from_bytes(raw[:4], 'big')}. Is it another file under this name (labels for images)?"
        )
    header = 4 + 4 * dimensions
    sizes = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, min(header, len(raw)), 4)]
    expected = math.prod(sizes) if len(raw) >= header else 0
    if len(raw) != header + expected:
        raise FileFormatError(
            f"{path}: its header announces {' x '.join(map(str, sizes))} bytes after {header}, but {len(raw):,} bytes "
            "are there in all. The file is damaged or cut short."
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(sizes)


def read_amat(path: Path, columns: int) -> Bytes:
    """Read an amat file (binarised MNIST): one image per line, zeros and ones with blanks between them.

    Args:
        path: The file, gzipped or not.
        columns: Values per line.

    Returns:
        Zeros and ones, ``(lines, columns)``.

    Raises:
        ValueError: A line is too short or too long, or has a value that is neither 0 nor 1.
    """
    raw = np.frombuffer(_content(path), np.uint8)
    value = (raw == ord("0")) | (raw == ord("1"))
    newline = raw == ord("\n")
    strange = ~(value | newline | (raw == ord(" ")) | (raw == ord("\r")))
    strange[1:] |= value[1:] & value[:-1]  # 10 is a number of its own
    if strange.any():
        line = int(newline[: strange.argmax()].sum()) + 1
        raise FileFormatError(
            f"{path}, line {line}: expected zeros and ones with a blank between them, got something else."
        )
    starts = np.flatnonzero(np.concatenate(([True], newline[:-1])))[: len(raw)]
    lengths = np.add.reduceat(value, starts, dtype=np.int64) if len(raw) else np.zeros(0, np.int64)
    if len(lengths) == 0 or (lengths != columns).any():
        line = int((lengths != columns).argmax()) if len(lengths) else 0
        got = lengths[line] if len(lengths) else 0
        raise FileFormatError(f"{path}, line {line + 1}: expected {columns} values, got {got}. The file is damaged.")
    found: Bytes = raw[value] - np.uint8(ord("0"))
    return found.reshape(-1, columns)


def read_cifar(path: Path, images: int | None = None) -> tuple[Bytes, Bytes]:
    """Read a batch of CIFAR-10 in its binary form: a label byte, then 32 x 32 bytes each of red, green and blue.

    Args:
        path: The ``.bin`` file.
        images: The number of images it must have; None for any.

    Returns:
        Pixels, ``(images, 3, 32, 32)``, and labels.

    Raises:
        ValueError: The size is wrong, or a label is not below 10.
    """
    raw = path.read_bytes()
    record = 1 + 3 * 32 * 32
    whole, rest = divmod(len(raw), record)
    if rest or not whole or images not in (None, whole):
        expected = f"{images * record:,} bytes ({images:,} images)" if images else "one or more"
        raise FileFormatError(
            f"{path}: expected images of {record} bytes each, {expected}, got {len(raw):,} bytes. The file is cut "
            "short, or it is not CIFAR-10's binary form (cifar-10-binary.tar.gz)."
        )
    table = np.frombuffer(raw, np.uint8).reshape(whole, record)
    labels = table[:, 0]
    if labels.max() > 9:
        raise FileFormatError(
            f"{path}: image {int((labels > 9).argmax())} has the label {labels[labels > 9][0]}, expected 0 to 9. The "
            "file is damaged, or it is not CIFAR-10's binary form (CIFAR-100 has two label bytes)."
        )
    return table[:, 1:].reshape(whole, 3, 32, 32), labels


def _content(path: Path) -> bytes:
    """Return a file's bytes, unpacked if it is gzipped."""
    with path.open("rb") as file:
        begin = file.read(2)
        if begin != b"\x1f\x8b":
            if path.suffix == ".gz":
                raise FileFormatError(f"{path} is no gzip file: expected it to begin with 1f 8b, got {begin.hex(' ')}.")
            return begin + file.read()
    return b"".join(unpacked_blocks(path, "a gzip file"))
