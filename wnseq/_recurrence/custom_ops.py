"""The recurrences as operators of our own, each opaque to the tools that capture graphs.

``torch.compile``, ``torch.export`` and the ONNX exporter see one node for a layer and direction, of any length and
batch size, where they would unroll torch's recurrences step by step or give up. An operator takes time-first input,
padded ``(T, N, I)`` or packed ``(ΣN, I)`` with its ``batch_sizes``, and the states of its layer and direction
``(N, ·)``.

What runs inside is oneDNN's LSTM where there is one, else the loops of :mod:`wnseq._recurrence.cpu_loops`. With ``save`` a loop keeps
what its backward needs; without, and with oneDNN, the backward runs the layer again first.
"""

import math
from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import cpu_loops
from wnseq._recurrence.matmul import HAS_ONEDNN

ONEDNN_LSTM = 2  # torch's number of the recurrence


def has_onednn(x: Tensor, batch_sizes: Tensor | None, w_hr: Tensor | None) -> bool:
    """Tell whether oneDNN has an LSTM for a layer: float32 or bfloat16 on a CPU, padded, without a projection.

    It takes half the time of the loop in float32, forward and backward, at 35×20×650 on a processor with AVX-512.
    """
    fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return HAS_ONEDNN and fits and batch_sizes is None and w_hr is None


# ---- LSTM


