"""Checkpoint files: read and loaded, with an error that a user understands for each thing that can be wrong."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wnseq.training.checkpoint_io import load_checked
from wnseq.training.cli.errors import suggest
from wnseq.training.resume import check_finite

__all__ = [
    "check_hyper_parameters",
    "find_weights",
    "handed_over",
    "load",
    "load_run_checkpoint",
    "load_weights",
]

_handed_over: dict[Path, dict[str, Any]] = {}

STATE_DICTS = ("state_dict", "model", "model_state_dict", "network", "net", "weights", "params")  # of other programs
PREFIXES = ("network.", "module.", "_orig_mod.", "model.", "net.")  # Lightning's attribute, DataParallel, torch.compile


def load(path: Path) -> dict[str, Any]:
    """Load a file that ``torch.save`` wrote onto the CPU, without running any code from it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or does not hold a dictionary of plain types and tensors.
    """
    path = path.expanduser()
    if path in _handed_over:
        return _handed_over.pop(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}.")
    checkpoint = load_checked(path)
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, expected the dictionary of a checkpoint.")
    return checkpoint


@contextmanager
def handed_over(path: Path, content: dict[str, Any]) -> Iterator[None]:
    """Make a block's first :func:`load` of a file return what has been read of it already."""
    _handed_over[path] = content
    del content  # which is not to be kept until the end of the block
    try:
        yield
    finally:
        _handed_over.pop(path, None)


def load_run_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint that Lightning wrote, as :func:`load` does.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or is not a checkpoint of Lightning.
    """
    checkpoint = load(path)
    if "state_dict" not in checkpoint or "loops" not in checkpoint:
        raise ValueError(
            f"{path} is not a checkpoint of a run: it lacks the model's state_dict or the training loops' state. "
            "Expected a file written by fit, such as best.ckpt or last.ckpt of a run."
        )
    if "wnseq" not in checkpoint:
        raise ValueError(
            f"{path} is a checkpoint of another program: it has no entry wnseq. Its weights alone may be loaded by "
            "--model.init_from."
        )
    return checkpoint


def load_weights(network: nn.Module, path: Path, loaded: Mapping[str, Any], shape: Iterable[str]) -> None:
    """Load a checkpoint of a module with the attribute ``network``, or a state dict, into a network.

    The state dict may be an entry of its own (``model``, ``model_state_dict`` …) and its names may have the prefixes of
    DataParallel and ``torch.compile``.

    Args:
        network: The network.
        path: The file, for the error.
        loaded: The contents of the file, as :func:`load` returns them.
        shape: Hyper-parameters that decide whether weights fit, for the error.

    Raises:
        ValueError: The weights do not fit, with the flags that the checkpoint was made with; or they are not finite.
    """
    names = set(network.state_dict())
    weights = find_weights(path, loaded, names)
    check_finite(weights, str(path))
    try:
        _check_tied(network, weights)
        network.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        if not names & weights.keys():
            raise ValueError(
                f"{path} holds the weights of another program or model: they are called {_few(weights)}; those of this "
                f"network {_few(names)}. Rename them."
            ) from error
        hparams = loaded.get("hyper_parameters")
        hparams = hparams if isinstance(hparams, Mapping) else {}
        flags = " ".join(f"--model.{name} {hparams[name]}" for name in shape if hparams.get(name) is not None)
        hint = f"it was made with {flags}" if flags else "set --model.* to what it was made with"
        detail = " ".join(str(error).splitlines()[1:2] or [str(error)]).strip()
        raise ValueError(f"{path} does not fit this network: {hint} ({detail})") from error


def _check_tied(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Check that weights which share a parameter in a network are equal in a file; one of them would be lost.

    Raises:
        ValueError: They differ.
    """
    first: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if (other := first.setdefault(id(parameter), name)) == name:
            continue
        for end in ("", "_v", "_g"):  # a file may hold the plain weight of a normalised one
            pair = [each.removesuffix(end) for each in (other, name)]
            found = [weights[each] for each in pair if each in weights]
            if len(found) == 2 and not torch.equal(*found):
                raise ValueError(f"{' and '.join(pair)} differ, and are tied in this network")


def find_weights(path: Path, loaded: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the state dict in a file, its names without the prefixes that the network's lack."""
    entries = (loaded.get(name) for name in STATE_DICTS)
    found = next((entry for entry in entries if isinstance(entry, Mapping)), loaded)
    if not found or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        raise ValueError(
            f"{path} holds no weights where they are looked for: it has the entries {_few(loaded)}. Expected tensors "
            f"by name, or these under {' or '.join(STATE_DICTS[:3])}."
        )
    weights = dict(found)
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in weights)), None):
        if any(name.startswith(prefix) for name in names):
            break
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _few(names: Iterable[Any]) -> str:
    shown = sorted(map(str, names))
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3:,} more" if len(shown) > 3 else "")


def check_hyper_parameters(path: Path, hparams: Iterable[str], *, known: Iterable[str]) -> None:
    """Check that a model has every hyper-parameter of a checkpoint.

    Raises:
        ValueError: It lacks one.
    """
    known = set(known)
    for name in hparams:
        if name not in known:
            raise ValueError(
                f"{path} has the hyper-parameter {name}, which this recipe does not.{suggest(name, known)} "
                "Expected a checkpoint of the same recipe and version."
            )
