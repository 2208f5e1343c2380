"""A model from a checkpoint file: its own by ``load_from_checkpoint``, or weights to start from by ``init_from``.

A network starts from all weights of the file, or from those of its encoder, in their shape.
"""

import functools
import inspect
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from wnseq.errors import FileFormatError
from wnseq.state_dict import convert_keys, find_pairs, to_wnseq
from wnseq.training import checkpoint_files
from wnseq.training.checkpoint_io import REMEDY, load_checked, open_checked
from wnseq.training.initialisation import BatchInitialised
from wnseq.training.resume import warn_if_unfinished

__all__ = ["CheckedLoading", "fill_from_checkpoint", "lent_arguments", "load_encoder", "load_initial_weights"]

Constructor = TypeVar("Constructor", bound=Callable[..., None])


class CheckedLoading:
    """Makes a LightningModule's ``load_from_checkpoint`` check the file; comes before LightningModule in its bases.

    Example:
        >>> from lightning.pytorch import LightningModule
        >>> class Model(CheckedLoading, LightningModule): ...
    """

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the model of a checkpoint, as Lightning does.

        Raises:
            FileFormatError: The file is empty, cut short, damaged, or holds Python objects.
        """
        load: Any = super().load_from_checkpoint  # type: ignore[misc]
        if hasattr(checkpoint_path, "read") or "://" in str(checkpoint_path):
            return load(checkpoint_path, *args, **kwargs)
        path = Path(checkpoint_path).expanduser()
        with open_checked(path) as file:
            if not zipfile.is_zipfile(file):
                load_checked(path)  # an error of its own, if that is no checkpoint of an older torch
            file.seek(0)
            try:
                return load(file, *args, **kwargs)
            except pickle.UnpicklingError as error:
                detail = str(error).partition("\n")[0]
                raise FileFormatError(f"{path} can't be read as a checkpoint: {detail} {REMEDY}") from error


def fill_from_checkpoint(init: Constructor) -> Constructor:
    """Return a constructor that takes the arguments it is called without from the checkpoint of ``init_from``.

    So ``Model(init_from=PATH, learning_rate=1e-4)`` has the shape and the other hyper-parameters of the checkpoint. A
    plain state dict has none, and the defaults hold. Of another recipe's checkpoint it takes what the attribute
    ``lent_by`` of the class lists.

    Args:
        init: ``__init__`` of a recipe's model, which has an argument ``init_from``.

    Example:
        >>> class Model:
        ...     @fill_from_checkpoint
        ...     def __init__(self, hidden_size: int = 256, init_from: str | None = None): ...
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def filled(*args: Any, **kwargs: Any) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        if given.get("init_from") is not None and len(given) < len(signature.parameters):  # all: the command line
            loaded = checkpoint_files.load(Path(given["init_from"]))
            saved = lent_arguments(type(args[0]), loaded, given)
            kwargs |= {name: saved[name] for name in signature.parameters if name in saved and name not in given}
        init(*args, **kwargs)

    return cast("Constructor", filled)


def lent_arguments(
    model_class: Any, loaded: Mapping[str, Any], given: Mapping[str, Any], resumed: bool = False
) -> Mapping[str, Any]:
    """Return the hyper-parameters of a checkpoint that hold for a model which starts from it.

    Args:
        model_class: Class of the model. Its ``lent_by``, if any, says for each recipe of other models whose checkpoints
            it can start from which hyper-parameters it takes over; its ``never_lent``, which are those of one run; its
            ``lent_with``, for a hyper-parameter that chooses, which others mean something with the same choice alone.
        loaded: Content of the file; a plain state dict has none.
        given: Hyper-parameters that the model has by itself.
        resumed: Whether the run itself goes on, with all of them.
    """
    if "wnseq" not in loaded:
        return {}
    never = () if resumed else getattr(model_class, "never_lent", ())
    saved = {name: value for name, value in loaded.get("hyper_parameters", {}).items() if name not in never}
    for choice, names in getattr(model_class, "lent_with", {}).items():
        if not resumed and choice in given and given[choice] != saved.get(choice):
            saved = {name: value for name, value in saved.items() if name not in names}
    lent = getattr(model_class, "lent_by", {}).get(loaded["wnseq"].get("recipe"))
    return saved if lent is None else {name: saved[name] for name in lent if name in saved}


def load_encoder(
    network: nn.Module,
    init_from: str,
    sizes: Iterable[str],
    parts: tuple[str, ...],
    check: Callable[[MutableMapping[str, Any]], None],
) -> None:
    """Load some parts of a network from a checkpoint of another one that has them too; the others stay.

    A weight that is normalised in the file and plain in the network is composed.

    Args:
        network: Network to fill.
        init_from: Path of the file.
        sizes: Hyper-parameters that decide whether weights fit, for the hint of the error.
        parts: How the names of the weights begin.
        check: Called with the content of the file before its weights are loaded; raises if they mean something else.

    Raises:
        ValueError: The file is no checkpoint, has no such weights, or they do not fit.
    """
    path, own = Path(init_from), network.state_dict()
    loaded = _load(path, own)
    check(loaded)
    weights = loaded["state_dict"]
    weights = convert_keys(weights, [name for name in find_pairs(weights) if name in own], "plain")
    found = {name: value for name, value in weights.items() if name.startswith(parts)}
    kept = {name: value for name, value in own.items() if not name.startswith(parts)}
    checkpoint_files.load_weights(network, path, {**loaded, "state_dict": kept | found}, sizes)


def load_initial_weights(
    network: nn.Module,
    init_from: str,
    sizes: Iterable[str],
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Load a recipe's checkpoint, or a plain torch state dict with the same names, into a network.

    Args:
        network: Network to fill; a checkpoint holds its weights under ``network.``.
        init_from: Path of the file.
        sizes: Hyper-parameters that decide whether weights fit, for the hint of the error.
        check: Called with the content of the file before its weights are loaded; raises if they mean something else.

    Raises:
        ValueError: The file is no checkpoint, or its weights do not fit; with the flags that it was made with.
    """
    path = Path(init_from)
    loaded = _load(path, network.state_dict())
    warn_if_unfinished(loaded, init_from)
    if check is not None:
        check(loaded)
    checkpoint_files.load_weights(network, path, loaded, sizes)
    if isinstance(network, BatchInitialised):
        network.mark_initialised()  # whatever the file says: its weights are wanted


def _load(path: Path, own: Iterable[str]) -> dict[str, Any]:
    """Return the content of a file, under ``state_dict`` its weights by the names that a network has, g as wnseq's."""
    loaded = checkpoint_files.load(path)
    weights = checkpoint_files.find_weights(path, loaded, set(own))
    return {**loaded, "state_dict": to_wnseq(weights, [*find_pairs(weights)])}
