import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wnseq.data import _files
from wnseq.data.images.datamodule import ImageDataModule
from wnseq.data.images.datasets import open_images
from wnseq.data.images.own import read_own

EXAMPLES = Path(__file__).parents[3] / "data" / "examples"
IMAGES = np.arange(6 * 32 * 20, dtype=np.uint32).reshape(6, 32, 20).astype(np.uint8)
LABELS = np.array([1, 26, 3, 3, 1, 26], np.uint8)  # as EMNIST's letters, from 1 on


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def pngs(folder: Path, *arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{number}.png")
    return folder


# ---- the examples


@pytest.mark.parametrize("name", ["idx", "idx/shapes-images-idx3-ubyte.gz", "images.npz"])
def test_the_examples_are_the_same_images(name: str) -> None:
    own = read_own(EXAMPLES / name)
    assert own.pixels["train"].shape == (48, 1, 8, 8)
    assert own.classes == ("0", "1", "2", "3")
    folder = read_own(EXAMPLES / "images")
    assert folder.classes == ("bar", "cross", "frame", "stripe")
    assert folder.pixels["train"].shape == (20, 1, 8, 8)
    for label in range(4):
        small, large = (each.pixels["train"][each.labels["train"] == label] for each in (folder, own))
        assert np.array_equal(small, large[:5])


@pytest.mark.parametrize("name", ["idx", "images.npz", "images"])
def test_the_examples_fill_batches(name: str) -> None:
    data = ImageDataModule(str(EXAMPLES / name), batch_size=4)
    data.prepare_data()
    data.setup("fit")
    images, labels, pixels = next(iter(data.train_dataloader()))
    assert images.shape == pixels.shape == (4, 1, 8, 8)
    assert labels is not None
    assert float(images.min()) > -1.01 and float(images.max()) < 1.01
    assert sorted({int(label) for batch in data.train_dataloader() for label in batch.labels}) == [0, 1, 2, 3]
    assert "order permuted (seed 0), the last" in data.describe()
    whole = sum(len(part) for part in data.images.parts.values())
    assert [len(data.images.parts[part]) for part in ("train", "val", "test")] == [whole - 2 * (whole // 10)] + [
        whole // 10
    ] * 2


@pytest.mark.parametrize("name", ["idx3-ubyte.gz", "images.npz"])
def test_a_file_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(_files, "MOST_UNPACKED", 1000)
    monkeypatch.setattr("wnseq.data.images.own.MOST", 100_000)
    many = np.zeros((100, 100, 100), np.uint8)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(idx(many)))
    else:
        np.savez_compressed(tmp_path / name, x=np.zeros((2, 4, 4), np.uint8), other=many)
    with pytest.raises(ValueError, match=r"unpacks to more than|arrays of 1,000,\d+ bytes, more than the 100,000 that"):
        read_own(tmp_path / name)


# ---- idx


@pytest.mark.parametrize(("ending", "other"), [("", ""), (".gz", ".gz"), ("", ".gz"), (".gz", "")])
@pytest.mark.parametrize("test", ["test", "t10k", None])
def test_idx_files_of_any_size_and_classes(tmp_path: Path, ending: str, other: str, test: str | None) -> None:
    def write(path: str, content: bytes) -> None:
        Path(path).write_bytes(gzip.compress(content) if path.endswith(".gz") else content)

    for part, count, mark in (("train", 6, ending), *([(test, 4, other)] if test else [])):
        stem = tmp_path / f"emnist-letters-{part}"
        write(f"{stem}-images-idx3-ubyte{mark}", idx(IMAGES[:count]))
        write(f"{stem}-labels-idx1-ubyte{other}", idx(LABELS[:count]))
    for path in (tmp_path, tmp_path / f"emnist-letters-train-images-idx3-ubyte{ending}"):
        own = read_own(path)
        assert own.classes == ("1", "3", "26")
        assert np.array_equal(own.pixels["train"][:, 0], IMAGES)
        assert own.labels["train"].tolist() == [0, 2, 1, 1, 0, 2]
        assert (own.labels["test"].tolist() == [0, 2, 1, 1]) if test else "test" not in own.pixels


def test_images_without_labels_are_images(tmp_path: Path) -> None:
    (tmp_path / "a-images-idx3-ubyte").write_bytes(idx(np.tile(IMAGES, (4, 1, 1))))
    found = open_images(str(tmp_path))
    assert found.classes == () and found.parts["train"].labels is None
    assert [len(found.parts[part]) for part in ("train", "val", "test")] == [20, 2, 2]


def test_zeros_and_ones_have_two_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).integers(0, 2, (30, 5, 5)))
    assert open_images(str(tmp_path / "a.npz")).num_values == 2
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).integers(0, 3, (30, 5, 5)))
    assert open_images(str(tmp_path / "a.npz")).num_values == 256


# ---- npz


