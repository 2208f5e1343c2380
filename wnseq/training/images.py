"""What a network must know of its images, from a data module, a checkpoint or a plain loader."""

import functools
import itertools
import textwrap
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from wnseq._rows import carry_weights
from wnseq.errors import ShapeError
from wnseq.training import checkpoint_files
from wnseq.training._lightning_internals import train_loaders
from wnseq.training.batches import get_labels, get_tensor
from wnseq.training.fine_tuning import load_initial_weights
from wnseq.training.resume import open_checkpoint
from wnseq.training.run_info import find_datamodule, find_trainer

__all__ = ["ImageSpec", "build_for_images", "find_images", "first_images", "restore_for_images", "scan_images"]

FEW_VALUES = 32  # a loader whose pixels have more values than this is one of bytes
MOST_BATCHES = 1000  # of a loader without a length, which may have no end


@dataclass(frozen=True)
class ImageSpec:
    """What a network must know of its images.

    Args:
        shape: Channels, height and width.
        num_values: Values of a pixel, which are whole numbers from 0 up.
        classes: Names of the classes; empty where there are no labels.
        preprocess: State of the preprocessing by which a data module makes images of pixels; None for a plain loader.
        name: What error messages call the images.
    """

    shape: tuple[int, int, int]
    num_values: int = 256
    classes: tuple[str, ...] = ()
    preprocess: Mapping[str, Any] | None = None
    name: str = "the loader"

    def __str__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"images of {self.name}: {' x '.join(map(str, self.shape))}, {self.num_values} values{classes}"

    def state(self) -> dict[str, Any]:
        """Return plain types and tensors for a checkpoint."""
        state = {**asdict(self), "shape": list(self.shape), "classes": list(self.classes)}
        return {name: value for name, value in state.items() if name != "name"}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "ImageSpec":
        """Return the images that a checkpoint, which may hold more beside them, is of."""
        channels, height, width = state["shape"]
        classes = tuple(state["classes"])
        return ImageSpec((channels, height, width), state["num_values"], classes, state["preprocess"], "the checkpoint")


def find_images(model: LightningModule, field: str) -> ImageSpec | None:
    """Return what the network of a model must know of its images when the Trainer is set up.

    In a fit they are those of the data module, else those of the loader, which is read once. In an evaluation they are
    those of the checkpoint that the model's ``init_from`` names, if it says them, else those of the data module.

    Args:
        model: Model whose Trainer is being set up.
        field: What the model reads of an ``ImageBatch``: ``images`` or ``pixels``.

    Returns:
        None in an evaluation without ``init_from``: the images are those of the checkpoint that is loaded next.
    """
    trainer, data = find_trainer(model), find_datamodule(model)
    init_from = getattr(model, "init_from", None)
    if _evaluates(model):
        if init_from is None:
            return None
        info = checkpoint_files.load(Path(init_from)).get("wnseq", {})
        if "shape" in info:
            return ImageSpec.from_state(info)
        if not hasattr(data, "image_shape"):
            raise ValueError(
                f"{init_from} does not say which images its weights are for: expected a checkpoint of a recipe"
            )
    if hasattr(data, "image_shape"):
        preprocess, images = data.preprocess.state(), data.images
        return ImageSpec(data.image_shape, images.num_values, tuple(images.classes), preprocess, images.name)
    loaders = [] if trainer is None else train_loaders(trainer)
    if len(loaders) != 1:
        raise TypeError(
            f"expected one loader of training batches, got {len(loaders)}: Lightning takes each element of a list for "
            "a loader of its own"
        )
    return scan_images(loaders[0], field)


def scan_images(loader: Iterable[Any], field: str) -> ImageSpec:
    """Read the batches of a loader once; return the shape of the images, the values of a pixel and the classes.

    A pixel has as many values as the largest says: two, some up to 32, or else 256. The classes are numbers, as many as
    the largest label says. Of a loader without a length 1,000 batches are read. Torch's random numbers stay as they
    are.

    Raises:
        TypeError: The loader is an iterator, which can be read but once; or a batch has no images.
        ValueError: It has no batch, or its images differ in size.
    """
    shape, largest, last = None, 0.0, -1
    with torch.random.fork_rng(devices=[]):
        if iter(loader) is loader:
            raise TypeError(
                "expected a loader that can be read more than once, such as a DataLoader, got an iterator "
                f"({type(loader).__name__})"
            )
        for batch in itertools.islice(loader, None if hasattr(loader, "__len__") else MOST_BATCHES):
            images, labels = get_tensor(batch, field), get_labels(batch)
            if images.ndim != 4 or (shape is not None and images.shape[1:] != shape):
                raise ShapeError(
                    f"images must have shape (N, C, H, W), the same in all batches, got {tuple(images.shape)}"
                )
            shape = images.shape[1:]
            largest = max(largest, float(images.max()))
            if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
                last = max(last, int(labels.max()))
    if shape is None:
        raise ValueError("the loader has no batches, so there are no images to make a network for")
    values = 2 if largest <= 1 else int(largest) + 1 if largest < FEW_VALUES else 256
    channels, height, width = shape
    return ImageSpec((channels, height, width), values, tuple(map(str, range(last + 1))))


