"""What a run says about itself: on the screen, in its loggers and in its checkpoints."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from wnseq import __version__

__all__ = ["checkpoint_info", "find_datamodule", "find_trainer", "print_header"]


def find_trainer(model: LightningModule) -> Trainer | None:
    """Return the Trainer of a model; None where there is none yet."""
    try:
        return model.trainer
    except RuntimeError:  # Lightning's answer
        return None


def find_datamodule(model: LightningModule) -> Any:
    """Return the data module of a model's Trainer; None where there is no Trainer, or it has plain loaders."""
    return getattr(find_trainer(model), "datamodule", None)


def print_header(model: LightningModule, description: str) -> None:
    """Print what is trained on what, on a CPU with how many threads, and log which data it is.

    The number of threads decides how sums are rounded, and so the last digits of a result.

    Args:
        model: Model whose Trainer starts to fit.
        description: Sizes and kind of the model, in one line.
    """
    data = find_datamodule(model)
    if hasattr(data, "describe"):
        model.print(data.describe())
    elif hasattr(model, "images"):
        model.print(model.images)
    if hasattr(data, "provenance"):
        for logger in model.loggers:
            logger.log_hyperparams(data.provenance())
    size = sum(parameter.numel() for parameter in model.parameters())
    threads = f", CPU threads: {torch.get_num_threads()}" if model.device.type == "cpu" else ""
    model.print(f"model: {description}, {size:,} parameters{threads}\n")


def checkpoint_info(model: LightningModule, recipe: str, **contents: Any) -> dict[str, Any]:
    """Return what a checkpoint holds under ``wnseq``, so that it can be used alone and its data found again.

    Under ``data`` it has the options of the data module that become the defaults of ``--data.*`` with ``--ckpt_path``.

    Args:
        model: Model that is saved.
        recipe: Name of the recipe.
        contents: What the model needs to be built again: plain types and tensors.
    """
    data = find_datamodule(model)
    info = {"version": __version__, "recipe": recipe, **contents}
    if hasattr(data, "provenance"):
        info |= data.provenance()
    if hasattr(data, "checkpoint_options"):
        info["data"] = data.checkpoint_options()
    return info
