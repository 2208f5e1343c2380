"""Image sets by name or path, each as a training, a validation and a test part. A new set is a row of ``SETS``."""

import difflib
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wnseq._files import atomic_write
from wnseq.data._download import fetch
from wnseq.data._files import cache_folder, data_root
from wnseq.data.images.formats import read_amat, read_cifar, read_idx
from wnseq.data.images.image_set import PARTS, Images, ImageSet, match_images, with_channels
from wnseq.data.images.own import OwnImages, read_own
from wnseq.errors import FileFormatError, reading

DIGITS_TEST = 300
DIGITS_SEED = 0  # of the order: the set comes writer by writer
OWN_SEED = 0  # of the order of a user's images
MNIST_HASHES = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST = "test_batch.bin"
CIFAR_BYTES = 10_000 * 3073  # of one file
CIFAR_MIRROR = "https://www.cs.toronto.edu/~kriz/"
CIFAR_HASH = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


def check_dataset(name: str) -> None:
    """Check that an image set is a known name or an existing path.

    Raises:
        ValueError: A misspelt name.
        FileNotFoundError: A path where nothing is.
    """
    if name in SETS or (name.strip() and Path(name).expanduser().exists()):
        return
    if "/" in name or os.sep in name or Path(name).suffix:
        raise FileNotFoundError(
            f"There are no images at {name!r} (looked in {Path.cwd()}). Check the path given as dataset."
        )
    guess = difflib.get_close_matches(name.lower(), SETS, n=1)
    hint = f" Did you mean {guess[0]!r}?" if guess else ""
    raise ValueError(
        f"There is no image set {name!r}.{hint} Known are {', '.join(SETS)}; dataset may also be the path of idx "
        "files, of an .npz file or of a folder of images, with a folder for each class or none."
    )


def fetch_images(name: str, root: str | None = None) -> None:
    """Download an image set unless its files are there; ``open_images`` reports what can't be downloaded.

    Raises:
        ValueError: An unknown name.
        OSError: It could not be downloaded or written.
    """
    check_dataset(name)
    if name in SETS and (download := SETS[name].fetch) is not None:
        download(data_root(root) / name)


