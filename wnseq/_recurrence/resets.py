"""Resets inside a sequence: which states are zero before which step, in each direction.

A mask is true where a border lies before a step: ``(T, N)``, or ``(ΣN,)`` beside a packed input. The forward direction
starts from zero at that step, the reverse direction at the step ahead of it in time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Rows = list[Tensor | None]  # for each step the sequences whose state is zero before it is read; None for none


def find_resets(reset: Tensor | None, sizes: list[int], reverse: bool) -> tuple[Rows, Tensor | None]:
    """Return the sequences to reset at each step, in the order of time, and the same as rows of all steps, one below
    the other. ``sizes`` has the sequences alive in each step.
    """
    if reset is None:
        return [None] * len(sizes), None
    counts = torch.tensor(sizes, device=reset.device)
    ends = counts.cumsum(0)
    starts = ends - counts
    rows = reset.flatten().nonzero().squeeze(1)
    steps = torch.searchsorted(ends, rows, right=True)
    columns = rows - starts[steps]
    if reverse:
        steps, columns = steps[steps > 0] - 1, columns[steps > 0]
    parts = torch.split(columns, steps.bincount(minlength=len(sizes)).tolist())
    return [part if len(part) else None for part in parts], starts[steps] + columns


def zero(state: Tensor, rows: Tensor | None) -> Tensor:
    """Return a state with these rows at zero, whatever they held."""
    return state if rows is None else state.index_fill(0, rows, 0)


def zero_(fresh: Tensor, rows: Tensor | None) -> Tensor:
    """Return a tensor that nothing else uses yet, with these rows at zero."""
    return fresh if rows is None else fresh.index_fill_(0, rows, 0)


def split_mask(reset: Tensor, batch_sizes: Tensor | None, reverse: bool) -> list[Tensor | None]:
    """Return the mask of each step, in the order of time, for operators that have all of torch's rules."""
    parts: list[Tensor | None] = list(
        reset.unbind(0) if batch_sizes is None else torch.split(reset, batch_sizes.tolist())
    )
    return [*parts[1:], None] if reverse else parts


def mask_state(state: Tensor, mask: Tensor | None) -> Tensor:
    """Return a state of at least as many sequences as a mask has, at zero where the mask is true."""
    if mask is None:
        return state
    starting = state.shape[0] - mask.shape[0]  # in reverse, sequences that begin at this step have no border after it
    return state.masked_fill((F.pad(mask, (0, starting)) if starting else mask).unsqueeze(1), 0)
