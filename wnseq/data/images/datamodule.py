"""Images for classifiers and generative models: a standard set, prepared, in shuffled batches."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from wnseq.data._position import DataPosition, EpochLoader, check_evaluation, rank_and_world_size, settings_of_part
from wnseq.data.images.datasets import SETS, check_dataset, fetch_images, open_images, open_test
from wnseq.data.images.image_set import PARTS, ImageSet, match_images, with_channels
from wnseq.data.images.transforms import Preprocess, fit_preprocess, translate

Normalize = Literal["symmetric", "unit", "standard"]
# options that a checkpoint keeps
KEPT = ("dataset", "test", "val_size", "root", "size", "resize", "channels", "normalize", "whiten", "fixed_order")
# that must be as before in a resumed run
RESUMED = ("size", "resize", "channels", "normalize", "whiten", "shift", "flip", "seed", "fixed_order")


class ImageBatch(NamedTuple):
    """One step's batch.

    Args:
        images: The network's input: scaled, perhaps whitened.
        labels: Classes; None where the set has none.
        pixels: The same images as whole numbers from 0 to ``num_values`` − 1.

    Shape:
        - images: ``(N, C, H, W)``, float32
        - labels: ``(N,)``, int64
        - pixels: ``(N, C, H, W)``, uint8
    """

    images: Tensor
    labels: Tensor | None
    pixels: Tensor


class ImageDataModule(LightningDataModule):
    """An image set in batches that repeat and resume to the bit.

    With several processes each reads ``batch_size`` images of a batch that many times as large; in validation and test
    they divide each batch among themselves.

    Args:
        dataset: digits (scikit-learn's, 8 x 8, no download), mnist, binarized_mnist or cifar10; or the path of your
            own: idx files of any size and number of classes, an .npz file with x and y, or a folder of images, with a
            folder for each class or none.
        test: Path of your own images for the test part, all of them; also a single image. Default: that of dataset.
        root: Folder of the standard sets; default $WNSEQ_DATA, else ./data.
        batch_size: Images per training step and process. An epoch's last, smaller batch is dropped; which images are
            in it changes by epoch.
        eval_batch_size: Images at once in validation, test and prediction; changes the speed alone.
        size: Height and width to enlarge images to: each pixel repeated as often as it fits, zeros around (after
            whitening: the mean). Default: as they are.
        resize: Height and width that your own images are scaled to, cut to a square around their middle.
        channels: 1 makes coloured images grey; 3 gives grey ones three equal channels. Default: as they are.
        normalize: symmetric: to about -1 to 1, (x - 127.5)/128 for 256 values; unit: to 0 to 1; standard: each channel
            to mean 0 and standard deviation 1 over the training part. An evaluation has the model's.
        whiten: Whether to apply ZCA whitening, fitted on the training part before enlarging, regularised by 1e-5.
        shift: Pixels by which training images are moved at random, at most, both ways, before enlarging.
        flip: Whether to mirror a random half of the training images left to right.
        val_size: Images held out of the training part for validation, the last of its files; default 300 of digits,
            10000 of mnist, 5000 of cifar10, a tenth of your own. 0: none.
        seed: Seed of order, shifts and flips; the split does not depend on it.
        fixed_order: Whether every epoch has the order of the first.

    Raises:
        ValueError: An argument is out of range, or a file is damaged.
        FileNotFoundError: A file is missing and can't be downloaded.

    Note:
        ``setup`` sets ``images`` (an ``ImageSet``) and ``preprocess``. Batches are ``ImageBatch``.

    Example:
        >>> data = ImageDataModule(batch_size=4, size=32)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.images.shape, batch.pixels.dtype, data.images.num_values
        (torch.Size([4, 1, 32, 32]), torch.uint8, 17)
    """

    images: ImageSet
    preprocess: Preprocess
    _own: tuple[ImageSet, Preprocess]  # those of the options, whatever model an evaluation has made them fit

    def __init__(
        self,
        dataset: str = "digits",
        root: str | None = None,
        batch_size: int = 100,
        eval_batch_size: int = 100,
        size: int | None = None,
        normalize: Normalize = "symmetric",
        whiten: bool = False,
        shift: int = 0,
        flip: bool = False,
        val_size: int | None = None,
        seed: int = 0,
        test: str | None = None,
        resize: int | None = None,
        channels: int | None = None,
        fixed_order: bool = False,
    ) -> None:
        super().__init__()
        for name, given, choices in (
            ("channels", channels, (None, 1, 3)),
            ("normalize", normalize, get_args(Normalize)),
            ("whiten", whiten, (True, False)),
            ("flip", flip, (True, False)),
            ("fixed_order", fixed_order, (True, False)),
        ):
            if given not in choices:
                raise ValueError(
                    f"ImageDataModule: {name} must be one of {', '.join(map(str, choices))}, got {given!r}."
                )
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("size", size, 1),
            ("resize", resize, 1),
            ("shift", shift, 0),
            ("val_size", val_size, 0),
            ("seed", seed, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | None):
                raise TypeError(f"ImageDataModule: {name} must be an integer, got {value!r}.")
            if value is not None and value < least:
                raise ValueError(f"ImageDataModule: {name} must be at least {least}, got {value}.")
        check_dataset(dataset)
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
        self.test = test
        self.resize = resize
        self.channels = channels
        self.fixed_order = fixed_order
        self.position = DataPosition()
        self._white: dict[str, Tensor] = {}

    # ---- from files to tensors

    def prepare_data(self) -> None:
        """Download the set if it is missing."""
        if not self._tests_alone():
            fetch_images(self.dataset, self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read the set, and fit the preprocessing on its training part or find it in the cache.

        To test or predict the images of ``test``, no others are read.
        """
        if stage == "fit":
            self.position.reset()  # Lightning loads the position of a resumed run after this
        if hasattr(self, "images") and (stage in ("test", "predict") or len(self._own[0].parts["train"])):
            if stage == "fit" and self.images is not self._own[0]:  # an evaluation has made them another model's
                self._prepare(*self._own)
            return
        if self.test is not None and self._tests_alone():
            images = with_channels(open_test(self.test, self.resize), self.channels)
        else:
            images = open_images(self.dataset, self.root, self.val_size, self.test, self.resize, self.channels)
        train = images.parts["train"]
        size = self.batch_size * rank_and_world_size(self.trainer)[1]
        if stage in (None, "fit") and len(train) < size:
            raise ValueError(
                f"The training part of {self.dataset!r} has {len(train):,} images, fewer than the {size} of one batch "
                "(batch_size times the number of processes)."
            )
        if len(train):
            content = train.sha256 if self.whiten else None
            preprocess = fit_preprocess(train.pixels, images.num_values, self.normalize, self.size, content)
        else:  # that of the model's training images follows
            preprocess = fit_preprocess(images.parts["test"].pixels, images.num_values, "symmetric", self.size)
        self._own = images, preprocess
        self._prepare(images, preprocess)

    def _tests_alone(self) -> bool:
        """Return True if the Trainer tests or predicts images that are in no set."""
        return self.test is not None and self.trainer is not None and self.trainer.state.fn in ("test", "predict")

    def _prepare(self, images: ImageSet, preprocess: Preprocess) -> None:
        white = {}
        if preprocess.whitening is not None:
            white = {part: preprocess.normalise(images.parts[part].pixels) for part in PARTS}
        preprocess.enlarge(images.parts["test"].pixels[:1])  # raises if the size is too small
        self.images, self.preprocess, self._white = images, preprocess, white

    def match(self, num_values: int, classes: Sequence[str], preprocess: Mapping[str, Any] | None) -> None:
        """Prepare the images of an evaluation as those that a model was trained on, and number their classes alike.

        Args:
            num_values: Values of a pixel of the training images.
            classes: Names of their classes.
            preprocess: State of their preprocessing, of which ``size`` may be another; None where there was none.

        Raises:
            ValueError: The pixels have other values or channels, or there is a class that the training images lack.
        """
        if preprocess is None:
            return
        self._after_setup()
        images, trained = match_images(self._own[0], num_values, classes), Preprocess.from_state(preprocess)
        channels, expected = images.parts["test"].pixels.shape[1], len(trained.offset)
        if channels != expected:
            raise ValueError(
                f"{images.name} has {channels} channels, the training images {expected}: --data.channels {expected}"
            )
        trained = trained if self.size is None else replace(trained, size=self.size)
        if trained.is_same(self.preprocess):
            self.images = images
        else:
            self._prepare(images, trained)

    def describe(self) -> str:
        """Return two lines about the set, for the screen."""
        images = self._after_setup()
        sizes = ", ".join(f"{len(images.parts[part]):,} {part}" for part in PARTS)
        shape = " x ".join(map(str, images.parts["test"].pixels.shape[1:]))
        made = [self.normalize, *(["ZCA-whitened"] if self.whiten else [])]
        made += [f"enlarged to {self.size} x {self.size}"] if self.size else []
        made += [f"shifted by up to {self.shift}"] if self.shift else []
        made += ["flipped"] if self.flip else []
        return (
            f"images {self.dataset} (sha256 {images.sha256[:12]}): {sizes}; {shape}, {images.num_values} values\n"
            f"split: {images.split}; {', '.join(made)}; order drawn by seed {self.seed}"
        )

    def describe_part(self, part: str) -> str:
        """Return one line about the part that an evaluation measures: ``val`` or ``test``."""
        images = self._after_setup()
        name = {"val": "validation"}.get(part, part)
        source = self.test if part == "test" and self.test is not None else self.dataset
        found = images.parts[part]
        return f"{source}, {name} part, {len(found):,} images (sha256 {found.sha256[:12]})"

    def provenance(self) -> dict[str, str]:
        """Return which images these are, for loggers and checkpoints."""
        return {"dataset": self._after_setup().name, "dataset_sha256": self.images.sha256}

    def checkpoint_options(self) -> dict[str, Any]:
        """Return the options by which the same images are found and prepared again, paths in full."""
        options = {name: getattr(self, name) for name in KEPT}
        for name in ("dataset", "test", "root"):
            if options[name] is not None and options[name] not in SETS and Path(options[name]).expanduser().exists():
                options[name] = str(Path(options[name]).expanduser().absolute())
        return {name: value for name, value in options.items() if value is not None}

    @staticmethod
    def options_from_checkpoint(saved: Mapping[str, Any], given: Collection[str], subcommand: str) -> dict[str, Any]:
        """Return which of a checkpoint's options become the defaults of a command.

        Args:
            saved: What ``checkpoint_options`` returned.
            given: Options that the command has by itself: another set brings its own parts.
            subcommand: fit, validate, test or predict.
        """
        other: tuple[str, ...] = ("dataset", "test", "val_size") if "dataset" in given else ()
        tests_alone = subcommand in ("test", "predict") and ("test" in given or "test" in saved)
        if tests_alone and saved.get("dataset") not in SETS and not Path(saved.get("dataset", "")).exists():
            other = ("dataset", "val_size")  # which are not read
        return {name: value for name, value in saved.items() if name not in other}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images in a batch."""
        return tuple(self.preprocess.enlarge(self._after_setup().parts["test"].pixels[:1]).shape[1:])

    # ---- batches

    def train_dataloader(self) -> EpochLoader[ImageBatch]:
        """Return the training batches, each epoch in an order of its own."""
        number = len(self._after_setup().parts["train"])
        rank, world_size = rank_and_world_size(self.trainer)
        size = self.batch_size * world_size  # of all processes together
        own = slice(rank * self.batch_size, (rank + 1) * self.batch_size)
        length = number // size

        def batches(epoch: int, first: int) -> Iterator[ImageBatch]:
            drawn = 0 if self.fixed_order else epoch
            order = np.random.default_rng((self.seed, drawn)).permutation(number)
            for index in range(first, length):
                augment = self._augmentation(size, own, epoch, index)
                yield self._batch("train", order[index * size : (index + 1) * size][own], augment)

        return EpochLoader(self.position, length, batches, self.trainer)

    def val_dataloader(self) -> "EvaluationLoader":
        """Return the validation part.

        Raises:
            ValueError: No image was held out for it.
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

    def _batch(self, part: str, index: Any, augment: Callable[[Tensor], Tensor] = lambda images: images) -> ImageBatch:
        images = self.images.parts[part]
        chosen = torch.as_tensor(index)
        pixels = self.preprocess.enlarge(augment(images.pixels[chosen]))
        labels = None if images.labels is None else images.labels[chosen]
        if self._white:
            return ImageBatch(self.preprocess.enlarge(augment(self._white[part][chosen])), labels, pixels)
        return ImageBatch(self.preprocess.normalise(pixels), labels, pixels)

    def _augmentation(self, size: int, own: slice, epoch: int, index: int) -> Callable[[Tensor], Tensor]:
        """Draw the shifts and flips of a batch of all processes; return what applies those of this process."""
        random = np.random.default_rng((self.seed, epoch, index))
        by = torch.from_numpy(random.integers(0, 2 * self.shift + 1, (2, size))[:, own])
        mirrored = torch.from_numpy(random.random(size)[own] < 0.5)

        def augment(images: Tensor) -> Tensor:
            if self.shift:
                images = translate(images, by, self.shift)
            return torch.where(mirrored[:, None, None, None], images.flip(3), images) if self.flip else images

        return augment

    # ---- the position of training, in checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next training batch; before ``setup`` nothing."""
        more = settings_of_part(self, "eval_batch_size")
        return self.position.state_dict(self.trainer, self.resume_settings() | more) if hasattr(self, "images") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a position saved by ``state_dict``.

        Raises:
            ValueError: The batches are other ones now, or the validation is.
        """
        if self.position.load_state_dict(state_dict, self.trainer, self.resume_settings):
            check_evaluation(state_dict, settings_of_part(self, "eval_batch_size"))

    def resume_settings(self) -> dict[str, Any]:
        """Return the settings that must be as before for a run to resume."""
        return {
            "dataset_sha256": self._after_setup().sha256,
            "batch_size": self.batch_size * rank_and_world_size(self.trainer)[1],
            **{name: getattr(self, name) for name in RESUMED},
        }

    def _after_setup(self) -> ImageSet:
        if not hasattr(self, "images"):
            raise RuntimeError("ImageDataModule: there are no images before setup(); call it, or let a Trainer do so.")
        return self.images


class EvaluationLoader:
    """One part of the set in its own order, each process with its share of each batch, at least an image.

    Raises:
        ValueError: There are fewer images than processes.
    """

    def __init__(self, data: ImageDataModule, part: str) -> None:
        self.data = data
        self.part = part
        self.number = len(data._after_setup().parts[part])
        self.rank, self.processes = rank_and_world_size(data.trainer)
        if self.number < self.processes:
            raise ValueError(
                f"the {part} part has {self.number} images, fewer than the {self.processes} processes: use fewer"
            )
        self.size = max(data.eval_batch_size, self.processes)
        self.length = (self.number + self.size - self.processes) // self.size  # a rest of fewer is of the last batch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[ImageBatch]:
        for index in range(self.length):
            last = self.number if index + 1 == self.length else (index + 1) * self.size
            yield self.data._batch(self.part, range(index * self.size, last)[self.rank :: self.processes])
