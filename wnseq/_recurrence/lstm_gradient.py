"""Where torch's LSTM has a wrong gradient in bfloat16, which it does not say: on a CPU with AMX, by oneDNN.

There the gradient of the input has nothing to do with the right one at 1,024 units and more by multiples of 32, and all
that follows from it neither (torch 2.13; with ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16`` it is right).
"""

import functools

import torch

from wnseq._recurrence.call import Call
from wnseq._torch_internals import (
    HAS_ONEDNN_BF16,
    HAS_ONEDNN_LSTM,
    has_vmap_or_jvp,
    is_tracing,
    needs_grad,
    onednn_lstm_backward,
    unseen_by_modes,
)

WRONG_GRADIENT = "its gradients in bfloat16 are wrong for so many units on this processor"
FEATURES = 8
LARGEST_ERROR = 0.1  # of the norm: rounding explains 0.006, and the wrong gradients are off by 0.9 to 1.3


def is_gradient_wrong(call: Call) -> bool:
    """Return True if torch's kernel would give a call in training wrong gradients."""
    return (
        call.kind == "lstm"
        and call.x.is_cpu
        and call.product_dtype == torch.bfloat16
        and call.batch_sizes is None  # oneDNN takes neither packed sequences nor projections
        and not call.projected
        and bool(torch.backends.mkldnn.enabled)
        and not is_tracing()
        and not has_vmap_or_jvp(call.x, *call.states, *call.flat)
        and needs_grad(call.x, *call.states, *call.flat)
        and not has_right_gradient(call.states[-1].shape[2])
    )


@functools.cache
def has_right_gradient(size: int) -> bool:
    """Return True if oneDNN's LSTM of so many units has in bfloat16 about the gradient that it has in float32.

    It is tried with one step, once for each size.
    """
    if not (HAS_ONEDNN_LSTM and HAS_ONEDNN_BF16):  # torch takes another kernel
        return True
    with unseen_by_modes():
        right, found = (_gradient(size, dtype) for dtype in (torch.float32, torch.bfloat16))
    return float((found - right).norm()) <= LARGEST_ERROR * float(right.norm())


def _gradient(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the gradient of the input of one step; all but the input's weight, whose product it is, are simple."""
    numbers = torch.arange(4 * size * FEATURES, dtype=torch.float64)  # not drawn: torch.func.vmap refuses that
    w_ih = (numbers.square() * 0.6180339887 % 1 * 2 - 1).float().view(-1, FEATURES)
    weights = [w_ih, torch.zeros(4 * size, size), torch.zeros(4 * size), torch.zeros(4 * size)]
    x, state, d = torch.ones(1, 1, FEATURES), torch.zeros(1, size), torch.ones(1, 1, size)
    d_output, x, zero, *weights = (tensor.to(dtype) for tensor in (d, x, state, *weights))
    with torch.autocast("cpu", enabled=False):
        d_x, *_ = onednn_lstm_backward(d_output, zero, zero, x, zero, zero, weights, False)
    return d_x.float()
