"""Images of a user's own: idx files, an ``.npz`` file, an image file, or a folder of image files."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wnseq.data.images.formats import Bytes, read_idx
from wnseq.errors import FileFormatError, reading

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
IDX = re.compile(r"idx3-ubyte(\.gz)?$")
TEST = ("test", "t10k")
MOST = 4 << 30  # bytes of pixels, which are held in memory


@dataclass(frozen=True)
class OwnImages:
    """Images as they are in files.

    Args:
        pixels: ``train`` and perhaps ``test`` → bytes, ``(N, C, H, W)``.
        labels: The same parts → the number of each image's class; empty without labels.
        classes: Names of the classes.
        files: The same parts → the file of each image; empty where one file has them all.
    """

    pixels: Mapping[str, Bytes]
    labels: Mapping[str, npt.NDArray[np.int64]]
    classes: tuple[str, ...]
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_own(path: Path, resize: int | None = None) -> OwnImages:
    """Read a user's images.

    Args:
        path: An idx file of images, whose labels are beside it (``…-labels-idx1-ubyte`` for ``…-images-idx3-ubyte``),
            and, if its name says train, a test pair; or a folder with such files. An ``.npz`` file with ``x`` and
            perhaps ``y``, or ``x_train``, ``y_train``, ``x_test`` and ``y_test``. An image file, a folder of them, or a
            folder with such a folder for each class; also folders train and test that have these.
        resize: Height and width that images are scaled to, cut to a square around their middle; None leaves them.

    Raises:
        FileNotFoundError: There are no images.
        ValueError: A file is damaged, or images and labels do not fit.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if IDX.search(file.name) and not file.name.startswith("."))
        train = next((file for file in files if not any(word in file.name for word in TEST)), None)
        return _folder(path, resize) if train is None else _idx(train, resize)
    if not path.is_file():
        raise FileNotFoundError(f"There are no images at {path} (looked in {Path.cwd()}). Check the path.")
    if path.suffix.lower() in ENDINGS:
        return OwnImages({"train": _read_files([path], resize)}, {}, (), {"train": [str(path)]})
    return _idx(path, resize) if IDX.search(path.name) else _npz(path, resize)


def _idx(path: Path, resize: int | None) -> OwnImages:
    pairs = {"train": path}
    for word in TEST:
        other = _find(path.with_name(path.name.replace("train", word)))
        if other is not None and other != path:
            pairs["test"] = other
    pixels, labels = {}, {}
    for part, file in pairs.items():
        pixels[part] = _resized(read_idx(file, 3)[:, None], resize)
        beside = _find(file.with_name(file.name.replace("images", "labels").replace("idx3", "idx1")))
        if beside is not None and beside != file:
            labels[part] = read_idx(beside, 1)
    return _checked(path, pixels, labels)


