"""Who runs a recurrence on a CPU where torch's kernel and a loop of ours both can."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from wnseq._recurrence.matmul import onednn_supports
from wnseq._torch_internals import is_tracing

Choice = Literal["rule", "loop", "torch"]
_CHOICE: ContextVar[Choice] = ContextVar("wnseq_recurrence", default="rule")


@contextmanager
def backend(choice: Choice) -> Iterator[None]:
    """Choose what runs the layers of a GRU, and under bfloat16 autocast those of an LSTM, on a CPU.

    Args:
        choice: ``loop`` for the loops of wnseq wherever they can run, ``torch`` for torch's own recurrence, ``rule``
            for the faster by the measurements that stand beside the rules, which is the default, and takes single
            steps by the cells.

    Raises:
        ValueError: There is no such choice.

    Example:
        >>> import torch, wnseq
        >>> rnn, x = wnseq.WNGRU(4, 6), torch.randn(3, 2, 4)
        >>> with recurrence("loop"):
        ...     output, h = rnn(x)
        >>> with recurrence("torch"):
        ...     torch.allclose(rnn(x)[0], output, atol=1e-6)
        True
    """
    if choice not in ("rule", "loop", "torch"):
        raise ValueError(f"recurrence: choice must be 'rule', 'loop' or 'torch', got {choice!r}")
    token = _CHOICE.set(choice)
    try:
        yield
    finally:
        _CHOICE.reset(token)


def cpu_loops_supported(x: Tensor, states: tuple[Tensor, ...], flat: list[Tensor]) -> bool:
    """Tell whether a loop can run a layer and nobody chose torch's kernel.

    The products are oneDNN's. An autograd function has no rule for the transforms of ``torch.func`` and for
    forward-mode derivatives, and a graph would take the loop apart.

    Args:
        x: Input.
        states: Initial states.
        flat: Weights and biases.
    """
    return (
        _CHOICE.get() != "torch"
        and not is_tracing()
        and onednn_supports(x, *states, *flat)
        and all(each.dtype == torch.float32 for each in flat)
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def is_forced() -> bool:
    """Tell whether a loop is to run wherever it can, at whatever size."""
    return _CHOICE.get() == "loop"


def is_open() -> bool:
    """Tell whether nobody chose."""
    return _CHOICE.get() == "rule"


def product_dtype(x: Tensor) -> torch.dtype:
    """Tell in what a layer takes its products on a CPU: in what autocast asks for, or as the input comes."""
    casts = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64  # which autocast leaves alone
    return torch.get_autocast_dtype("cpu") if casts else x.dtype