def open_images(
    name: str,
    root: str | None = None,
    val_size: int | None = None,
    test: str | None = None,
    resize: int | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Return an image set in its three parts.

    Args:
        name: digits (scikit-learn's, no file), mnist, binarized_mnist or cifar10, or a path, as for
            :func:`~wnseq.data.images.own.read_own`.
        root: Folder of the standard sets; default ``$WNSEQ_DATA``, else ``./data``.
        val_size: Images held out of the training part for validation, the last of its files, of a path any; None for
            the usual number, a tenth of a path's, 0 for none.
        test: Path of the images that are the test part instead of the set's own.
        resize: Height and width that images of a path are scaled to.
        channels: 1 makes coloured images grey, 3 gives grey ones three equal channels; None leaves them.

    Raises:
        ValueError: An unknown name, a damaged file, more images held out than there are, or test images that differ in
            size, values or classes.
        FileNotFoundError: A file is missing, or scikit-learn, which holds that of digits.
    """
    check_dataset(name)
    images = _open_standard(name, root, val_size) if name in SETS else _open_own(name, val_size, resize, test is None)
    height, width = images.parts["test"].pixels.shape[2:]
    if name in SETS and test is None and resize not in (None, height):
        raise ValueError(
            f"resize is for images of your own; {name} has one size, {height} x {width}, got {resize}. Use size to "
            "enlarge it, and --data.resize null where a checkpoint was trained with it."
        )
    images = with_channels(images, channels)
    if test is None:
        return images
    other = with_channels(open_test(test, resize), channels)
    part = match_images(other, images.num_values, images.classes).parts["test"]
    expected, got = images.parts["train"].pixels.shape[1:], part.pixels.shape[1:]
    if expected != got:
        raise ValueError(
            f"{test} has images of {' x '.join(map(str, got))} (channels, height, width), and {name} of "
            f"{' x '.join(map(str, expected))}. Use --data.channels and --data.resize."
        )
    parts = {**images.parts, "test": part}
    return replace(images, split=f"{images.split}, but {test} for test", parts=parts)


def open_test(path: str, resize: int | None = None) -> ImageSet:
    """Return the images of a path as a test part, all of them unless they have one; training and validation are empty.

    Args:
        path: As for :func:`~wnseq.data.images.own.read_own`.
        resize: Height and width that they are scaled to.
    """
    own = read_own(Path(path).expanduser(), resize)
    test = _own_part(own, "test" if "test" in own.pixels else "train")
    parts = {"train": test[:0], "val": test[:0], "test": test}
    return ImageSet(path, _num_values([test]), own.classes, "all for test", parts, own=True)


def _open_standard(name: str, root: str | None, val_size: int | None) -> ImageSet:
    source = SETS[name]
    if source.val_size is None and val_size is not None:
        raise ValueError(f"{name} has a validation part of its own. Leave val_size out.")
    try:
        found = source.read(data_root(root) / name)
    except FileFormatError as error:
        if source.fetch is None:
            raise
        raise FileFormatError(f"{error} Delete the file; `fit` downloads it again.") from error
    if source.val_size is None:
        return ImageSet(name, source.num_values, source.classes, source.split, dict(zip(PARTS, found, strict=True)))
    train, test = found
    held = source.val_size if val_size is None else val_size
    parts = _hold_out(name, train, test, held)
    return ImageSet(name, source.num_values, source.classes, source.split.format(held), parts)


def _open_own(name: str, val_size: int | None, resize: int | None, needs_test: bool) -> ImageSet:
    """Return a user's images, permuted, since files are often sorted by class; a tenth is the test part if none is."""
    own = read_own(Path(name).expanduser(), resize)
    train, tenth = _own_part(own, "train"), len(own.pixels["train"]) // 10
    order = torch.from_numpy(np.random.default_rng(OWN_SEED).permutation(len(train)))
    files = None if train.files is None else tuple(train.files[place] for place in order.tolist())
    train = Images(train.pixels[order], None if train.labels is None else train.labels[order], files)
    split, test = f"order permuted (seed {OWN_SEED})", train[:0]
    if "test" in own.pixels:
        test, split = _own_part(own, "test"), f"{split}, test as in the files"
    elif tenth and needs_test:
        train, test, split = train[:-tenth], train[-tenth:], f"{split}, the last {tenth} for test"
    elif needs_test:
        raise ValueError(f"{name} has {len(train)} images, too few for training, validation and test parts.")
    held = tenth if val_size is None else val_size
    held_out = _hold_out(name, train, test, held)
    split = f"{split}, {held} of the others for validation"
    return ImageSet(name, _num_values([train, test]), own.classes, split, held_out, own=True)


def _own_part(own: OwnImages, part: str) -> Images:
    files = tuple(own.files[part]) if part in own.files else None
    return replace(_images(own.pixels[part], own.labels.get(part)), files=files)


def _num_values(parts: Sequence[Images]) -> int:
    return 2 if max(int(part.pixels.max()) for part in parts if len(part)) < 2 else 256


def _hold_out(name: str, train: Images, test: Images, held: int) -> dict[str, Images]:
    if not 0 <= held < len(train):
        raise ValueError(
            f"val_size must be at least 0 and less than {len(train):,}, the training images of {name}; got {held}"
        )
    cut = len(train) - held
    return {"train": train[:cut], "val": train[cut:], "test": test}


def _images(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[Any] | None) -> Images:
    numbers = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return Images(torch.from_numpy(np.ascontiguousarray(pixels).copy()), numbers)


def _existing(folder: Path, file: str) -> Path | None:
    """Return the path of a file, gzipped or not, if it exists."""
    return next((path for path in (folder / f"{file}.gz", folder / file) if path.exists()), None)


def _missing(name: str, path: Path, remedy: str = "`fit` fetches it") -> FileNotFoundError:
    return FileNotFoundError(
        f"Image set {name!r} is not complete: {path} is missing. Put it there ({remedy}); --data.root or "
        "WNSEQ_DATA name the folder above."
    )


# ---- digits


def _read_digits(folder: Path) -> list[Images]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "The images of 'digits' are scikit-learn's, which is not installed: pip install 'wnseq[images]'"
        ) from error
    found = load_digits()
    order = np.random.default_rng(DIGITS_SEED).permutation(len(found.target))
    images = _images(found.images[order, None].astype(np.uint8), found.target[order])
    return [images[:-DIGITS_TEST], images[-DIGITS_TEST:]]


# ---- MNIST


def _fetch_mnist(folder: Path) -> None:
    for file, digest in MNIST_HASHES.items():
        if _existing(folder, file.removesuffix(".gz")) is None:
            fetch([mirror + file for mirror in MNIST_MIRRORS], folder / file, f"sha256:{digest}")


def _read_mnist(folder: Path) -> list[Images]:
    return [_read_mnist_part(folder, "train", 60_000), _read_mnist_part(folder, "t10k", 10_000)]


def _read_mnist_part(folder: Path, part: str, images: int) -> Images:
    paths = []
    for file in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        if (path := _existing(folder, file)) is None:
            raise _missing("mnist", folder / f"{file}.gz")
        paths.append(path)
    pixels = read_idx(paths[0], 3)
    if pixels.shape != (images, 28, 28):
        raise ValueError(f"{paths[0]}: expected {images} x 28 x 28, got {' x '.join(map(str, pixels.shape))}.")
    labels = read_idx(paths[1], 1)
    if labels.shape != (images,) or labels.max() > 9:
        raise ValueError(
            f"{paths[1]}: expected {images} labels from 0 to 9, got {len(labels)} up to {labels.max(initial=0)}."
        )
    return _images(pixels[:, None], labels)


def _read_binarized_mnist(folder: Path) -> list[Images]:
    parts = []
    for part in ("train", "valid", "test"):
        file = f"binarized_mnist_{part}.amat"
        if (path := _existing(folder, file)) is None:
            raise _missing(
                "binarized_mnist", folder / f"{file}.gz", "it can't be fetched, as no hash of it is published"
            )
        parts.append(Images(torch.from_numpy(read_amat(path, 784).reshape(-1, 1, 28, 28)), None))
    return parts


# ---- CIFAR-10


def _fetch_cifar(folder: Path) -> None:
    if all(_existing_cifar(folder, file) for file in (*CIFAR_TRAIN, CIFAR_TEST)):
        return
    archive = folder / CIFAR_ARCHIVE
    if not archive.exists():
        fetch([CIFAR_MIRROR + CIFAR_ARCHIVE], archive, f"sha256:{CIFAR_HASH}")
    _unpack_cifar(archive, (folder if os.access(folder, os.W_OK) else cache_folder() / "cifar10") / CIFAR_FOLDER)


def _unpack_cifar(archive: Path, folder: Path) -> None:
    """Copy the six files out of the archive; names inside it never become paths."""
    with reading(archive, "a gzipped tar archive", "Delete it and run again."), tarfile.open(archive, "r:gz") as opened:
        for entry in opened:
            name = Path(entry.name).name
            source = opened.extractfile(entry) if entry.isfile() and name in (*CIFAR_TRAIN, CIFAR_TEST) else None
            if source is not None:
                if entry.size > CIFAR_BYTES:
                    raise FileFormatError(
                        f"{archive} has {entry.size:,} bytes in {entry.name}, a part of the set is less"
                    )
                with atomic_write(folder / name) as target:
                    target.write(source.read())


def _existing_cifar(folder: Path, file: str) -> Path | None:
    places = (folder / CIFAR_FOLDER, folder, cache_folder() / "cifar10" / CIFAR_FOLDER)
    return next((place / file for place in places if (place / file).exists()), None)


def _read_cifar(folder: Path) -> list[Images]:
    return [_read_cifar_part(folder, CIFAR_TRAIN), _read_cifar_part(folder, (CIFAR_TEST,))]


def _read_cifar_part(folder: Path, files: tuple[str, ...]) -> Images:
    batches = []
    for file in files:
        if (path := _existing_cifar(folder, file)) is None:
            raise _missing("cifar10", folder / CIFAR_FOLDER / file)
        batches.append(read_cifar(path, 10_000))
    pixels, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    return _images(pixels, labels)


# ---- the table


@dataclass(frozen=True)
class Source:
    """How an image set is downloaded, read and split.

    Args:
        fetch: Downloads into the set's folder what is missing there; None for a set that can't be downloaded.
        read: Reads from the folder the training and the test part; all three where ``val_size`` is None.
        num_values: Values a pixel can have.
        classes: Names of the classes; empty where there are no labels.
        val_size: Images of the training part held out for validation; None for a set with a validation part.
        split: How the parts are made, in words; ``{}`` is the number of images held out.
    """

    fetch: Callable[[Path], None] | None
    read: Callable[[Path], Sequence[Images]]
    num_values: int
    classes: tuple[str, ...]
    val_size: int | None
    split: str


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_SPLIT = f"order permuted (seed {DIGITS_SEED}), the last {DIGITS_TEST} for test, {{}} before them for validation"
HELD_OUT = "test as published, validation: the last {} of the training files"
# A new row also needs its name in ImageDataModule, for --help, and its provenance in data/README.md.
SETS: Mapping[str, Source] = {
    "digits": Source(None, _read_digits, 17, tuple("0123456789"), 300, DIGITS_SPLIT),
    "mnist": Source(_fetch_mnist, _read_mnist, 256, tuple("0123456789"), 10_000, HELD_OUT),
    "binarized_mnist": Source(None, _read_binarized_mnist, 2, (), None, "as published (Larochelle)"),
    "cifar10": Source(_fetch_cifar, _read_cifar, 256, CIFAR_CLASSES, 5_000, HELD_OUT),
}
