import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from wnseq.data.images import datasets
from wnseq.data.images.datasets import CIFAR_ARCHIVE, CIFAR_TEST, CIFAR_TRAIN, fetch_images, open_images


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes(), 1)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A black MNIST whose labels count."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, number in (("train", 60_000), ("t10k", 10_000)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((number, 28, 28), np.uint8)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx((np.arange(number) // 6000).astype(np.uint8)))
    return tmp_path


def batch(number: int, size: int = 10_000) -> bytes:
    table = np.full((size, 3073), number, np.uint8)
    table[:, 1] = np.arange(size) % 251
    return table.tobytes()


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, file in enumerate((*CIFAR_TRAIN, CIFAR_TEST)):
        (folder / file).write_bytes(batch(number))
    return tmp_path


def test_digits() -> None:
    digits = open_images("digits")
    assert [len(digits.parts[part]) for part in ("train", "val", "test")] == [1197, 300, 300]
    pixels = torch.cat([part.pixels for part in digits.parts.values()])
    assert pixels.shape == (1797, 1, 8, 8) and pixels.dtype == torch.uint8
    assert pixels.min() == 0 and pixels.max() == 16 == digits.num_values - 1
    for part in digits.parts.values():
        assert part.labels.bincount().min() > 0.07 * len(part)  # every class in every part
    assert digits.split == "order permuted (seed 0), the last 300 for test, 300 before them for validation"
    assert open_images("digits").sha256 == digits.sha256 != open_images("digits", val_size=0).sha256


def test_mnist_holds_out_the_last_training_images(mnist: Path) -> None:
    found = open_images("mnist", str(mnist))
    assert [len(found.parts[part]) for part in ("train", "val", "test")] == [50_000, 10_000, 10_000]
    assert found.parts["val"].labels.unique().tolist() == [8, 9]
    assert found.num_values == 256 and found.classes == tuple("0123456789")
    assert found.split == "test as published, validation: the last 10000 of the training files"


def test_binarised_mnist_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "binarized_mnist").mkdir()
    for number, part in enumerate(("train", "valid", "test")):
        row = " ".join(["1"] * number + ["0"] * (784 - number))
        (tmp_path / "binarized_mnist" / f"binarized_mnist_{part}.amat").write_text(f"{row}\n{row}\n")
    found = open_images("binarized_mnist", str(tmp_path))
    assert [int(found.parts[part].pixels[0].sum()) for part in ("train", "val", "test")] == [0, 1, 2]
    assert found.num_values == 2 and found.parts["train"].labels is None and found.classes == ()
    with pytest.raises(ValueError, match="has a validation part of its own"):
        open_images("binarized_mnist", str(tmp_path), val_size=3)


def test_cifar(cifar: Path) -> None:
    found = open_images("cifar10", str(cifar))
    assert [len(found.parts[part]) for part in ("train", "val", "test")] == [45_000, 5_000, 10_000]
    assert found.parts["train"].labels[[0, 10_000, 44_999]].tolist() == [0, 1, 4]
    assert found.parts["test"].labels.unique().tolist() == [5]
    assert found.classes[5] == "dog"


def test_the_archive_of_cifar_is_unpacked_once(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    with tarfile.open(folder / CIFAR_ARCHIVE, "w:gz", compresslevel=1) as archive:
        for number, file in enumerate((*CIFAR_TRAIN, CIFAR_TEST, "../../outside.bin")):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            entry.size = 10_000 * 3073
            archive.addfile(entry, io.BytesIO(batch(number)))
    fetch_images("cifar10", str(tmp_path))
    assert sorted(path.name for path in folder.iterdir()) == ["cifar-10-batches-bin", CIFAR_ARCHIVE]
    assert len(open_images("cifar10", str(tmp_path)).parts["train"]) == 45_000
    (folder / CIFAR_ARCHIVE).unlink()
    fetch_images("cifar10", str(tmp_path))  # nothing to do


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / CIFAR_ARCHIVE).write_bytes(b"<html>")
    with pytest.raises(
        ValueError,
        match=rf"{CIFAR_ARCHIVE} can.t be read as a gzipped tar archive: it is damaged.*Delete it and run again",
    ):
        fetch_images("cifar10", str(tmp_path))


