"""What a run says about itself: on the screen, in its loggers and in its checkpoints."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from wnseq import __version__
from wnseq.training._lightning_internals import epochs_started, is_finished, monitored

__all__ = ["checkpoint_info", "describe_progress", "find_datamodule", "find_trainer", "fit_progress", "print_header"]

UNFINISHED = "the run was not finished"


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

    Under ``data`` it has the options of the data module that become the defaults of ``--data.*`` with ``--ckpt_path``,
    under ``fit`` how far the fit has come.

    Args:
        model: Model that is saved.
        recipe: Name of the recipe.
        contents: What the model needs to be built again: plain types and tensors.
    """
    data, trainer = find_datamodule(model), find_trainer(model)
    info = {"version": __version__, "recipe": recipe, **contents}
    if hasattr(data, "provenance"):
        info |= data.provenance()
    if hasattr(data, "checkpoint_options"):
        info["data"] = data.checkpoint_options()
    if trainer is not None and epochs_started(trainer):
        info["fit"] = fit_progress(trainer)
    return info


def fit_progress(trainer: Trainer) -> dict[str, Any]:
    """Return how far a fit has come of what was planned, for a checkpoint.

    Returns:
        - epoch: The one that is being trained, or was the last, from 1 on.
        - max_epochs, total_steps: What was planned; None without a limit, or where steps cannot be counted beforehand.
        - finished: Whether the fit has come to its end.
        - metric, value: What the checkpoint was chosen by, if by anything.
    """
    try:
        total = trainer.estimated_stepping_batches
    except MisconfigurationException:  # batches are accumulated by a schedule
        total = math.inf
    metric, value = monitored(trainer) or (None, None)
    return {
        "epoch": epochs_started(trainer),
        "max_epochs": None if trainer.max_epochs == -1 else trainer.max_epochs,
        "total_steps": int(total) if 0 < total < math.inf else None,
        "finished": is_finished(trainer),
        "metric": metric,
        "value": value,
    }


def describe_progress(checkpoint: Mapping[str, Any]) -> str:
    """Return how far the run of a checkpoint had come, and that it was not finished, or what it was chosen by.

    Nothing of a checkpoint of another program, or of a model that was never fit.
    """
    progress = checkpoint.get("wnseq", {}).get("fit")
    if not progress:
        return ""
    limits = {"step": progress["total_steps"], "epoch": progress["max_epochs"]}
    counts = {"step": checkpoint["global_step"], "epoch": progress["epoch"]}
    words = [f"{name} {counts[name]}" + (f" of {limit}" if limit else "") for name, limit in limits.items()]
    if progress["metric"] is not None:
        words.append(f"{progress['metric']} {progress['value']:.4g}")
    elif not progress["finished"]:
        words.append(UNFINISHED)
    return ", ".join(words)
