"""Images of one set that are made to fit a model of another."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wnseq.data.images.datamodule import ImageDataModule
from wnseq.data.images.datasets import open_images, open_test
from wnseq.data.images.image_set import Images, ImageSet, match_images, with_channels
from wnseq.errors import ShapeError

COLOUR = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 3, 12, 8), dtype=np.uint8))


def make(pixels: Any = COLOUR, values: int = 256, classes: tuple[str, ...] = ("b", "a"), own: bool = True) -> ImageSet:
    part = Images(pixels, torch.arange(len(pixels)) % 2)
    return ImageSet("mine", values, classes, "as they come", {"train": part[:0], "val": part[:0], "test": part}, own)


def test_labels_are_numbered_by_the_names_of_the_other_classes() -> None:
    found = match_images(make(), 256, ("a", "b", "c"))
    assert found.classes == ("a", "b", "c") and found.parts["test"].labels.tolist()[:4] == [1, 0, 1, 0]
    assert match_images(make(), 256, ("b", "a")).parts["test"].labels.tolist()[:4] == [0, 1, 0, 1]
    assert match_images(make(classes=()), 256, ("c",)).classes == ()
    with pytest.raises(ValueError, match="mine has the class b, which the training images lack: a, c"):
        match_images(make(), 256, ("a", "c"))


def test_pixels_of_other_values_are_refused() -> None:
    assert match_images(make(values=2), 256, ()).num_values == 256  # bytes that are black
    for images, values in ((make(values=2, own=False), 256), (make(), 17)):
        with pytest.raises(ValueError, match=rf"the pixels of mine have \d+ values, .* the training images {values}"):
            match_images(images, values, ())


def test_colour_becomes_grey_as_pillow_makes_it() -> None:
    grey = with_channels(make(), 1).parts["test"].pixels
    for colour, found in zip(COLOUR[:5], grey[:5], strict=True):
        expected = np.asarray(Image.fromarray(colour.permute(1, 2, 0).numpy()).convert("L"))
        assert np.array_equal(found[0].numpy(), expected)
    again = with_channels(make(grey), 3).parts["test"].pixels
    assert again.shape == COLOUR.shape and torch.equal(again[:, :1], grey) and torch.equal(again[:, 2:], grey)
    assert with_channels(make(), None).parts["test"].pixels is with_channels(make(), 3).parts["test"].pixels


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    arrays = COLOUR.permute(0, 2, 3, 1).numpy()
    np.savez("mine.npz", x=arrays, y=np.array(["a", "b"] * 15))
    for number, array in enumerate(arrays[:4]):
        folder = tmp_path / "others" / "ba"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array[: 6 + number]).save(folder / f"{number}.png")
    return tmp_path


def test_another_test_part_is_read_whole_and_fits(files: Path) -> None:
    images = open_images("mine.npz", test="others", resize=6, channels=1)
    assert [len(images.parts[part]) for part in ("train", "val", "test")] == [27, 3, 4]
    assert {tuple(part.pixels.shape[1:]) for part in images.parts.values()} == {(1, 6, 6)}
    test = images.parts["test"]
    assert test.labels.tolist() == [0, 0, 1, 1] and test.files[0] == "others/a/1.png"
    assert "made grey, but others for test" in images.split
    for options, text in (
        ({}, r"images of 3 x 6 x 6 .channels, height, width., and mine.npz of 3 x 12 x 8. Use --data.channels and"),
        ({"resize": 6, "name": "digits"}, "the pixels of others have 256 values, those of the training images 17"),
    ):
        for path in Path("others").glob("*/[1-3].png"):
            path.unlink()
        Image.fromarray(COLOUR[0, 0, :6, :6].numpy()).convert("RGB").save("others/a/1.png")
        Image.fromarray(COLOUR[0, 0, :6, :6].numpy()).save("others/b/0.png")
        with pytest.raises(ValueError, match=text):
            open_images(**{"name": "mine.npz", "test": "others", **options})
    with pytest.raises(
        ValueError, match=r"resize is for images of your own; digits has one size, 8 x 8, got \d+. Use size"
    ):
        open_images("digits", resize=4)


def test_a_single_file_and_files_without_classes_have_no_labels(files: Path) -> None:
    single = open_test("others/a/1.png")
    assert len(single.parts["test"]) == 1 and single.classes == () and single.parts["test"].labels is None
    flat = open_test("others/a", resize=5)
    assert flat.parts["test"].pixels.shape == (2, 3, 5, 5) and flat.parts["test"].labels is None
    Image.fromarray(COLOUR[0, 0].numpy()).save("others/beside.png")
    with pytest.raises(ValueError, match="others has images beside folders of images"):
        open_test("others")


def test_after_an_evaluation_a_fit_has_the_images_of_the_options(files: Path) -> None:
    other = ImageDataModule("mine.npz", normalize="standard", resize=6, size=12)
    other.setup("test")
    data = ImageDataModule("mine.npz", resize=6, whiten=True)
    data.setup("test")
    images, preprocess, batch = data.images, data.preprocess, next(iter(data.test_dataloader()))
    for classes in (("a", "b", "c"), ("b", "a")):  # the second of a model that has no c
        data.match(256, classes, other.preprocess.state())
        assert data.image_shape[1:] == (12, 12) and data.images.classes == classes
    data.setup("fit")
    assert data.images is images and data.preprocess.is_same(preprocess)
    assert torch.equal(next(iter(data.test_dataloader())).images, batch.images)


def test_a_fit_after_a_test_of_images_alone_reads_the_others(files: Path) -> None:
    for stage, name in (("fit", "fit"), ("validate", "validate"), ("validate", None)):
        data = ImageDataModule("mine.npz", test="others", resize=6, batch_size=1)
        data.trainer = SimpleNamespace(state=SimpleNamespace(fn="test"), global_rank=0, world_size=1)
        data.setup("test")
        data.setup("predict")
        assert not len(data.images.parts["train"])
        data.trainer.state.fn = stage
        data.setup(name)
        assert len(data.images.parts["train"]) and len(data.val_dataloader())


def test_to_predict_images_the_training_ones_may_be_gone(tmp_path: Path) -> None:
    saved = {"dataset": str(tmp_path / "gone"), "val_size": 3, "size": 12}
    for command in ("test", "predict"):
        assert ImageDataModule.options_from_checkpoint(saved, ("test",), command) == {"size": 12}
        assert ImageDataModule.options_from_checkpoint(saved, (), command) == saved
    assert ImageDataModule.options_from_checkpoint(saved, ("test",), "fit") == saved
    for there in ("mnist", str(tmp_path)):
        known = {**saved, "dataset": there}
        assert ImageDataModule.options_from_checkpoint(known, ("test",), "test") == known


def test_an_evaluation_prepares_images_as_the_model_s_were(files: Path) -> None:
    trained = ImageDataModule("mine.npz", normalize="standard", whiten=True, resize=6, size=12)
    trained.setup("test")
    state = trained.preprocess.state()
    other = ImageDataModule("mine.npz", test="others", resize=6)
    other.setup("test")
    other.match(256, ("a", "b"), state)
    (batch,) = other.test_dataloader()
    torch.testing.assert_close(
        batch.images, trained.preprocess(other.images.parts["test"].pixels), rtol=1e-4, atol=1e-4
    )
    same = trained.preprocess
    trained.match(256, ("a", "b"), state)
    assert trained.preprocess is same  # and nothing is whitened again
    grey = ImageDataModule("mine.npz", channels=1)
    grey.setup("test")
    with pytest.raises(ValueError, match=r"mine.npz has 1 channels, the training images 3: --data.channels 3"):
        grey.match(256, ("a", "b"), state)
    smaller = ImageDataModule("mine.npz", resize=5)
    smaller.setup("test")
    with pytest.raises(ShapeError, match=r"training images' 108 entries, got images of 3 x 5 x 5: --data.resize 6"):
        smaller.match(256, ("a", "b"), state)


def test_a_checkpoint_keeps_the_options_with_paths_in_full(files: Path) -> None:
    data = ImageDataModule("mine.npz", test="others", resize=6, val_size=2)
    kept = data.checkpoint_options()
    assert kept == {
        "dataset": str(files / "mine.npz"), "test": str(files / "others"), "val_size": 2, "resize": 6,
        "normalize": "symmetric", "whiten": False, "fixed_order": False,
    }  # fmt: skip
    assert data.options_from_checkpoint(kept, (), "test") == kept
    own = data.options_from_checkpoint(kept, {"dataset"}, "test")
    assert own == {"resize": 6, "normalize": "symmetric", "whiten": False, "fixed_order": False}
    assert ImageDataModule("digits").checkpoint_options()["dataset"] == "digits"


@pytest.mark.parametrize("options", [{"channels": 2}, {"resize": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"ImageDataModule: {next(iter(options))} must be"):
        ImageDataModule(**options)