def test_a_member_that_is_larger_than_the_set_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CIFAR_BYTES", 50)
    with tarfile.open(tmp_path / CIFAR_ARCHIVE, "w:gz") as archive:
        entry = tarfile.TarInfo("data_batch_1.bin")
        entry.size = 51
        archive.addfile(entry, io.BytesIO(bytes(51)))
    with pytest.raises(ValueError, match=r"has 51 bytes in data_batch_1\.bin"):
        datasets._unpack_cifar(tmp_path / CIFAR_ARCHIVE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_the_cifar_archive_is_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / CIFAR_ARCHIVE, "w:gz") as archive:
        entry = tarfile.TarInfo("data_batch_1.bin")
        entry.type, entry.linkname = tarfile.SYMTYPE, "data_batch_1.bin"
        archive.addfile(entry)
    datasets._unpack_cifar(tmp_path / CIFAR_ARCHIVE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mnist_is_fetched_where_it_is_missing(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(datasets, "fetch", lambda urls, path, known: asked.append((urls[0], path, known)))
    fetch_images("mnist", str(mnist))
    assert asked == []
    path = mnist / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.rename(path.with_suffix(""))  # unpacked by the user
    fetch_images("mnist", str(mnist))
    assert asked == []
    path.with_suffix("").unlink()
    fetch_images("mnist", str(mnist))
    ((url, where, known),) = asked
    assert where == path and url.endswith(path.name) and known.startswith("sha256:f7ae60f9")
    for name in ("digits", "binarized_mnist"):
        fetch_images(name, str(mnist))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "mnist",
            r"'mnist' is not complete: .*train-images-idx3-ubyte\.gz is missing\. Put it there \(`fit` fetches it\)",
        ),
        ("cifar10", r"cifar-10-batches-bin/data_batch_1\.bin is missing"),
        (
            "binarized_mnist",
            r"binarized_mnist_train\.amat\.gz is missing\. Put it there \(it can't be fetched, as no hash",
        ),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(FileNotFoundError, match=text):
        open_images(name, str(tmp_path))


def test_files_of_the_wrong_size_are_named(mnist: Path, cifar: Path) -> None:
    images, labels = (mnist / "mnist" / f"t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    labels.write_bytes(idx(np.full(10_000, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"t10k-labels-.*: expected 10000 labels from 0 to 9, got 10000 up to 10"):
        open_images("mnist", str(mnist))
    images.write_bytes(idx(np.zeros((9_999, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match=r"t10k-images-.*: expected 10000 x 28 x 28, got 9999 x 28 x 28"):
        open_images("mnist", str(mnist))
    (cifar / "cifar10" / "cifar-10-batches-bin" / CIFAR_TEST).write_bytes(batch(1, 9_999))
    with pytest.raises(ValueError, match=r"test_batch\.bin: expected .* \(10,000 images\), got 30,726,927 bytes"):
        open_images("cifar10", str(cifar))


def test_an_unknown_set_or_too_large_a_validation_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no image set 'digit'\. Did you mean 'digits'\? Known are digits, mnist"):
        open_images("digit")
    with pytest.raises(ValueError, match=r"no image set 'digit'\. Did you mean 'digits'\? Known are digits, mnist"):
        fetch_images("digit")
    with pytest.raises(ValueError, match=r"val_size must be at least 0 and less than 1,497.*got 1497"):
        open_images("digits", val_size=1497)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'wnseq\[images\]'"):
        open_images("digits")


@pytest.mark.parametrize(("name", "train"), [("mnist", 50_000), ("binarized_mnist", 50_000)])
def test_the_real_sets(real_data, name: str, train: int) -> None:
    found = open_images(name, str(real_data(name).parent))
    assert [len(found.parts[part]) for part in ("train", "val", "test")] == [train, 10_000, 10_000]
    assert int(found.parts["train"].pixels.max()) == found.num_values - 1
    if found.parts["train"].labels is not None:
        assert found.parts["train"].labels[:5].tolist() == [5, 0, 4, 1, 9]
