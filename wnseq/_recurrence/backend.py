"""What a back end is, and the context that forces one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence.call import Call, States
from wnseq._torch_internals import is_autocast

Name = Literal["auto", "cpu_loop", "torch", "single_step", "reset_steps", "parallel_scan", "custom_ops", "unrolled"]
_forced: tuple[Name, ...] = ("auto",)


@contextmanager
def backend(name: Name, *others: Name) -> Iterator[None]:
    """Force what runs recurrent layers.

    Args:
        name: ``torch`` for torch's fused kernels; ``cpu_loop`` for wnseq's loops on a CPU; ``single_step`` for a cell's
            operations on one step; ``reset_steps`` for torch's LSTM with steps that reset its state; ``parallel_scan``
            for minGRU and minLSTM; ``custom_ops`` for a captured graph; ``unrolled`` for one step after the other;
            ``auto`` for the faster by a fixed rule on dtype and size, the default.
        others: What runs a call that the ones before cannot run; ``auto`` runs any.

    Raises:
        RuntimeError: In the context, a call that none of the names can run; it says why.
        ValueError: There is no such back end.

    Note:
        It holds for the whole process, as ``torch.nn.attention.sdpa_kernel`` does: other threads, such as those of a
        data loader, of ``nn.DataParallel`` or of a server, follow it too.

    Example:
        >>> import torch, wnseq
        >>> rnn, x = wnseq.WNGRU(4, 6), torch.randn(3, 2, 4)
        >>> with backend("cpu_loop", "auto"):
        ...     output, h = rnn(x)
        >>> with backend("torch"):
        ...     torch.allclose(rnn(x)[0], output, atol=1e-6)
        True
    """
    for each in (name, *others):
        if each not in get_args(Name):
            known = ", ".join(map(repr, get_args(Name)))
            raise ValueError(f"backend: name must be one of {known}, got {each!r}")
    global _forced
    before, _forced = _forced, (name, *others)
    try:
        yield
    finally:
        _forced = before


def forced_backends() -> tuple[Name, ...]:
    """Return the names given to :func:`backend`, ``auto`` outside of it."""
    return _forced


class Backend(ABC):
    """Runs recurrent layers; one object in a module, listed in :mod:`wnseq._recurrence.dispatch`."""

    name: ClassVar[str]  # that :func:`backend` takes
    rule: ClassVar[str] = ""  # when it is the faster, in words

    @abstractmethod
    def why_not(self, call: Call) -> str | None:
        """Return why the call cannot run here, None if it can."""

    def is_faster(self, call: Call) -> bool:
        """Return True if the call runs faster here than in the back ends after it."""
        return True

    @abstractmethod
    def run(self, call: Call) -> tuple[Tensor, States]:
        """Run all layers; return the output in the layout of the input, and the final states."""


class LayerBackend(Backend):
    """Runs layers and directions one by one."""

    @abstractmethod
    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction: x ``(T, N, I)`` or packed ``(ΣN, I)``, states ``(N, ·)``."""

    def run(self, call: Call) -> tuple[Tensor, States]:
        """Run all layers; return the output in the layout of the input, and the final states."""
        config = call.config
        swap = config.batch_first and call.batch_sizes is None
        x = call.x.transpose(0, 1) if swap else call.x  # (T, N, I), or (ΣN, I) packed
        directions = 1 + config.bidirectional
        count = config.num_layers * directions
        size = len(call.flat) // count  # weights and biases of each
        final: list[States] = []
        for first in range(0, count, directions):
            if first and config.dropout:
                x = F.dropout(x, config.dropout, config.training)
            outputs: list[Tensor] = []
            for k in range(first, first + directions):
                weights = call.flat[k * size : (k + 1) * size]
                output, states = self.layer(call, x, tuple(s[k] for s in call.states), weights, k > first)
                outputs.append(output)
                final.append(states)
            x = torch.cat(outputs, -1) if directions > 1 else outputs[0]
        return x.transpose(0, 1) if swap else x, tuple(torch.stack(parts) for parts in zip(*final, strict=True))


def unpack(weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return w_ih, w_hh, b_ih, b_hh and w_hr of a layer: with an odd number of weights the last is the projection."""
    w_hr = weights[-1] if len(weights) % 2 else None
    b_ih, b_hh = (weights[2], weights[3]) if len(weights) > 3 else (None, None)
    return weights[0], weights[1], b_ih, b_hh, w_hr


def autocast(x: Tensor, states: States, weights: list[Tensor]) -> tuple[Tensor, States, list[Tensor]]:
    """Cast what goes into a layer as autocast does for a kernel."""
    device = x.device.type
    if not is_autocast(device) or x.dtype == torch.float64:  # which autocast leaves alone
        return x, states, weights
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), tuple(state.to(dtype) for state in states), [weight.to(dtype) for weight in weights]


def widen(x: Tensor) -> Tensor:
    """Return a tensor of half precision as float32, any other as it is."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
