"""How a language model reads a text: from which end, and whether each document from the zero state."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from wnseq.training.run_info import find_datamodule, find_trainer

__all__ = ["ReadsText", "check_direction"]


def check_direction(read: bool | None, given: bool | None, source: Any) -> None:
    """Check that a model reads from the end of a text that is given from its end, and from its beginning otherwise.

    Args:
        read: Whether it reads backward; None if that is not known.
        given: Whether the text comes backward; None if that is not known.
        source: What the error calls the model.

    Raises:
        ValueError: It reads the other way.
    """
    if None not in (read, given) and read != given:
        raise ValueError(f"{source} reads the other way: give --data.backward {read}")


class ReadsText(LightningModule):
    """A model that reads a text as its training data was read.

    Attributes:
        reads_backward: Whether from its end to its beginning; None while that is not known.
        documents: Whether each document from the zero state; None while that is not known.

    Example:
        >>> class Model(ReadsText): ...
    """

    reads_backward: bool | None = None
    documents: bool | None = None

    def read_as_data(self) -> None:
        """Read as the Trainer's data is read, or raise ValueError if the model reads the other way."""
        data = find_datamodule(self)
        backward, documents = (getattr(data, name, None) for name in ("backward", "documents"))
        check_direction(self.reads_backward, backward, "the model")
        self.reads_backward = self.reads_backward if backward is None else backward
        if self.documents is None or self.trainer.state.fn == "fit":
            self.documents = documents

    def read_as_trained(self, info: Mapping[str, Any]) -> None:
        """Read as the model of a checkpoint does, or raise ValueError if the data is read the other way.

        Args:
            info: What the checkpoint holds under ``wnseq``.
        """
        options, trainer = info.get("data", {}), find_trainer(self)
        check_direction(backward := options.get("backward"), self.reads_backward, "the checkpoint")
        self.reads_backward = self.reads_backward if backward is None else backward
        if trainer is None or trainer.state.fn != "fit":
            self.documents = options.get("documents")

    def on_test_start(self) -> None:
        """Print a line where a text is measured otherwise than the model was trained."""
        documents = getattr(find_datamodule(self), "documents", None)
        if None not in (documents, self.documents) and documents != self.documents:
            self.print(f"trained with data.documents {self.documents}, measured with {documents}")

    on_validation_start = on_test_start
