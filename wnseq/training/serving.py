"""Commands that make what serves a language model of its checkpoint: a smaller checkpoint, and a file for ONNX Runtime.

They take a model with a ``network`` of the parts ``encoder``, ``rnn`` and ``decoder``, a ``tokenizer``, and what
:class:`wnseq.training.reading.ReadsText` says of how it reads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from wnseq import convert
from wnseq.onnx import export_language_model
from wnseq.training.cli.checkpoint_commands import write_changed_checkpoint

__all__ = ["READERS", "export", "slim"]

READERS = {"rnn": "decoder"}  # what reads the units of the recurrent net


def slim(model: Any, checkpoint: Mapping[str, Any], output: str, tolerance: float = 0.0) -> None:
    """Write the checkpoint of a smaller model, which lacks the units that do nothing.

    Args:
        model: The model.
        checkpoint: What its file holds.
        output: The file to write, to test, to sample from, and to go on from by ``--model.init_from``.
        tolerance: Largest strength of a unit that goes, as in :func:`wnseq.convert.slim`; 0 changes rounding alone.

    Raises:
        ValueError: Every unit is stronger.
    """
    network: Any = convert.slim(model.network, READERS, tolerance)
    before, after = model.network.rnn.hidden_size, network.rnn.hidden_size
    if after == before:
        raise ValueError(
            f"each of the {before} units is stronger than --tolerance {tolerance:g}: train with --model.slim_penalty, "
            "or raise the tolerance"
        )
    changes = {
        "hidden_size": after,
        "embedding_size": network.encoder.embedding_dim,
        "tied": False,
        "slim_penalty": 0.0,  # what goes on from here is to keep its units
    }
    write_changed_checkpoint(output, checkpoint, nn.ModuleDict({"network": network}).state_dict(), changes)
    print(f"written to {output}: {after} of {before} units a layer")


def export(model: Any, checkpoint: Mapping[str, Any], output: str) -> None:
    """Write a model for ONNX Runtime, with its state as input and output, and its tokenizer beside it.

    Args:
        model: The model.
        checkpoint: What its file holds.
        output: The file to write, as ``model.onnx``, its folder made; the tokenizer goes to ``model.tokenizer.json``.

    Raises:
        ImportError: onnxscript or onnxruntime is missing; ``pip install 'wnseq[export]'``.
        ValueError: The model reads backward or cannot be exported, or ONNX Runtime computes something else.
    """
    if model.reads_backward:
        raise ValueError("the model reads from the end of a text to its beginning: it has no next token to serve")
    path = Path(output).expanduser()
    difference, tokenizer = export_language_model(model.network, path), path.with_suffix(".tokenizer.json")
    model.tokenizer.save(tokenizer)
    print(f"written to {output}, whose logits differ from torch's by {difference:.1g} at most; and {tokenizer}")
    if model.documents:
        print("it was trained on documents: set the state to zeros before the line end that ends a blank line")
