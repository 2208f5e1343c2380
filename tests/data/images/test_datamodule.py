from types import SimpleNamespace

import pytest
import torch

from wnseq.data.images.datamodule import ImageDataModule
from wnseq.data.images.transforms import Preprocess, translate


def ready(**options) -> ImageDataModule:
    data = ImageDataModule(**options)
    data.setup("fit")
    return data


def in_process(rank: int, processes: int, **options) -> ImageDataModule:
    data = ImageDataModule(**options)
    current = SimpleNamespace(current=SimpleNamespace(ready=0))
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=processes,
        training=True,
        num_training_batches=99,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=current)),
    )
    data.setup("fit")
    return data


def test_batches_hold_images_labels_and_pixels() -> None:
    data = ready(batch_size=50, size=32)
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 1197 // 50
    for images, labels, pixels in batches:
        assert images.shape == pixels.shape == (50, 1, 32, 32) and labels.shape == (50,)
        assert (images.dtype, labels.dtype, pixels.dtype) == (torch.float32, torch.int64, torch.uint8)
        torch.testing.assert_close(images, (pixels - 8.0) / 8.5)
        torch.testing.assert_close(data.preprocess(pixels[:, :, ::4, ::4]), images)


def test_an_epoch_shows_each_image_once_and_the_next_in_another_order() -> None:
    data = ready(batch_size=19)  # 63 · 19 = 1197
    first, second = (torch.cat([batch.pixels for batch in data.train_dataloader()]) for _ in range(2))
    assert not torch.equal(first, second)
    every = data.images.parts["train"].pixels.flatten(1)
    assert torch.equal(
        first.flatten(1).unique(dim=0, return_counts=True)[1], every.unique(dim=0, return_counts=True)[1]
    )
    same = ready(batch_size=19)
    assert torch.equal(torch.cat([batch.pixels for batch in same.train_dataloader()]), first)
    other = ready(batch_size=19, seed=1)
    assert not torch.equal(torch.cat([batch.pixels for batch in other.train_dataloader()]), first)


def test_evaluation_shows_every_image_in_order() -> None:
    data = ready(eval_batch_size=128)
    for part, loader in (
        ("val", data.val_dataloader()),
        ("test", data.test_dataloader()),
        ("test", data.predict_dataloader()),
    ):
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        assert torch.equal(torch.cat([batch.pixels for batch in batches]), data.images.parts[part].pixels)
        assert torch.equal(torch.cat([batch.labels for batch in batches]), data.images.parts[part].labels)


