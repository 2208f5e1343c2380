"""Every problem of a command at once: those of the Trainer's options, of the model's and of the data's."""

from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from wnseq.training.hparams import check_arguments

__all__ = ["check_trainer_options", "collect_problems"]

TRAINER_RANGES = {  # what Lightning does not check, or meets as a division by zero
    "accumulate_grad_batches": "at least 1",
    "check_val_every_n_epoch": "at least 1",
    "val_check_interval": "greater than 0",
    "log_every_n_steps": "at least 0",
    "gradient_clip_val": "at least 0",
}


def check_trainer_options(options: Namespace) -> None:
    """Check the ranges of the Trainer's options that Lightning does not check.

    Raises:
        ValueError: Some are out of their range.
    """
    numbers = {name: options[name] for name in TRAINER_RANGES if not isinstance(options[name], str)}
    check_arguments(Trainer, numbers, "--trainer.", **{name: TRAINER_RANGES[name] for name in numbers})


def collect_problems(error: Exception, classes: Mapping[str, Any], options: Namespace) -> Exception:
    """Return an error with all problems of a command, of which building its parts raised the first.

    Args:
        error: The first.
        classes: The classes of the groups of options that are built, such as ``model`` and ``data``.
        options: Options of the command by group, the Trainer's among them.
    """
    found = [*_problems(classes, options)]
    texts = list(dict.fromkeys(map(str, found)))
    if str(error) not in texts or len(texts) == 1:
        return error
    return (TypeError if all(type(each) is TypeError for each in found) else ValueError)("; ".join(texts))


def _problems(classes: Mapping[str, Any], options: Namespace) -> Iterator[Exception]:
    try:
        check_trainer_options(options.trainer)
    except (TypeError, ValueError) as error:
        yield error
    for group, of in classes.items():
        hints, arguments = get_type_hints(of.__init__), {}
        for name, value in vars(options[group]).items():
            try:  # an option with options of its own is a dataclass
                arguments[name] = hints[name](**vars(value)) if isinstance(value, Namespace) else value
            except (TypeError, ValueError) as error:
                yield error
        try:
            of(**arguments)
        except (TypeError, ValueError) as error:
            yield error
