"""Image sets by name, each as a training, a validation and a test part of pixels."""

import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wnseq.data._download import fetch
from wnseq.data._files import atomic_write, cache_folder
from wnseq.data.images.formats import read_amat, read_cifar, read_idx
from wnseq.data.text.corpora import data_root

NAMES = ("digits", "mnist", "binarized_mnist", "cifar10")
PARTS = ("train", "val", "test")
HELD_OUT = {"digits": 300, "mnist": 10_000, "cifar10": 5_000}  # images of the training part, for validation
DIGITS_TEST = 300
DIGITS_ORDER = 0  # seed: the set comes writer by writer
DIGITS = tuple("0123456789")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST = "test_batch.bin"
# file -> mirrors and hash. Of binarised MNIST no hash is published, so it is never fetched.
MNIST = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CIFAR_MIRROR = "https://www.cs.toronto.edu/~kriz/"
CIFAR_HASH = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
Pair = tuple[Tensor, Tensor]  # pixels and labels


@dataclass(frozen=True, eq=False)
class Images:
    """One part of a set.

    Args:
        pixels: whole numbers, uint8, of shape ``(N, C, H, W)``.
        labels: classes, int64, of shape ``(N,)``; None where the set has none.
    """

    pixels: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def sha256(self) -> str:
        """Hash of shape, pixels and labels."""
        digest = sha256(str(tuple(self.pixels.shape)).encode())
        for tensor in (self.pixels, self.labels):
            if tensor is not None:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageSet:
    """A set in three parts.

    Args:
        name: see ``NAMES``.
        num_values: values that a pixel can have.
        classes: names of the classes; empty where there are no labels.
        split: how the parts were made, in words.
        parts: ``train``, ``val``, ``test``.
    """

    name: str
    num_values: int
    classes: tuple[str, ...]
    split: str
    parts: Mapping[str, Images]

    @cached_property
    def sha256(self) -> str:
        """Hash of the three parts."""
        return sha256("".join(part.sha256 for part in self.parts.values()).encode()).hexdigest()


def fetch_images(name: str, root: str | None = None) -> None:
    """Download an image set unless its files are there; what can't be fetched is reported when it is opened.

    Args:
        name: see ``NAMES``.
        root: folder of the standard sets.

    Raises:
        OSError: it could not be downloaded or written.
    """
    folder = data_root(root) / name
    if name == "mnist":
        for file, digest in MNIST.items():
            if _found(folder, file.removesuffix(".gz")) is None:
                fetch([mirror + file for mirror in MNIST_MIRRORS], folder / file, f"sha256:{digest}")
    elif name == "cifar10" and any(_found_cifar(folder, file) is None for file in (*CIFAR_TRAIN, CIFAR_TEST)):
        archive = folder / CIFAR_ARCHIVE
        if not archive.exists():
            fetch([CIFAR_MIRROR + CIFAR_ARCHIVE], archive, f"sha256:{CIFAR_HASH}")
        _unpack_cifar(archive, (folder if os.access(folder, os.W_OK) else cache_folder() / "cifar10") / CIFAR_FOLDER)


def open_images(name: str, root: str | None = None, val_size: int | None = None) -> ImageSet:
    """Return an image set in its three parts.

    Args:
        name: digits (scikit-learn's, no file), mnist, binarized_mnist, cifar10.
        root: folder of the standard sets; default ``$WNSEQ_DATA``, else ``./data``.
        val_size: images held out of the training part for validation, the last of its files; None takes the usual
            number, 0 holds none out.

    Raises:
        ValueError: an unknown name, a damaged file, or more images held out than there are.
        FileNotFoundError: a file is missing, or scikit-learn, which holds that of digits.
    """
    if name not in NAMES:
        raise ValueError(f"There is no image set {name!r}. Known are {', '.join(NAMES)}.")
    folder = data_root(root) / name
    if name == "binarized_mnist":
        if val_size is not None:
            raise ValueError("binarized_mnist has a validation part of its own. Leave val_size out.")
        found = (_binarized(folder, f"binarized_mnist_{part}.amat") for part in ("train", "valid", "test"))
        parts = dict(zip(PARTS, found, strict=True))
        return ImageSet(name, 2, (), "as published (Larochelle)", parts)
    if name == "digits":
        train, test = _digits()
        how = f"order permuted (seed {DIGITS_ORDER}), the last {DIGITS_TEST} for test, {{}} before them for validation"
    elif name == "mnist":
        train, test = _mnist(folder, "train", 60_000), _mnist(folder, "t10k", 10_000)
        how = "test as published, validation: the last {} of the training files"
    else:
        train, test = _cifar(folder, CIFAR_TRAIN), _cifar(folder, (CIFAR_TEST,))
        how = "test as published, validation: the last {} of the training files"
    held = HELD_OUT[name] if val_size is None else val_size
    if not 0 <= held < len(train[0]):
        raise ValueError(
            f"val_size must be at least 0 and less than {len(train[0]):,}, the training images of {name}; got {held}"
        )
    cut = len(train[0]) - held
    parts = {
        "train": Images(*(each[:cut] for each in train)),
        "val": Images(*(each[cut:] for each in train)),
        "test": Images(*test),
    }
    num_values, classes = (17, DIGITS) if name == "digits" else (256, DIGITS if name == "mnist" else CIFAR)
    return ImageSet(name, num_values, classes, how.format(held), parts)


