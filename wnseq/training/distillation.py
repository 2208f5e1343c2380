"""The teacher of a language model that learns to predict as another one does."""

from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from wnseq.distillation import distillation_loss
from wnseq.training.reading import check_direction
from wnseq.training.run_info import find_trainer

__all__ = ["Teacher"]


class Teacher:
    """A trained language model whose predictions another one learns, without dropout and gradients.

    Args:
        model: The model that learns, with ``tokenizer``, ``reads_backward`` and, from batch to batch, ``states``.
        path: Checkpoint of a model of the same class.

    Attributes:
        nats: Mean cross-entropy of the targets of the last batch, of the model that learns.

    Raises:
        ValueError: It has another tokenizer, or reads the other way; the softmax of the model is chunked; a resumed run
            had a teacher of other weights.
    """

    def __init__(self, model: Any, path: str) -> None:
        if model.hparams.chunked_softmax:
            raise ValueError("distill_from needs all logits at once: leave chunked_softmax out")
        teacher = type(model).load_from_checkpoint(path, map_location=model.device)
        if (before := teacher.tokenizer.sha256) != (now := model.tokenizer.sha256):
            raise ValueError(
                f"distill_from must have the tokenizer of the data, got {path} with another one (sha256 {before[:12]}, "
                f"the data {now[:12]}): give --data.tokenizer {path}"
            )
        check_direction(teacher.reads_backward, model.reads_backward, f"distill_from {path}")
        self.nats = torch.tensor(torch.nan)
        network = teacher.network.eval()
        before, model.states.teacher_sha256 = model.states.teacher_sha256, _sha256(network)
        if before not in (None, model.states.teacher_sha256):
            raise ValueError(
                f"distill_from {path} has other weights than the teacher of the run to be resumed: give the file as it "
                "was, or start a new run, with init_from"
            )
        self._dtype = teacher.dtype  # whatever the precision of the model that learns
        with torch.no_grad():
            self._step = network.bind()
        if find_trainer(model) is not None:
            model.print(f"distilled from {path}, {sum(weight.numel() for weight in network.parameters()):,} parameters")

    def loss(self, model: Any, batch: Any, logits: Tensor) -> Tensor:
        """Return the loss of a batch, of which the model predicts the logits ``(T, N, V)``, and keep its ``nats``."""
        state = model.states.carried(model, "teacher", batch, self._dtype)
        with torch.no_grad():
            aim, state = self._step(batch.inputs, state, reset=batch.reset)
        model.states.carry("teacher", state)
        loss, self.nats = distillation_loss(logits, aim, batch.targets)
        return loss


def _sha256(network: nn.Module) -> str:
    """Return a hash of all weights."""
    digest = sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