def test_normalisations() -> None:
    train = ready().images.parts["train"].pixels.double()
    images = {kind: ready(normalize=kind).preprocess(train.to(torch.uint8)).double() for kind in ("unit", "standard")}
    torch.testing.assert_close(images["unit"], train / 16)
    torch.testing.assert_close(images["standard"].mean(), torch.tensor(0.0).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(images["standard"].std(correction=0), torch.tensor(1.0).double())
    assert ready().preprocess == Preprocess(17, (8.0,), (8.5,))


def test_whitened_batches() -> None:
    data = ready(whiten=True, batch_size=19)
    images = torch.cat([batch.images for batch in data.train_dataloader()])
    plain = ready(batch_size=19).train_dataloader()
    before = torch.cat([batch.images for batch in plain])
    values, vectors = torch.linalg.eigh(torch.cov(before.flatten(1).double().T, correction=0))
    expected = vectors * (values / (values + 1e-5)) @ vectors.T
    torch.testing.assert_close(torch.cov(images.flatten(1).double().T, correction=0), expected, rtol=0, atol=1e-4)
    batch = next(iter(data.val_dataloader()))
    torch.testing.assert_close(data.preprocess(batch.pixels), batch.images)


@pytest.mark.parametrize("processes", [2, 5])
@pytest.mark.parametrize("options", [{}, {"whiten": True}], ids=str)
def test_processes_share_each_batch(processes: int, options: dict) -> None:
    options = {"eval_batch_size": 7, "shift": 2, "flip": True, **options}
    alone = ready(batch_size=20, **options)
    shares = [in_process(rank, processes, batch_size=20 // processes, **options) for rank in range(processes)]
    for part in ("train", "val", "test"):
        loaders = [getattr(data, f"{part}_dataloader")() for data in (alone, *shares)]
        assert len({len(loader) for loader in loaders}) == 1
        for whole, *parts in zip(*loaders, strict=True):
            for field in range(3):
                if part == "train":
                    assert torch.equal(torch.cat([share[field] for share in parts]), whole[field])
                for rank, share in enumerate(parts) if part != "train" else ():
                    assert torch.equal(share[field], whole[field][rank::processes])
    assert alone.state_dict()["batch_size"] == shares[0].resume_settings()["batch_size"] == 20


@pytest.mark.parametrize(("images", "eval_batch_size"), [(101, 100), (103, 50), (5, 1), (4, 100)])
def test_each_process_has_an_image_of_each_batch(images: int, eval_batch_size: int) -> None:
    options = {"val_size": images, "eval_batch_size": eval_batch_size}
    loaders = [in_process(rank, 4, **options).val_dataloader() for rank in range(4)]
    shares = [[len(batch.labels) for batch in loader] for loader in loaders]
    assert {len(loader) for loader in loaders} == {len(each) for each in shares} == {len(shares[0])}
    assert sum(map(sum, shares)) == images and min(map(min, shares)) > 0
    with pytest.raises(ValueError, match=f"the val part has {images} images, fewer than the 200 processes"):
        in_process(0, 200, batch_size=1, **options).val_dataloader()


def test_translated_images() -> None:
    image = torch.arange(1, 10).view(1, 1, 3, 3)
    moved = translate(image.expand(3, 1, 3, 3), torch.tensor([[1, 2, 0], [1, 1, 0]]), 1)
    assert torch.equal(moved[0], image[0])
    assert moved[1, 0].tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert moved[2, 0].tolist() == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]


def test_augmentation_moves_and_mirrors_training_images_alone() -> None:
    plain, flipped = (next(iter(ready(flip=flip).train_dataloader())) for flip in (False, True))
    same = (plain.pixels == flipped.pixels).flatten(1).all(1)
    mirrored = (plain.pixels.flip(3) == flipped.pixels).flatten(1).all(1)
    assert (same | mirrored).all() and 30 < mirrored.sum() < 70
    moved = next(iter(ready(shift=2).train_dataloader()))
    assert torch.equal(moved.labels, plain.labels) and not torch.equal(moved.pixels, plain.pixels)
    torch.testing.assert_close(moved.images, (moved.pixels - 8.0) / 8.5)
    both = (next(iter(ready(**options).val_dataloader())) for options in ({}, {"shift": 2, "flip": True}))
    assert torch.equal(*(batch.pixels for batch in both))


def test_it_says_what_it_is() -> None:
    said = ready(size=32, whiten=True, shift=2, flip=True, seed=5).describe()
    assert "images digits (sha256 " in said and "1,197 train, 300 val, 300 test; 1 x 8 x 8, 17 values" in said
    assert "split: order permuted (seed 0), the last 300 for test, 300 before them for validation;" in said
    assert "symmetric, ZCA-whitened, enlarged to 32 x 32, shifted by up to 2, flipped; order drawn by seed 5" in said


def test_it_says_which_images_it_has_and_of_which_shape() -> None:
    data = ready(size=32)
    assert data.provenance() == {"dataset": "digits", "dataset_sha256": data.images.sha256}
    assert data.image_shape == next(iter(data.val_dataloader())).images.shape[1:] == (1, 32, 32)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"batch_size": 1198}, "has 1,197 images, fewer than the 1198 of one batch"),
        ({"size": 7}, "size must be at least that of the images, 8 x 8, got 7"),
    ],
)
def test_arguments_that_cannot_be(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ready(**options)


def test_no_validation_without_held_out_images() -> None:
    with pytest.raises(ValueError, match=r"val_size 0\): train with --trainer.limit_val_batches 0"):
        ready(val_size=0).val_dataloader()


def test_before_setup_there_is_nothing() -> None:
    data = ImageDataModule()
    assert data.state_dict() == {}
    with pytest.raises(RuntimeError, match=r"no images before setup\(\)"):
        data.train_dataloader()