def _pair(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> Pair:
    return (torch.from_numpy(pixels.copy()), torch.from_numpy(labels.astype(np.int64)))


def _digits() -> tuple[Pair, Pair]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "The images of 'digits' are scikit-learn's, which is not installed: pip install 'wnseq[images]'"
        ) from error
    found = load_digits()
    order = np.random.default_rng(DIGITS_ORDER).permutation(len(found.target))
    pixels, labels = found.images[order, None].astype(np.uint8), found.target[order]
    return _pair(pixels[:-DIGITS_TEST], labels[:-DIGITS_TEST]), _pair(pixels[-DIGITS_TEST:], labels[-DIGITS_TEST:])


def _mnist(folder: Path, part: str, images: int) -> Pair:
    path = _existing(folder, f"{part}-images-idx3-ubyte")
    pixels = read_idx(path, 3)
    if pixels.shape != (images, 28, 28):
        raise ValueError(
            f"{path}: expected {images} x 28 x 28, got {' x '.join(map(str, pixels.shape))}. Get it again."
        )
    path = _existing(folder, f"{part}-labels-idx1-ubyte")
    labels = read_idx(path, 1)
    if labels.shape != (images,) or labels.max() > 9:
        raise ValueError(
            f"{path}: expected {images} labels from 0 to 9, got {len(labels)} up to {labels.max(initial=0)}. "
            "Get it again."
        )
    return _pair(pixels[:, None], labels)


def _binarized(folder: Path, file: str) -> Images:
    return Images(torch.from_numpy(read_amat(_existing(folder, file), 784).reshape(-1, 1, 28, 28)), None)


def _cifar(folder: Path, files: tuple[str, ...]) -> Pair:
    batches = []
    for file in files:
        path = _found_cifar(folder, file)
        if path is None:
            raise _missing(folder, f"{CIFAR_FOLDER}/{file}", "cifar10")
        batches.append(read_cifar(path, 10_000))
    pixels, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    return _pair(pixels, labels)


def _found(folder: Path, file: str) -> Path | None:
    """Return a file of that name, gzipped or not, if it is there."""
    return next((path for path in (folder / f"{file}.gz", folder / file) if path.exists()), None)


def _found_cifar(folder: Path, file: str) -> Path | None:
    places = (folder / CIFAR_FOLDER, folder, cache_folder() / "cifar10" / CIFAR_FOLDER)
    return next((place / file for place in places if (place / file).exists()), None)


def _existing(folder: Path, file: str) -> Path:
    path = _found(folder, file)
    if path is None:
        raise _missing(folder, f"{file}.gz", folder.name)
    return path


def _missing(folder: Path, file: str, name: str) -> FileNotFoundError:
    how = "it can't be fetched, as no hash of it is published" if name == "binarized_mnist" else "`fit` fetches it"
    return FileNotFoundError(
        f"Image set {name!r} is not complete: {folder / file} is missing. Put it there ({how}); --data.root or "
        "WNSEQ_DATA name the folder above."
    )


def _unpack_cifar(archive: Path, folder: Path) -> None:
    """Copy the six files out of the archive; names inside it never become paths."""
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for entry in opened:
                name = Path(entry.name).name
                source = opened.extractfile(entry) if name in (*CIFAR_TRAIN, CIFAR_TEST) else None
                if source is not None:
                    with atomic_write(folder / name) as target:
                        target.write(source.read())
    except (EOFError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{archive} is damaged ({error}). Delete it and run again.") from error
