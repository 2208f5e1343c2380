"""Checks of a checkpoint before it is used, and of the hyper-parameters of a run that resumes from it."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from wnseq import __version__
from wnseq.training.run_info import UNFINISHED, describe_progress, find_trainer

__all__ = [
    "check_checkpoint",
    "check_evaluated",
    "check_finite",
    "check_resumed",
    "open_checkpoint",
    "warn_if_unfinished",
]


def check_checkpoint(checkpoint: Mapping[str, Any], recipe: str, name: str = "the checkpoint") -> None:
    """Check that a checkpoint is of a recipe, of no newer version, and that its weights are finite.

    Args:
        checkpoint: Contents of the file. Without an entry ``wnseq``, recipe and version pass.
        recipe: Name of the recipe.
        name: What the error message calls the checkpoint.

    Raises:
        ValueError: It is of another recipe, of a newer version, or its weights are not finite.
    """
    info = checkpoint.get("wnseq", {})
    if (made := info.get("recipe", recipe)) != recipe:
        raise ValueError(f"{name} is of the recipe {made}, this one is {recipe}: use it with wnseq run {made}")
    version = info.get("version", __version__)
    if _release(version) > _release(__version__):
        raise ValueError(f"{name} was written by wnseq {version}, this is {__version__}: pip install --upgrade wnseq")
    check_finite(checkpoint.get("state_dict", {}), name)


def _release(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def check_finite(weights: Mapping[str, Any], name: str) -> None:
    """Check that floating-point weights are finite.

    Raises:
        ValueError: One is not; with its name.
    """
    for key, value in weights.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(
                f"{name} holds weights that are not finite, the first in {key}: the run that wrote it diverged. Use an "
                "earlier checkpoint, or train again with a lower learning rate."
            )


def check_resumed(
    saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Iterable[str], path: str = "CHECKPOINT"
) -> None:
    """Check that a resumed run keeps the hyper-parameters that would do nothing, since the checkpoint decides.

    Args:
        saved: Hyper-parameters of the checkpoint.
        now: Those of the model; None passes.
        may_change: Names of those that take effect in a resumed run.
        path: The checkpoint, for the error.

    Raises:
        ValueError: Some differ; with the two ways to go on.
    """
    before, flags = _changed(saved, now, may_change)
    if flags:
        raise ValueError(
            f"the run to be resumed has {before}, and goes on with it: {flags} would do nothing. Leave that out to "
            f"resume, or start a new run from these weights: --model.init_from {path} {flags}, without --ckpt_path"
        )


def check_evaluated(saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Iterable[str], path: str) -> None:
    """Check that an evaluation keeps the hyper-parameters that the weights were made with. Args as in check_resumed.

    Raises:
        ValueError: Some differ.
    """
    before, flags = _changed(saved, now, may_change)
    if flags:
        raise ValueError(
            f"{path} was made with {before}: {flags} would not fit its weights, or do nothing. Leave that out"
        )


def _changed(saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Iterable[str]) -> tuple[str, str]:
    """Return the hyper-parameters that differ, in words, and as flags."""
    fixed = [name for name in saved if name in now and name not in may_change]
    changed = [name for name in fixed if now[name] is not None and now[name] != saved[name]]
    before = ", ".join(f"{name} {saved[name]}" for name in changed)
    return before, " ".join(f"--model.{name} {now[name]}" for name in changed)


def open_checkpoint(model: LightningModule, checkpoint: dict[str, Any], recipe: str) -> Mapping[str, Any]:
    """Check a checkpoint that a model is about to load; return what it holds under ``wnseq``.

    Unless the run is resumed, a checkpoint of an unfinished run warns. A resumed one goes on with the weights before
    averaging, which the optimiser knows, whether it averages or not. The model will not start from ``init_from``.

    Args:
        model: The model. Its ``resume_may_change`` names the hyper-parameters that take effect in a resumed run, its
            ``never_lent`` those that name what a run needs.
        checkpoint: Contents of the file.
        recipe: Name of the recipe.

    Raises:
        ValueError: It is not a checkpoint of this recipe, cannot be used, or the run has other hyper-parameters.
    """
    if "wnseq" not in checkpoint:
        raise ValueError(
            f"the checkpoint was not written by the recipe {recipe}: it has no entry wnseq. Weights of another program "
            "load with --model.init_from, if their names and shapes fit"
        )
    check_checkpoint(checkpoint, recipe)
    trainer = find_trainer(model)
    if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
        saved = checkpoint.get("hyper_parameters", {})
        check_resumed(saved, model.hparams, getattr(model, "resume_may_change", ()))
        for name in getattr(model, "never_lent", ()):
            if saved.get(name) is not None and model.hparams[name] is None:
                raise ValueError(
                    f"the run to be resumed has {name} {saved[name]}, which it needs to go on: give it again"
                )
        if "polyak_average" in checkpoint:
            checkpoint["state_dict"] = checkpoint["current_model_state"]
    else:
        warn_if_unfinished(checkpoint, "the checkpoint")
    model.init_from = None  # type: ignore[assignment]  # the weights are the checkpoint's
    info: Mapping[str, Any] = checkpoint["wnseq"]
    return info


def warn_if_unfinished(checkpoint: Mapping[str, Any], name: str) -> None:
    """Warn where a checkpoint was written before its run had finished, and by no monitor as the best so far."""
    if (progress := describe_progress(checkpoint)).endswith(UNFINISHED):
        warnings.warn(f"{name} is of {progress}", stacklevel=3)
