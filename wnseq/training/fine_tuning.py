"""Fine-tuning: a network starts from the weights of ``--model.init_from``."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from wnseq.training import checkpoint_files
from wnseq.training.initialisation import BatchInitialised

__all__ = ["load_initial_weights"]


def load_initial_weights(
    network: nn.Module,
    init_from: str,
    sizes: Iterable[str],
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Load a recipe's checkpoint, or a plain torch state dict with the same names, into a network.

    Args:
        network: Network to fill; a checkpoint holds its weights under ``network.``.
        init_from: Path of the file.
        sizes: Hyper-parameters that decide whether weights fit, for the hint of the error.
        check: Called with the content of the file before its weights are loaded; raises if they mean something else.

    Raises:
        ValueError: The file is no checkpoint, or its weights do not fit; with the flags that it was made with.
    """
    path = Path(init_from)
    loaded = checkpoint_files.load(path)
    if check is not None:
        check(loaded)
    checkpoint_files.load_weights(network, path, loaded, sizes)
    if isinstance(network, BatchInitialised):
        network.mark_initialised()  # whatever the file says: its weights are wanted
