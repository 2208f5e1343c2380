"""Finding and reading checkpoint files, with an error a user understands for each thing that can be wrong with one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wnseq.training.cli.errors import guess


def find(name: str, runs: Path) -> Path:
    """The file that ``--ckpt_path`` means.

    Args:
        name: the path of a checkpoint, or ``best`` or ``last``: that of the newest run that has one.
        runs: the folder that holds the recipe's runs.

    Raises:
        FileNotFoundError: naming the file and what was expected.
    """
    if name not in ("best", "last"):
        if not (path := Path(name)).is_file():
            raise FileNotFoundError(
                f"--ckpt_path: there is no file {name}. Expected a checkpoint that a run has left "
                f"({runs}/<number>/checkpoints/best.ckpt), or the word best or last for that of the newest run."
            )
        return path
    found = sorted(runs.glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"--ckpt_path {name}: no run in {runs} has left a {name}.ckpt. Run fit first.")
    return found[-1]


def load(path: Path) -> dict[str, Any]:
    """Read a file that ``torch.save`` wrote on the CPU, running no code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds no dictionary of plain types and tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as reason:  # torch raises nearly anything here: EOFError, KeyError, OSError, UnpicklingError
        raise ValueError(
            f"{path} cannot be read as a checkpoint: the file is damaged or incomplete, or holds Python objects, which "
            "are never loaded. Expected a file written by fit, such as best.ckpt or last.ckpt of a run."
        ) from reason
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, expected the dictionary of a checkpoint.")
    return checkpoint


def read(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint on the CPU, running no code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or is not a checkpoint of Lightning.
    """
    checkpoint = load(path)
    if "state_dict" not in checkpoint or "loops" not in checkpoint:
        raise ValueError(
            f"{path} is not a checkpoint of a run: it lacks the model's state_dict or the training loops' state. "
            "Expected a file written by fit, such as best.ckpt or last.ckpt of a run."
        )
    return checkpoint


def load_weights(network: nn.Module, path: Path, loaded: Mapping[str, Any], shape: Iterable[str]) -> None:
    """Start a network from what a file holds: a checkpoint whose module keeps it as ``network``, or a state dict.

    Args:
        network: The network to fill.
        path: The file.
        loaded: What :func:`load` read from it.
        shape: The hyper-parameters that decide whether weights fit, for the hint.

    Raises:
        ValueError: The weights do not fit; with the flags that the checkpoint was made with.
    """
    weights = {name.removeprefix("network."): value for name, value in loaded.get("state_dict", loaded).items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        made_with = loaded.get("hyper_parameters", {})
        flags = " ".join(f"--model.{name} {made_with[name]}" for name in shape if made_with.get(name) is not None)
        hint = f"it was made with {flags}" if flags else "set --model.* to what it was made with"
        detail = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit this network: {hint} ({detail})") from error


def check_names(path: Path, hparams: Iterable[str], *, known: Iterable[str]) -> None:
    """Make sure that a model has the hyper-parameters of a checkpoint.

    Raises:
        ValueError: naming the first it does not have.
    """
    known = set(known)
    for name in hparams:
        if name not in known:
            raise ValueError(
                f"{path} has the hyper-parameter {name}, which this recipe does not.{guess(name, known)} "
                "Expected a checkpoint of the same recipe and version."
            )