def _find(path: Path) -> Path | None:
    """Return the file of a name, gzipped or not; None if there is neither."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    return next((each for each in (path, plain, path.with_name(f"{plain.name}.gz")) if each.is_file()), None)


def _npz(path: Path, resize: int | None) -> OwnImages:
    expected = "an .npz file with arrays x and y, or x_train, y_train, x_test and y_test"
    with reading(path, expected), path.open("rb") as file:  # NumPy leaves a damaged file open
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise FileFormatError(f"{path} is a single array. Expected {expected}.")
        with loaded as opened:
            members = opened.zip.infolist() if opened.zip else []
            if (size := sum(member.file_size for member in members)) > MOST:
                raise FileFormatError(f"{path} has arrays of {size:,} bytes, more than the {MOST:,} that are read.")
            arrays = dict(opened)
    names = {"train": ("x", "y")} if "x" in arrays else {}
    names = names or {part: (f"x_{part}", f"y_{part}") for part in ("train", "test") if f"x_{part}" in arrays}
    if "train" not in names:
        raise FileFormatError(f"{path} has the arrays {', '.join(arrays) or 'none'}. Expected {expected}.")
    pixels = {part: _resized(_channels_first(path, x, arrays[x]), resize) for part, (x, _) in names.items()}
    labels = {part: arrays[y] for part, (_, y) in names.items() if y in arrays}
    return _checked(path, pixels, labels)


def _channels_first(path: Path, name: str, array: npt.NDArray[Any]) -> Bytes:
    """Return images as bytes, ``(N, C, H, W)``, from ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``."""
    if array.dtype.kind not in "uib" or (array.size and (array.min() < 0 or array.max() > 255)):
        raise FileFormatError(
            f"{path}: {name} has the dtype {array.dtype}. Expected whole numbers from 0 to 255 (uint8)."
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise FileFormatError(
            f"{path}: {name} has the shape {array.shape}. Expected (images, height, width), with 1 or 3 channels "
            "before or after the last two."
        )
    return array.astype(np.uint8)


def _folder(folder: Path, resize: int | None) -> OwnImages:
    parts = {part: folder / part for part in ("train", "test") if (folder / part).is_dir()}
    beside = [each for each in _visible(folder) if each not in parts.values()] if "train" in parts else []
    if others := [each for each in beside if _has_images(each)]:
        raise FileFormatError(
            f"{folder} has images in {others[0].name} beside the folder train, which is the training part: move them "
            "into train or test, or out of both. The last images of train are held out for validation (val_size). If "
            "train is a class, give its folder another name."
        )
    pixels, labels, names = {}, {}, {}
    for part, top in (parts if "train" in parts else {"train": folder}).items():
        files = [file for each in _visible(top) for file in (_visible(each) if each.is_dir() else [each])]
        files = [file for file in files if file.suffix.lower() in ENDINGS]
        classes = [file.parent.name for file in files if file.parent != top]
        if not files:
            raise FileNotFoundError(
                f"{top} has no images: expected files {', '.join(ENDINGS)}, in a folder for each class or in none, idx "
                "files (…-images-idx3-ubyte), or the path of an .npz file."
            )
        if len(classes) not in (0, len(files)):
            raise FileFormatError(f"{top} has images beside folders of images. Move them into a folder, or out of all.")
        pixels[part], names[part] = _read_files(files, resize), list(map(str, files))
        if classes:
            labels[part] = np.array(classes)
    return replace(_checked(folder, pixels, labels), files=names)


def _read_files(files: Sequence[Path], resize: int | None) -> Bytes:
    """Return the images of files, ``(N, C, H, W)``: grey if all are."""
    images: list[Bytes] = []
    for file in files:
        images.append(_read_file(file, resize))
        _check_size(files[0], images[0], file, images[-1], len(files))
    wide = max(image.shape[2] for image in images)  # grey ones among coloured
    stacked = np.stack([np.broadcast_to(image, (*image.shape[:2], wide)) for image in images])
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def _read_file(file: Path, resize: int | None) -> Bytes:
    """Return one image, ``(H, W, C)``, turned as its camera was held."""
    image, ops = _pillow()
    with reading(file, "an image"), image.open(file) as opened:
        if opened.mode.startswith(("I", "F")):
            raise FileFormatError(f"{file} has more than 8 bits a pixel (mode {opened.mode}). Convert it first.")
        found = ops.exif_transpose(opened).convert("L" if opened.mode in ("1", "L", "LA") else "RGB")
    if resize is not None:
        found = ops.fit(found, (resize, resize))
    return np.asarray(found, np.uint8).reshape(*found.size[::-1], -1)


def _resized(pixels: Bytes, resize: int | None) -> Bytes:
    """Return images, ``(N, C, H, W)``, scaled as those of files are."""
    if resize is None or not pixels.size:
        return pixels
    image, ops = _pillow()
    scaled = np.empty((*pixels.shape[:2], resize, resize), np.uint8)
    for number, channel in np.ndindex(*pixels.shape[:2]):
        scaled[number, channel] = ops.fit(image.fromarray(pixels[number, channel]), (resize, resize))
    return scaled


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "Image files are read and scaled by Pillow, which is not installed: pip install 'wnseq[images]'"
        ) from error
    return Image, ImageOps


def _has_images(path: Path) -> bool:
    """Return True if a path is an image file, or a folder that has one somewhere inside."""
    return path.suffix.lower() in ENDINGS or (path.is_dir() and any(map(_has_images, _visible(path))))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _check_size(first: Path, image: Bytes, file: Path, other: Bytes, number: int) -> None:
    if image.shape[:2] != other.shape[:2]:
        raise FileFormatError(
            f"{file} has {other.shape[1]} x {other.shape[0]} pixels, and {first} {image.shape[1]} x {image.shape[0]}. "
            f"All images must have one size: --data.resize {min(image.shape[:2])} scales them and cuts them square."
        )
    if image.size * number > MOST:
        raise FileFormatError(
            f"{first.parent}: {number:,} images of {image.size:,} bytes are more than fit into memory: --data.resize 64"
        )


def _checked(path: Path, pixels: Mapping[str, Bytes], labels: Mapping[str, npt.NDArray[Any]]) -> OwnImages:
    """Check that images and labels fit, and number the classes in their order."""
    shapes = {part: images.shape[1:] for part, images in pixels.items()}
    if len(set(shapes.values())) > 1:
        raise FileFormatError(f"{path}: images of train and test differ, {shapes['train']} and {shapes['test']}.")
    for part, images in pixels.items():
        if not images.size:
            raise FileFormatError(f"{path} has no images: the {part} part has the shape {images.shape}.")
        if part in labels and (labels[part].ndim != 1 or len(labels[part]) != len(images)):
            raise FileFormatError(
                f"{path}: the {part} part has {len(images):,} images and labels of the shape {labels[part].shape}. "
                "Expected one label for each image."
            )
    if not labels:
        return OwnImages(pixels, {}, ())
    if missing := [part for part in pixels if part not in labels]:
        raise FileFormatError(f"{path}: the {missing[0]} part has no labels, and another has.")
    if labels["train"].dtype.kind not in "iuUb":
        raise FileFormatError(
            f"{path}: labels have the dtype {labels['train'].dtype}. Expected whole numbers or names."
        )
    classes = np.unique(labels["train"])
    numbers = {}
    for part, given in labels.items():
        if strange := sorted(Counter(given.tolist()).keys() - set(classes.tolist())):
            raise FileFormatError(f"{path}: the test part has the class {strange[0]}, which the training part lacks.")
        numbers[part] = np.searchsorted(classes, given).astype(np.int64)
    return OwnImages(pixels, numbers, tuple(map(str, classes.tolist())))
