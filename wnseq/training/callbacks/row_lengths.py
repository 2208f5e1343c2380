"""How long the rows of an embedding become, against how often their tokens occur in the training text."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from wnseq.functional import row_norm
from wnseq.nn import WNEmbedding
from wnseq.training.plots._row_lengths import LENGTH_COLUMNS, plot_row_lengths

__all__ = ["RowLengths", "row_lengths"]


class RowLengths(Callback):
    """Write the length of each row of an embedding as ``embedding.csv``, and draw it as ``embedding.png``.

    It writes at the end of a fit with a ``TextDataModule``, for the first embedding that has a row for each token of
    its tokenizer, into the folder of the Trainer's first logger, without a logger ``default_root_dir``: a row for each
    token, ``id``, ``token``, ``count``, how often it occurs in the training text, and ``length``.

    Source:
        Herold, Gao & Ney 2018, https://aclanthology.org/W18-6310, on the lengths that models learn.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        data: Any = getattr(trainer, "datamodule", None)
        tokenizer, splits = getattr(data, "tokenizer", None), getattr(data, "splits", {})
        if tokenizer is None or "train" not in splits:
            return
        found = (m for m in pl_module.modules() if isinstance(m, nn.Embedding | WNEmbedding))
        embedding = next((m for m in found if m.num_embeddings == len(tokenizer)), None)
        folder = trainer.log_dir or trainer.default_root_dir  # on every rank, since Lightning broadcasts it
        if embedding is None or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if any(hasattr(parameter, "full_tensor") for parameter in embedding.parameters()):
            print("no embedding.csv: the parameters are sharded, and one process sees a part of each row")
            return
        lengths = row_lengths(embedding).tolist()
        counts = splits["train"].token_counts(len(lengths)).tolist()
        with (Path(folder) / "embedding.csv").open("w", newline="", encoding="utf-8") as table:
            writer = csv.writer(table)
            writer.writerow(LENGTH_COLUMNS)
            for place, (name, count, length) in enumerate(zip(tokenizer.names(), counts, lengths, strict=True)):
                writer.writerow([place, name, count, f"{length:.7g}"])
        plot_row_lengths(Path(folder))


def row_lengths(embedding: nn.Embedding | WNEmbedding) -> Tensor:
    """Return the length of each row of an embedding, ``(V,)``, in float32 at least: of a normalised one \\|g\\|."""
    if isinstance(embedding, WNEmbedding) and (g := embedding.v_and_g("weight")[1].detach()).ndim == 1:
        return g.abs().to(torch.promote_types(g.dtype, torch.float32))
    weight = embedding.weight.detach()
    return row_norm(weight.to(torch.promote_types(weight.dtype, torch.float32)))