@pytest.mark.parametrize("shape", [(6, 32, 20), (6, 32, 20, 1), (6, 1, 32, 20)])
def test_npz_files_with_channels_anywhere(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "a.npz", x=IMAGES.reshape(shape), y=np.array(["b", "a", "b", "b", "a", "a"]))
    own = read_own(tmp_path / "a.npz")
    assert np.array_equal(own.pixels["train"][:, 0], IMAGES)
    assert own.classes == ("a", "b")
    assert own.labels["train"].tolist() == [1, 0, 1, 1, 0, 0]
    np.savez(tmp_path / "b.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:1], y_test=LABELS[:1])
    assert read_own(tmp_path / "b.npz").labels["test"].tolist() == [0]


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"images": IMAGES}, "a.npz has the arrays images. Expected an .npz file with arrays x and y, or x_train"),
        ({"x": IMAGES / 255}, "x has the dtype float64. Expected whole numbers from 0 to 255"),
        ({"x": IMAGES.astype(np.int64) - 1}, "x has the dtype int64. Expected whole numbers from 0 to 255"),
        ({"x": IMAGES[0]}, "x has the shape (32, 20). Expected (images, height, width)"),
        ({"x": IMAGES.reshape(6, 4, 8, 20)}, "x has the shape (6, 4, 8, 20)"),
        ({"x": IMAGES[:0]}, "has no images: the train part has the shape (0, 1, 32, 20)"),
        ({"x": IMAGES, "y": LABELS[:5]}, "the train part has 6 images and labels of the shape (5,)"),
        ({"x": IMAGES, "y": LABELS / 2}, "labels have the dtype float64. Expected whole numbers or names"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "the test part has no labels"),
        (
            {"x_train": IMAGES[:2], "y_train": LABELS[:2], "x_test": IMAGES, "y_test": LABELS},
            "the test part has the class 3, which the training part lacks",
        ),
        ({"x_train": IMAGES, "x_test": IMAGES[:, 1:]}, "images of train and test differ, (1, 32, 20) and (1, 31, 20)"),
        ({"x": np.array([{}], object)}, "can't be read as an .npz file with arrays x and y"),
    ],
)
def test_npz_files_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], text: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        read_own(tmp_path / "a.npz")
    assert str(tmp_path / "a.npz") in str(caught.value)


def test_a_single_array_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(ValueError, match=r"a\.npy is a single array\. Expected an \.npz file"):
        read_own(tmp_path / "a.npy")


# ---- folders


def test_a_folder_of_colour_and_grey(tmp_path: Path) -> None:
    colour = np.stack([IMAGES[0], IMAGES[1], IMAGES[2]], 2)
    pngs(tmp_path / "cat", IMAGES[0], colour)
    pngs(tmp_path / "dog", IMAGES[1])
    (tmp_path / "cat" / "._0.png").write_bytes(b"hidden")
    (tmp_path / "cat" / "notes.txt").write_text("left")
    own = read_own(tmp_path)
    assert own.classes == ("cat", "dog")
    assert own.pixels["train"].shape == (3, 3, 32, 20)
    assert np.array_equal(own.pixels["train"][0], np.stack([IMAGES[0]] * 3))
    assert np.array_equal(own.pixels["train"][1], colour.transpose(2, 0, 1))


def test_a_folder_of_train_and_test(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            pngs(tmp_path / part / name, IMAGES[0])
    own = read_own(tmp_path)
    assert own.classes == ("a", "b")
    assert {part: labels.tolist() for part, labels in own.labels.items()} == {"train": [0, 1], "test": [0, 1]}


@pytest.mark.parametrize("other", ["plane", "val"])
def test_images_beside_the_training_part_are_not_left_out(tmp_path: Path, other: str) -> None:
    pngs(tmp_path / "train" / "a", IMAGES[0])
    (tmp_path / other / "notes").mkdir(parents=True)
    assert read_own(tmp_path).classes == ("a",)
    pngs(tmp_path / other / "a", IMAGES[1])
    with pytest.raises(ValueError, match=rf"has images in {other} beside the folder train, which is the training part"):
        read_own(tmp_path)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no images: expected files \.png.* for each class or in none"):
        read_own(tmp_path)
    pngs(tmp_path / "a", IMAGES[0], IMAGES[0, 1:])
    with pytest.raises(ValueError, match=r"1\.png has 20 x 31 pixels, and .*0\.png 20 x 32.*All images must have one"):
        read_own(tmp_path)
    (tmp_path / "a" / "1.png").write_bytes((tmp_path / "a" / "0.png").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"1\.png can't be read as an image"):
        read_own(tmp_path)
    pngs(tmp_path / "a", IMAGES[0], IMAGES[0].astype(np.uint16) * 256)
    with pytest.raises(ValueError, match=r"1\.png has more than 8 bits a pixel"):
        read_own(tmp_path)


# ---- names


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        (
            "minst",
            ValueError,
            r"no image set 'minst'\. Did you mean 'mnist'\? Known are digits, .*dataset may also be the path",
        ),
        ("", ValueError, "no image set ''"),
        ("my/images", FileNotFoundError, "There are no images at 'my/images'"),
        ("images.npz", FileNotFoundError, r"There are no images at 'images\.npz'"),
    ],
)
def test_names_that_are_none_are_refused_at_once(name: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ImageDataModule(name)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=IMAGES)
    with pytest.raises(ValueError, match="has 6 images, too few for training, validation and test parts"):
        open_images(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", x=np.tile(IMAGES, (4, 1, 1)))
    with pytest.raises(ValueError, match=r"val_size must be at least 0 and less than 22, the training images"):
        open_images(str(tmp_path / "a.npz"), val_size=22)
