"""Images for classifiers and for generative models: a standard set, prepared, in shuffled batches."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from wnseq.data._position import DataPosition, EpochLoader
from wnseq.data.images.datasets import PARTS, ImageSet, fetch_images, open_images
from wnseq.data.images.transforms import Preprocess, cached_whitening


class ImageBatch(NamedTuple):
    """One step's batch.

    Args:
        images: what a network sees: scaled, perhaps whitened.
        labels: classes; None where the set has none.
        pixels: the same images as whole numbers from 0 to the number of values less 1.

    Shape:
        - images: ``(N, C, H, W)``, float32
        - labels: ``(N,)``, int64
        - pixels: ``(N, C, H, W)``, uint8
    """

    images: Tensor
    labels: Tensor | None
    pixels: Tensor


class ImageDataModule(LightningDataModule):
    """A standard image set in batches, prepared and shuffled so that a run can be repeated and resumed to the bit.

    Several processes of a Trainer take ``batch_size`` images each of a batch that many times as large, so that it is
    the batch of a single process with that batch_size. Validation and test deal each batch out among the processes.

    Args:
        dataset: digits (scikit-learn's, 8 x 8, no download), mnist, binarized_mnist or cifar10.
        root: folder of the standard sets; default $WNSEQ_DATA, else ./data.
        batch_size: images a training step sees, in each process. The last, smaller batch of an epoch is left out; which
            images are in it changes by epoch.
        eval_batch_size: images at once in validation, test and prediction; changes nothing but the speed.
        size: height and width to enlarge images to: each pixel repeated as often as it fits, zeros around (after
            whitening: the mean). Default: as they are.
        normalize: symmetric: to about -1 to 1, (x - 127.5)/128 for 256 values; unit: to 0 to 1; standard: each channel
            to mean 0 and deviation 1 over the training part.
        whiten: whether to apply ZCA whitening, fitted on the training part before enlarging, regularised by 1e-5.
        shift: pixels by which training images are moved at random, at most, both ways, before enlarging.
        flip: whether training images are mirrored left to right, at random, half of them.
        val_size: images held out of the training part for validation, the last of its files; default 300 of digits,
            10000 of mnist, 5000 of cifar10. 0: none.
        seed: of order, shifts and flips; the split does not depend on it.

    Raises:
        ValueError: an argument that can't be, or a damaged file.
        FileNotFoundError: a file is missing and can't be fetched.

    Note:
        After ``setup``: ``images`` (the ``ImageSet``) and ``preprocess``. Batches are ``ImageBatch``.

    Example:
        >>> data = ImageDataModule(batch_size=4, size=32)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.images.shape, batch.pixels.dtype, data.images.num_values
        (torch.Size([4, 1, 32, 32]), torch.uint8, 17)
    """

    images: ImageSet
    preprocess: Preprocess

    def __init__(
        self,
        dataset: Literal["digits", "mnist", "binarized_mnist", "cifar10"] = "digits",
        root: str | None = None,
        batch_size: int = 100,
        eval_batch_size: int = 100,
        size: int | None = None,
        normalize: Literal["symmetric", "unit", "standard"] = "symmetric",
        whiten: bool = False,
        shift: int = 0,
        flip: bool = False,
        val_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("size", size, 1),
            ("shift", shift, 0),
            ("val_size", val_size, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"ImageDataModule: {name} must be at least {least}, got {value}.")
        self.dataset = dataset
        self.root = root
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.size = size
        self.normalize = normalize
        self.whiten = whiten
        self.shift = shift
        self.flip = flip
        self.val_size = val_size
        self.seed = seed
        self.position = DataPosition()
        self._white: dict[str, Tensor] = {}

    # ---- from files to tensors

    def prepare_data(self) -> None:
        """Download the set if it is not there yet."""
        fetch_images(self.dataset, self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read the set, and fit what prepares its images to the training part, or find that in the cache."""
        if stage == "fit":
            self.position = DataPosition()  # Lightning restores a resumed run's position after this
        if hasattr(self, "images"):
            return
        images = open_images(self.dataset, self.root, self.val_size)
        train = images.parts["train"]
        size = self.batch_size * self._rank_and_world_size[1]
        if stage in (None, "fit") and len(train) < size:
            raise ValueError(
                f"The training part of {self.dataset!r} has {len(train):,} images, fewer than the {size} of one batch "
                "(batch_size times the number of processes)."
            )
        self.preprocess = self._fit(images)
        self._white = {}
        if self.whiten:
            self._white = {part: self.preprocess.normalise(images.parts[part].pixels) for part in PARTS}
        self.preprocess.enlarge(train.pixels[:1])  # a size that is too small is refused here
        self.images = images

    def describe(self) -> str:
        """Return what the set is, in two lines for the screen."""
        images = self._after_setup()
        sizes = ", ".join(f"{len(images.parts[part]):,} {part}" for part in PARTS)
        shape = " x ".join(map(str, images.parts["train"].pixels.shape[1:]))
        made = [self.normalize, *(["ZCA-whitened"] if self.whiten else [])]
        made += [f"enlarged to {self.size} x {self.size}"] if self.size else []
        made += [f"shifted by up to {self.shift}"] if self.shift else []
        made += ["flipped"] if self.flip else []
        return (
            f"images {self.dataset} (sha256 {images.sha256[:12]}): {sizes}; {shape}, {images.num_values} values\n"
            f"split: {images.split}; {', '.join(made)}; order drawn by seed {self.seed}"
        )

    def _fit(self, images: ImageSet) -> Preprocess:
        train, top = images.parts["train"], images.num_values - 1
        channels = train.pixels.shape[1]
        if self.normalize == "standard":
            # exact, from whole numbers: the sums do not depend on the order of the images
            counts = torch.stack(
                [torch.bincount(train.pixels[:, c].flatten(), minlength=top + 1) for c in range(channels)]
            )
            shares, values = counts.double() / counts[0].sum(), torch.arange(top + 1, dtype=torch.float64)
            mean = shares @ values
            deviation = (shares @ values.square() - mean.square()).sqrt()
            offset, scale = tuple(mean.tolist()), tuple(deviation.tolist())
        elif self.normalize == "unit":
            offset, scale = (0.0,) * channels, (float(top),) * channels
        else:
            offset, scale = (top / 2,) * channels, ((top + 1) / 2,) * channels
        plain = Preprocess(images.num_values, offset, scale, self.size)
        if not self.whiten:
            return plain
        content = f"{train.sha256} {offset} {scale}"
        return Preprocess(
            images.num_values, offset, scale, self.size, cached_whitening(plain.normalise(train.pixels), content)
        )

    # ---- batches

    def train_dataloader(self) -> EpochLoader[ImageBatch]:
        """Return the training batches, each epoch in an order of its own."""
        number = len(self._after_setup().parts["train"])
        size = self.batch_size * self._rank_and_world_size[1]  # of all processes together
        length = number // size

        def batches(epoch: int, first: int) -> Iterator[ImageBatch]:
            order = np.random.default_rng((self.seed, epoch)).permutation(number)
            for position in range(first, length):
                own = slice(
                    self._rank_and_world_size[0] * self.batch_size, (self._rank_and_world_size[0] + 1) * self.batch_size
                )
                move = self._moves(size, own, epoch, position)
                yield self._batch("train", order[position * size : (position + 1) * size][own], move)

        return EpochLoader(self.position, length, batches, self.trainer)

    def val_dataloader(self) -> "EvaluationLoader":
        """Return the validation part.

        Raises:
            ValueError: no image was held out for it.
        """
        if not len(self._after_setup().parts["val"]):
            raise ValueError(
                "No image was held out for validation (val_size 0): train with --trainer.limit_val_batches 0, which "
                "tests the final weights."
            )
        return EvaluationLoader(self, "val")

    def test_dataloader(self) -> "EvaluationLoader":
        """Return the test part."""
        return EvaluationLoader(self, "test")

    def predict_dataloader(self) -> "EvaluationLoader":
        """Return the test part."""
        return EvaluationLoader(self, "test")

    def _batch(self, part: str, index: Any, move: Callable[[Tensor], Tensor] | None = None) -> ImageBatch:
        images = self.images.parts[part]
        chosen = torch.as_tensor(index)
        move = move or _still
        pixels = self.preprocess.enlarge(move(images.pixels[chosen]))
        labels = None if images.labels is None else images.labels[chosen]
        if self.whiten:
            return ImageBatch(self.preprocess.enlarge(move(self._white[part][chosen])), labels, pixels)
        return ImageBatch(self.preprocess.normalise(pixels), labels, pixels)

    def _moves(self, number: int, own: slice, epoch: int, position: int) -> Callable[[Tensor], Tensor]:
        """Draw the shifts and flips of one batch; what is returned moves the images of one process."""
        random = np.random.default_rng((self.seed, epoch, position))
        by = torch.from_numpy(random.integers(0, 2 * self.shift + 1, (2, number))[:, own])
        mirrored = torch.from_numpy(random.random(number)[own] < 0.5)

        def move(images: Tensor) -> Tensor:
            if self.shift:
                images = shifted(images, by, self.shift)
            return torch.where(mirrored[:, None, None, None], images.flip(3), images) if self.flip else images

        return move

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        """Rank of this process, and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    # ---- where training is

    def state_dict(self) -> dict[str, Any]:
        """Return epoch and position of the next training batch, and what they count; before ``setup`` nothing."""
        return {**self.position.trained(self.trainer), **self.resume_settings()} if hasattr(self, "images") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a place saved by ``state_dict``.

        Raises:
            ValueError: the batches are other ones now, so that a position means another place.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        for name, now in self.resume_settings().items():
            if state_dict.get(name, now) != now:
                raise ValueError(
                    f"The run to be resumed had {name} {state_dict[name]}, this one has {now}: it can't go on with the "
                    "next batch. Give the same, or start a new run from the checkpoint's weights."
                )
        self.position.epoch, self.position.position = state_dict["epoch"], state_dict["position"]

    def resume_settings(self) -> dict[str, Any]:
        """Return what must be as before for a run to be resumed at its position."""
        options = ("size", "normalize", "whiten", "shift", "flip", "seed")
        batch = self.batch_size * self._rank_and_world_size[1]
        return {
            "images_sha256": self._after_setup().sha256,
            "batch_size": batch,
            **{name: getattr(self, name) for name in options},
        }

    def _after_setup(self) -> ImageSet:
        if not hasattr(self, "images"):
            raise RuntimeError("ImageDataModule: there are no images before setup(); call it, or let a Trainer do so.")
        return self.images


class EvaluationLoader:
    """One part of the set in its own order, each process with its shard of each batch.

    Args:
        data: the data module, after ``setup``.
        part: val or test.
    """

    def __init__(self, data: ImageDataModule, part: str) -> None:
        self.data = data
        self.part = part
        self.number = len(data._after_setup().parts[part])
        self.length = -(-self.number // data.eval_batch_size)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[ImageBatch]:
        size = self.data.eval_batch_size
        rank, world_size = self.data._rank_and_world_size
        for first in range(0, self.number, size):
            yield self.data._batch(self.part, range(first, min(first + size, self.number))[rank::world_size])


def _still(images: Tensor) -> Tensor:
    return images


def shifted(images: Tensor, by: Tensor, most: int) -> Tensor:
    """Move each image by a number of pixels of its own, zeros moving in.

    Args:
        images: of shape ``(N, C, H, W)``.
        by: rows and columns, of shape ``(2, N)``, from 0 to ``2 * most``; ``most`` leaves an image where it is.
        most: largest distance.
    """
    number, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4)
    rows = by[0, :, None] + torch.arange(height)  # (N, H)
    columns = by[1, :, None] + torch.arange(width)  # (N, W)
    which = torch.arange(number)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (N, H, W, C) → (N, C, H, W)