@torch.library.custom_op("wnseq::lstm", mutates_args=())
def lstm(
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run one LSTM layer in one direction; return output, final states, and the gates and cell states if saved."""
    with torch.autocast(x.device.type, enabled=False):
        if not save and has_onednn(x, batch_sizes, w_hr):
            output, h, c, _ = _onednn(x, h, c, [w_ih, w_hh, *_or_zeros(w_ih, b_ih, b_hh)], reverse, train=False)
            return output, h, c, x.new_empty(0), x.new_empty(0)
        bias = _sum(b_ih, b_hh)
        output, h, c, gates, cells = cpu_loops.lstm_forward(
            cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes), h, c, w_ih, w_hh, bias, w_hr, reverse
        )
        output = output.view(*x.shape[:-1], -1)
        return (output, h, c, gates, cells) if save else (output, h, c, x.new_empty(0), x.new_empty(0))


@lstm.register_fake
def _(
    x: Tensor, batch_sizes: Tensor | None, h: Tensor, c: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    gates, cells = _kept(x, c.shape[1], (4, 1), save=rest[-1])
    return x.new_empty(*x.shape[:-1], h.shape[1]), x.new_empty(h.shape), x.new_empty(c.shape), gates, cells


@torch.library.custom_op("wnseq::lstm_backward", mutates_args=())
def lstm_backward(
    d_output: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    reverse: bool,
    output: Tensor,
    gates: Tensor,
    cells: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Go back through :func:`lstm`; return the gradients of x, h, c, w_ih, w_hh, of each bias, and of w_hr."""
    with torch.autocast(x.device.type, enabled=False):
        if not gates.numel() and has_onednn(x, batch_sizes, w_hr):
            weights = [w_ih, w_hh, *_or_zeros(w_ih, b_ih, b_hh)]
            return _onednn_backward(d_output, d_h, d_c, x, h, c, weights, reverse)
        rows, sizes = cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
        if not gates.numel():
            bias = _sum(b_ih, b_hh)
            _, _, _, gates, cells = cpu_loops.lstm_forward(rows, sizes, h, c, w_ih, w_hh, bias, w_hr, reverse)
        d_x, d_h, d_c, d_ih, d_hh, d_bias, d_hr = cpu_loops.lstm_backward(
            cpu_loops.as_rows(d_output),
            d_h,
            d_c,
            rows,
            sizes,
            h,
            c,
            w_ih,
            w_hh,
            w_hr,
            reverse,
            cpu_loops.as_rows(output),
            gates,
            cells,
        )
        return d_x.view(x.shape), d_h, d_c, d_ih, d_hh, d_bias, d_hr


@lstm_backward.register_fake
def _(
    d_output: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_hr = x.new_empty(0) if w_hr is None else x.new_empty(w_hr.shape)
    d_x, d_h, d_c, d_ih, d_hh = (x.new_empty(each.shape) for each in (x, h, c, w_ih, w_hh))
    return d_x, d_h, d_c, d_ih, d_hh, x.new_empty(w_ih.shape[0]), d_hr


def _lstm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.reverse, _ = inputs
    result, _, _, gates, cells = output
    ctx.save_for_backward(*tensors, result, gates, cells)


def _lstm_autograd(ctx: Any, d_output: Tensor, d_h: Tensor, d_c: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, output, gates, cells = ctx.saved_tensors
    d_x, d_h, d_c, d_ih, d_hh, d_bias, d_hr = lstm_backward(
        d_output, d_h, d_c, *inputs, ctx.reverse, output, gates, cells
    )
    _, _, _, _, _, _, b_ih, b_hh, w_hr = inputs
    d_b_ih, d_b_hh = (None if b is None else d_bias for b in (b_ih, b_hh))
    return d_x, None, d_h, d_c, d_ih, d_hh, d_b_ih, d_b_hh, None if w_hr is None else d_hr, None, None


lstm.register_autograd(_lstm_autograd, setup_context=_lstm_setup)


def _onednn(
    x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], reverse: bool, train: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run oneDNN's LSTM; return output, final states and workspace."""
    x, h, c = x.contiguous(), h.contiguous(), c.contiguous()
    with torch.set_grad_enabled(train):  # torch asks this too before it makes a workspace
        output, h, c, workspace = torch.ops.aten.mkldnn_rnn_layer(
            x, *weights, h, c, reverse, [], ONEDNN_LSTM, c.shape[1], 1, True, False, False, train
        )
    return output, h.view(c.shape), c.view(c.shape), workspace


def _onednn_backward(
    d_output: Tensor, d_h: Tensor, d_c: Tensor, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run oneDNN's LSTM again, for a workspace of which nobody knows the size before, and go back through it."""
    x, h, c = x.contiguous(), h.contiguous(), c.contiguous()
    output, new_h, new_c, workspace = _onednn(x, h, c, weights, reverse, train=True)
    states, gradients = (h, c, output, new_h, new_c), (d_output.contiguous(), d_h.contiguous(), d_c.contiguous())
    size = c.shape[1]
    d_x, d_ih, d_hh, d_bias, _, d_h, d_c = torch.ops.aten.mkldnn_rnn_layer_backward(
        x, *weights, *states, *gradients, reverse, ONEDNN_LSTM, size, 1, True, True, False, [], False, workspace
    )
    return d_x, d_h.view(h.shape), d_c.view(c.shape), d_ih, d_hh, d_bias, x.new_empty(0)


def _or_zeros(w_ih: Tensor, *biases: Tensor | None) -> list[Tensor]:
    """Put zeros where there is no bias, as oneDNN wants one."""
    return [w_ih.new_zeros(w_ih.shape[0]) if bias is None else bias for bias in biases]


# ---- GRU


@torch.library.custom_op("wnseq::gru", mutates_args=())
def gru(
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run one GRU layer in one direction; return output, final state, and what the backward needs if saved."""
    with torch.autocast(x.device.type, enabled=False):
        output, h, gates, inner = cpu_loops.gru_forward(
            cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes), h, w_ih, w_hh, b_ih, b_hh, reverse
        )
        output = output.view(*x.shape[:-1], -1)
        return (output, h, gates, inner) if save else (output, h, x.new_empty(0), x.new_empty(0))


@gru.register_fake
def _(x: Tensor, batch_sizes: Tensor | None, h: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gates, inner = _kept(x, h.shape[1], (3, 1), save=rest[-1])
    return x.new_empty(*x.shape[:-1], h.shape[1]), x.new_empty(h.shape), gates, inner


@torch.library.custom_op("wnseq::gru_backward", mutates_args=())
def gru_backward(
    d_output: Tensor,
    d_h: Tensor,
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reverse: bool,
    output: Tensor,
    gates: Tensor,
    inner: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Go back through :func:`gru`; return the gradients of x, h, w_ih, w_hh, b_ih and b_hh."""
    with torch.autocast(x.device.type, enabled=False):
        rows, sizes = cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes)
        if not gates.numel():
            _, _, gates, inner = cpu_loops.gru_forward(rows, sizes, h, w_ih, w_hh, b_ih, b_hh, reverse)
        d_x, d_h, d_ih, d_hh, d_b_ih, d_b_hh = cpu_loops.gru_backward(
            cpu_loops.as_rows(d_output),
            d_h,
            rows,
            sizes,
            h,
            w_ih,
            w_hh,
            reverse,
            cpu_loops.as_rows(output),
            gates,
            inner,
        )
        return d_x.view(x.shape), d_h, d_ih, d_hh, d_b_ih, d_b_hh


@gru_backward.register_fake
def _(
    d_output: Tensor,
    d_h: Tensor,
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_x, d_h, d_ih, d_hh = (x.new_empty(each.shape) for each in (x, h, w_ih, w_hh))
    return d_x, d_h, d_ih, d_hh, x.new_empty(w_ih.shape[0]), x.new_empty(w_ih.shape[0])


def _gru_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.reverse, _ = inputs
    result, _, gates, inner = output
    ctx.save_for_backward(*tensors, result, gates, inner)


def _gru_autograd(ctx: Any, d_output: Tensor, d_h: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, output, gates, inner = ctx.saved_tensors
    d_x, d_h, d_ih, d_hh, d_b_ih, d_b_hh = gru_backward(d_output, d_h, *inputs, ctx.reverse, output, gates, inner)
    has_bias = inputs[-1] is not None
    return d_x, None, d_h, d_ih, d_hh, d_b_ih if has_bias else None, d_b_hh if has_bias else None, None, None


gru.register_autograd(_gru_autograd, setup_context=_gru_setup)


# ---- Elman


@torch.library.custom_op("wnseq::rnn", mutates_args=())
def rnn(
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    relu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Run one Elman layer in one direction; return output and final state."""
    with torch.autocast(x.device.type, enabled=False):
        bias = _sum(b_ih, b_hh)
        output, h = cpu_loops.rnn_forward(
            cpu_loops.as_rows(x), cpu_loops.step_sizes(x, batch_sizes), h, w_ih, w_hh, bias, relu, reverse
        )
        return output.view(*x.shape[:-1], -1), h


@rnn.register_fake
def _(x: Tensor, batch_sizes: Tensor | None, h: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(*x.shape[:-1], h.shape[1]), x.new_empty(h.shape)


@torch.library.custom_op("wnseq::rnn_backward", mutates_args=())
def rnn_backward(
    d_output: Tensor,
    d_h: Tensor,
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    relu: bool,
    reverse: bool,
    output: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Go back through :func:`rnn`; return the gradients of x, h, w_ih, w_hh and of each bias."""
    with torch.autocast(x.device.type, enabled=False):
        d_x, d_h, d_ih, d_hh, d_bias = cpu_loops.rnn_backward(
            cpu_loops.as_rows(d_output),
            d_h,
            cpu_loops.as_rows(x),
            cpu_loops.step_sizes(x, batch_sizes),
            h,
            w_ih,
            w_hh,
            relu,
            reverse,
            cpu_loops.as_rows(output),
        )
        return d_x.view(x.shape), d_h, d_ih, d_hh, d_bias


@rnn_backward.register_fake
def _(
    d_output: Tensor,
    d_h: Tensor,
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_x, d_h, d_ih, d_hh = (x.new_empty(each.shape) for each in (x, h, w_ih, w_hh))
    return d_x, d_h, d_ih, d_hh, x.new_empty(w_ih.shape[0])


def _rnn_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, batch_sizes, h, w_ih, w_hh, b_ih, _, ctx.relu, ctx.reverse = inputs
    ctx.has_bias = b_ih is not None
    ctx.save_for_backward(x, batch_sizes, h, w_ih, w_hh, output[0])


def _rnn_autograd(ctx: Any, d_output: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, output = ctx.saved_tensors
    d_x, d_h, d_ih, d_hh, d_bias = rnn_backward(d_output, d_h, *inputs, ctx.relu, ctx.reverse, output)
    d_b = d_bias if ctx.has_bias else None
    return d_x, None, d_h, d_ih, d_hh, d_b, d_b, None, None


rnn.register_autograd(_rnn_autograd, setup_context=_rnn_setup)


def _sum(b_ih: Tensor | None, b_hh: Tensor | None) -> Tensor | None:
    """Add the two biases, where their gradients are one."""
    return None if b_ih is None or b_hh is None else b_ih + b_hh


def _kept(x: Tensor, size: int, parts: tuple[int, ...], save: bool) -> list[Tensor]:
    """Make what a forward keeps for its backward, so many units for each row of x; nothing in it if it does not."""
    rows = math.prod(x.shape[:-1])
    return [x.new_empty(rows, part * size) if save else x.new_empty(0) for part in parts]