def first_images(data: Any, number: int) -> Any:
    """Return the first images of a data module's test part as a batch, whatever the size of its batches.

    Args:
        data: An ``ImageDataModule``.
        number: How many; fewer if it has no more.
    """
    batches, images = [], 0
    for batch in data.test_dataloader():
        batches.append(batch)
        if (images := images + len(batch.images)) >= number:
            break
    parts: Any = [None if part[0] is None else torch.cat(part)[:number] for part in zip(*batches, strict=True)]
    return type(batches[0])(*parts)


def build_for_images(model: Any, field: str, sizes: Iterable[str]) -> None:
    """Make a model's network for the images of its Trainer, if they are known, and start it from ``init_from``.

    A network that is there already stays. In a fit its images are those of the data module from then on.

    Args:
        model: Model with ``network``, ``init_from`` and ``build``, which makes the network for an ``ImageSpec``.
        field: What the model reads of an ``ImageBatch``: ``images`` or ``pixels``.
        sizes: Hyper-parameters that decide whether weights fit, for the hint of the error.

    Raises:
        ValueError: The model is one of pixels, and the data module scales them otherwise or whitens; or ``init_from``
            does not fit; or the images are of another kind than those that the network is for.
    """
    data = find_datamodule(model)
    if field == "pixels" and (getattr(data, "whiten", False) or getattr(data, "normalize", "symmetric") != "symmetric"):
        raise ValueError("the likelihood is that of the pixels themselves: leave out --data.normalize and whiten")
    if model.network is None:
        if (images := find_images(model, field)) is None:
            return
        model.build(images)
    elif hasattr(data, "image_shape") and not _evaluates(model):
        images = find_images(model, field)
        _check_kind(model, images, field)
        model.images = images
    if model.init_from is not None:
        check = functools.partial(_fit_start, model, model.images, field)
        load_initial_weights(model.get_submodule("network"), model.init_from, sizes, check)
        model.init_from = None  # once: the next fit goes on
    _match_data(model)


def restore_for_images(model: Any, checkpoint: dict[str, Any], recipe: str) -> None:
    """Make the network of a checkpoint that a model is about to load, and prepare the images of a data module as its.

    Args:
        model: As in :func:`build_for_images`; its attribute ``images`` is the ``ImageSpec`` of its network.
        checkpoint: Contents of the file, with the state of the ``ImageSpec`` under ``wnseq``.
        recipe: Name of the recipe.

    Raises:
        ValueError: The checkpoint cannot be used, or the images of the data module are of another kind.
    """
    images = ImageSpec.from_state(open_checkpoint(model, checkpoint, recipe))
    if model.network is None:
        model.build(images)
    else:
        _check_channels(model.images, checkpoint)
        model.images = images
    _match_data(model)


def _fit_start(model: Any, images: ImageSpec, field: str, checkpoint: MutableMapping[str, Any]) -> None:
    """Check that a checkpoint can start a model of images, and fit its output layer to the classes, which it says."""
    _check_channels(images, checkpoint)
    before = tuple(checkpoint.get("wnseq", {}).get("classes", ()))
    if field != "images" or not before or not images.classes or before == images.classes:
        return
    weights = checkpoint["state_dict"]
    rows = [name for name in weights if name.startswith("output.") and weights[name].ndim]  # not a counter
    carry_weights(weights, rows, [[before.index(name)] if name in before else [] for name in images.classes])
    new = [name for name in images.classes if name not in before]
    kept = f"{len(images.classes) - len(new)} of {len(images.classes)} classes keep their rows of the output layer"
    names = textwrap.shorten(", ".join(new), 80, placeholder=" …")
    model.print(f"{kept}; of {names} it starts with the mean row" if new else kept)


def _check_kind(model: Any, images: Any, field: str) -> None:
    """Check that the images of a fit have the channels, values and classes that the network of a model is for."""
    decisive = {"channels": [each.shape[0] for each in (images, model.images)]}
    if field == "pixels":
        decisive["values of a pixel"] = [each.num_values for each in (images, model.images)]
    if field == "images" or model.hparams.get("conditional"):
        decisive["classes"] = [", ".join(each.classes) or "none" for each in (images, model.images)]
    for name, (now, before) in decisive.items():
        if now != before:
            raise ValueError(
                f"the {name} of {images.name}, {textwrap.shorten(str(now), 80)}, are others than the model's, "
                f"{textwrap.shorten(str(before), 80)}: start another model, with init_from"
            )


def _check_channels(images: ImageSpec, checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint, unless it is a plain state dict, is of images with as many channels."""
    channels = checkpoint.get("wnseq", {}).get("shape", images.shape)[0]
    if channels != images.shape[0]:
        raise ValueError(
            f"the checkpoint is of images with {channels} channels, these have {images.shape[0]}: --data.channels "
            f"{channels}"
        )


def _match_data(model: Any) -> None:
    """In an evaluation, make the data module prepare and number its images as those of the model."""
    data = find_datamodule(model)
    if _evaluates(model) and hasattr(data, "match"):
        data.match(model.images.num_values, model.images.classes, model.images.preprocess)


def _evaluates(model: LightningModule) -> bool:
    """Return True if the model's Trainer validates, tests or predicts."""
    trainer = find_trainer(model)
    return trainer is not None and trainer.state.fn != TrainerFn.FITTING
