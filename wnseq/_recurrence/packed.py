"""Checks of a packed sequence, whose parts nothing else holds together: torch takes or stumbles over what differs."""

import itertools

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from wnseq._torch_internals import is_tracing
from wnseq.errors import ShapeError

_REMEDY = "; make it by torch.nn.utils.rnn.pack_padded_sequence or pack_sequence"


def check_packed(label: str, packed: PackedSequence) -> None:
    """Raise ShapeError or TypeError if the parts of a packed sequence do not fit, as far as a graph can tell.

    Args:
        label: Name of the module, for the error.
        packed: The input. On a GPU its indices are not read, for which every forward would have to wait.
    """
    data, batch_sizes, order, inverse = packed
    for name, part in (("data", data), ("batch_sizes", batch_sizes)):
        if not isinstance(part, Tensor):
            raise TypeError(f"{label}: {name} of a PackedSequence must be a tensor, got {type(part).__name__}{_REMEDY}")
    if data.ndim != 2:
        raise ShapeError(f"input must have 2 dimensions, got {data.ndim} in a PackedSequence given to {label}")
    if is_tracing():  # a graph cannot branch on a length or on what a tensor holds
        return
    if batch_sizes.ndim != 1 or len(batch_sizes) == 0 or batch_sizes.dtype != torch.int64:
        got = f"{batch_sizes.dtype} of shape {tuple(batch_sizes.shape)}"
        raise ShapeError(f"{label}: batch_sizes of a PackedSequence must be int64 of shape (T,), got {got}{_REMEDY}")
    sizes = batch_sizes.tolist()
    check_step_sizes(sizes, len(data), label)
    if order is not None or inverse is not None:
        _check_indices(label, sizes[0], {"sorted_indices": order, "unsorted_indices": inverse})


def _check_indices(label: str, count: int, indices: dict[str, Tensor | None]) -> None:
    """Raise ShapeError if both indices of a packed sequence are not an order of its sequences and its inverse."""
    for name, each in indices.items():
        if each is None or each.shape != (count,) or each.dtype not in (torch.int32, torch.int64):
            got = "None" if each is None else f"{each.dtype} of shape {tuple(each.shape)}"
            raise ShapeError(
                f"{label}: {name} of a PackedSequence must be one index for each of its {count} sequences, got "
                f"{got}{_REMEDY}"
            )
    order, inverse = (each.tolist() if each is not None and each.is_cpu else [] for each in indices.values())
    if order and (
        not all(0 <= index < count for index in inverse) or [order[k] for k in inverse] != list(range(count))
    ):
        raise ShapeError(
            f"{label}: sorted_indices and unsorted_indices of a PackedSequence must be permutations, each the inverse "
            f"of the other{_REMEDY}"
        )


def check_step_sizes(sizes: list[int], rows: int, label: str = "wnseq") -> None:
    """Raise ShapeError if steps of so many rows, none more than the step before, do not make up all rows."""
    if sum(sizes) != rows or sizes[-1] < 0 or any(after > before for before, after in itertools.pairwise(sizes)):
        shown = f"{sizes[:8]}"[:-1] + (", …]" if len(sizes) > 8 else "]")
        raise ShapeError(
            f"{label}: batch_sizes of a PackedSequence must not increase and must add up to the {rows} rows of its "
            f"data, got {shown} with the sum {sum(sizes)}{_REMEDY}"
        )
