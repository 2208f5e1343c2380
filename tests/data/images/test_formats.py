import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from wnseq.data.images.formats import read_amat, read_cifar, read_idx

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def cifar(labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + bytes(range(256)) * 12 for label in labels)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx(tmp_path: Path, pack) -> None:
    path = tmp_path / "images"
    path.write_bytes(pack(idx(IMAGES)))
    assert (read_idx(path, 3) == IMAGES).all()


def test_amat(tmp_path: Path) -> None:
    path = tmp_path / "images.amat"
    for text in ("0 1 1 \n1 0 0 \n", "0 1 1\r\n1 0 0", "0 1 1\n1 0 0\n"):
        path.write_text(text, newline="")
        assert read_amat(path, 3).tolist() == [[0, 1, 1], [1, 0, 0]]


def test_cifar(tmp_path: Path) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(cifar([3, 9]))
    pixels, labels = read_cifar(path)
    assert labels.tolist() == [3, 9]
    assert pixels.shape == (2, 3, 32, 32)
    assert pixels[1].flatten().tolist() == list(range(256)) * 12  # red, green, blue, each row by row


@pytest.mark.parametrize(
    ("name", "content", "read", "fault"),
    [
        (
            "a.gz",
            b"<html>",
            lambda path: read_idx(path, 3),
            r"no gzip file: expected it to begin with 1f 8b, got 3c 68",
        ),
        ("a.gz", gzip.compress(idx(IMAGES), mtime=0)[:-12], lambda path: read_idx(path, 3), "damaged, cut short"),
        ("a", b"<html>", lambda path: read_idx(path, 3), "no idx file: expected it to begin with two zero bytes"),
        ("a", b"", lambda path: read_idx(path, 3), "no idx file"),
        ("a", idx(IMAGES[0, 0]), lambda path: read_idx(path, 3), r"magic number 2051 .* got 2049\. Is it another file"),
        ("a", idx(IMAGES, kind=13), lambda path: read_idx(path, 3), "magic number 2051 .* got 3331"),
        ("a", idx(IMAGES)[:-1], lambda path: read_idx(path, 3), "announces 2 x 3 x 4 bytes after 16, but 39 bytes"),
        ("a", idx(IMAGES) + b"0", lambda path: read_idx(path, 3), "announces 2 x 3 x 4 bytes after 16, but 41 bytes"),
        ("a", idx(IMAGES)[:10], lambda path: read_idx(path, 3), "but 10 bytes are there in all"),
        ("a", b"0 1\n0 1 1\n", lambda path: read_amat(path, 2), "line 2: expected 2 values, got 3"),
        ("a", b"0 1\n0", lambda path: read_amat(path, 2), "line 2: expected 2 values, got 1"),
        ("a", b"", lambda path: read_amat(path, 2), "line 1: expected 2 values, got 0"),
        ("a", b"0 1\n0 2\n", lambda path: read_amat(path, 2), "line 2: expected zeros and ones"),
        ("a", b"0 1\n0 10\n", lambda path: read_amat(path, 2), "line 2: expected zeros and ones"),
        ("a", cifar([1, 2])[:-1], read_cifar, r"3073 bytes each, one or more, got 6,145 bytes\. The file is cut short"),
        ("a", b"", read_cifar, "got 0 bytes"),
        ("a", cifar([1]), lambda path: read_cifar(path, 2), r"6,146 bytes \(2 images\), got 3,073 bytes"),
        ("a", cifar([1, 17]), read_cifar, "image 1 has the label 17, expected 0 to 9"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path: Path, name: str, content: bytes, read, fault: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=fault) as error:
        read(path)
    assert str(path) in str(error.value)


def test_the_lossless_part_of_cifar(real_data) -> None:
    path = real_data("cifar10") / "data_batch_1_first4000.bin"
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    pixels, labels = read_cifar(path)
    assert len(pixels) == 4000
    assert labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile: as every tutorial shows
