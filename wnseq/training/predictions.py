"""The table that a classifier prints when it predicts."""

from collections.abc import Sequence

from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["print_predictions"]


def print_predictions(
    trainer: Trainer, index: int, probabilities: Tensor, labels: Tensor, classes: Sequence[str]
) -> None:
    """Print one row for each image of a batch of the data module's test part; nothing for a user's own loader.

    Args:
        trainer: Trainer that predicts.
        index: Number of the batch; the first prints the head of the table.
        probabilities: Of the classes, ``(N, classes)``.
        labels: The true classes, ``(N,)``.
        classes: Names of the classes.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return  # its images have no numbers
    if index == 0 and trainer.is_global_zero:
        print("image,label,predicted,probability")
    first = index * data.eval_batch_size
    best = probabilities.max(1)
    rows = zip(labels.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    for place, (label, found, probability) in enumerate(rows):
        number = first + place * trainer.world_size + trainer.global_rank  # each rank has its share of each batch
        print(f"{number},{classes[label]},{classes[found]},{probability:.4f}")
