"""The table that a classifier prints when it predicts."""

import csv
import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["print_predictions"]


def print_predictions(
    trainer: Trainer, index: int, probabilities: Tensor, labels: Tensor | None, classes: Sequence[str]
) -> None:
    """Print one row for each image of a batch of the data module's test part; nothing for a user's own loaders.

    An image is named by its file, where it has one, else by its number.

    Args:
        trainer: Trainer that predicts.
        index: Number of the batch; the first prints the head of the table.
        probabilities: Of the classes, ``(N, classes)``.
        labels: The true classes, ``(N,)``; None where they are not known.
        classes: Names of the classes.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "images"):
        return  # a user's own, whose images have no numbers
    table = csv.writer(sys.stdout, lineterminator="\n")
    if index == 0 and trainer.is_global_zero:
        table.writerow(["image", *([] if labels is None else ["label"]), "predicted", "probability"])
    files = data.images.parts["test"].files
    first = index * max(data.eval_batch_size, trainer.world_size)  # a batch has an image for each process
    best = probabilities.max(1)
    for place, (found, probability) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
        number = first + place * trainer.world_size + trainer.global_rank  # each rank has its share of each batch
        name = number if files is None else files[number]
        label = [] if labels is None else [classes[int(labels[place])]]
        table.writerow([name, *label, classes[found], f"{probability:.4f}"])
