"""One layer in one direction over a sequence, step by step, and its backward written by hand.

Rows are those of a packed sequence: step t has ``sizes[t]`` of them, one for each sequence still alive, below those of
step t − 1. A padded batch has N at each step. The products with x are one matrix product before the first step, the
gradients of the weights one each after the last; a step is left with the recurrent product and the gates.

A backward takes the gradients of output and final states, the arguments of the forward, and what it saved. With a mask
``reset`` some states are zero before some steps (:mod:`wnseq._recurrence.resets`), and so are their gradients.

Where MKL is not fast, torch's tanh takes ten times as long as its σ, and tanh x is 2σ(2x) − 1 here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence.backend import LayerBackend, widen
from wnseq._recurrence.call import Call
from wnseq._recurrence.matmul import linear, onednn_supports, prepacked_add, prepacked_linear, weight_grad
from wnseq._recurrence.packed import check_step_sizes
from wnseq._recurrence.resets import find_resets, zero, zero_
from wnseq._torch_internals import IS_MKL_FAST, is_recording

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward
_tanh_backward_out = torch.ops.aten.tanh_backward.grad_input


class CPULoop(LayerBackend):
    """Runs a loop where oneDNN has its products, and where nothing records: a graph would take the loop apart.

    An autograd function has no rule for the transforms of ``torch.func`` and for forward-mode derivatives either.
    """

    name = "cpu_loop"

    def why_not(self, call: Call) -> str | None:
        """Return None if the weights are float32 on a CPU and oneDNN has their products.

        With resets, which torch's kernel does not have, they may be of any dtype, and oneDNN may be missing.
        """
        reason = why_no_loop(call)
        if reason or call.reset is not None:
            return reason
        if not onednn_supports(call.x, *call.states, *call.flat):
            return "oneDNN, which has its products, is missing, turned off, or without the dtype of input or states"
        if any(weight.dtype != torch.float32 for weight in call.flat):
            return "its weights are not float32"
        return None


def why_no_loop(call: Call) -> str | None:
    """Return what keeps a loop from running, None if every tensor is a plain one on a CPU and nothing records."""
    given = (call.x, *call.states, *call.flat)
    if is_recording(*given):  # before what torch.compile cannot follow
        return "a graph is captured, or a transform of torch.func or a forward-mode derivative is active"
    if not all(type(each) in (Tensor, torch.nn.Parameter) and each.is_cpu and each.numel() for each in given):
        return "a tensor is not on a CPU, empty, or of a subclass"
    return None


def lstm_forward(
    x: Tensor,
    sizes: list[int],
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    w_hr: Tensor | None,
    reverse: bool,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run one LSTM layer in one direction, with ``bias`` b_ih + b_hh.

    The products are in the dtype of x and the weights, which the output and the final states have too; states and gates
    are float32 at least.

    Returns:
        Output ``(ΣN, P or H)``, final h and c, and for the backward the gates ``(ΣN, 4·H)`` after their nonlinearities
        and the cell states ``(ΣN, H)``.
    """
    size = c.shape[1]
    gates = widen(linear(x, w_ih, bias))
    h, c = widen(h), widen(c)
    add_product = prepacked_add(w_hh, len(h), sizes[0] == sizes[-1])
    cells = gates.new_empty(len(x), size)
    output = gates.new_empty(len(x), h.shape[1])
    minus_one = gates.new_tensor(-1.0)
    rows, _ = find_resets(reset, sizes, reverse)
    for a, i, f, g, o, c_t, h_t, row in steps_of(sizes, reverse, gates, *gates.chunk(4, 1), cells, output, rows):
        add_product(a, zero(h[: len(a)], row).to(x.dtype))
        g.mul_(2)
        a.sigmoid_()
        torch.add(minus_one, g, alpha=2, out=g)
        torch.mul(f, c[: len(a)], out=c_t)
        zero_(c_t, row).addcmul_(i, g)
        zero_(f, row)  # so that no gradient passes it
        if w_hr is None:
            torch.mul(o, _tanh(c_t), out=h_t)
        else:
            h_t.copy_(F.linear((o * _tanh(c_t)).to(x.dtype), w_hr))
        h, c = update_state(h, h_t), update_state(c, c_t)
    return output.to(x.dtype), h.to(x.dtype, copy=True), c.to(x.dtype, copy=True), gates, cells


def lstm_backward(
    d_output: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    x: Tensor,
    sizes: list[int],
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    reverse: bool,
    output: Tensor,
    gates: Tensor,
    cells: Tensor,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, h, c, w_ih, w_hh, of each bias, and of w_hr (empty without a projection).

    A step computes its local derivatives while its gates are in the cache; over all steps at once they would not be.
    """
    rows, flat_rows = find_resets(reset, sizes, reverse)
    old_cells = states_before(cells, widen(c), sizes, reverse)  # behind a reset the forget gate is zero
    old_h = zero_(torch.cat(states_before(output, h, sizes, reverse)), flat_rows)
    d = torch.empty_like(gates)
    d_output, d_h, d_c = widen(d_output), widen(d_h), widen(d_c)
    d_projected = torch.empty_like(d_output) if w_hr is not None else d_output
    multiply = prepacked_linear(w_hh.mT, None, len(h))
    parts: tuple[Any, ...] = (d_output, d_projected, d, *d.chunk(4, 1), *gates.chunk(4, 1), cells, old_cells, rows)
    for now, d_projected_t, d_t, d_i, d_f, d_g, d_o, i, f, g, o, c_t, old, row in reversed(
        steps_of(sizes, reverse, *parts)
    ):
        now = now + d_h[: len(d_t)]
        if w_hr is not None:
            now = widen(d_projected_t.copy_(now).to(x.dtype) @ w_hr)
        tanh = _tanh(c_t)
        d_new = _tanh_backward(now * o, tanh).add_(d_c[: len(d_t)])  # of c after the step
        _sigmoid_backward(now.mul_(tanh), o, grad_input=d_o)
        _sigmoid_backward(d_new * g, i, grad_input=d_i)
        _sigmoid_backward(d_new * old, f, grad_input=d_f)
        _tanh_backward_out(d_new * i, g, grad_input=d_g)
        d_h = update_state(d_h, zero_(widen(multiply(d_t.to(x.dtype))), row))
        d_c = update_state(d_c, d_new.mul_(f))
    d_hr = x.new_empty(0)
    if w_hr is not None:
        d_hr = weight_grad(d_projected.to(x.dtype), (gates.chunk(4, 1)[3] * _tanh(cells)).to(x.dtype))
    d_bias, d = d.sum(0).to(x.dtype), d.to(x.dtype)
    d_h, d_c = d_h.to(h.dtype, copy=True), d_c.to(c.dtype, copy=True)
    return linear(d, w_ih.mT), d_h, d_c, weight_grad(d, x), weight_grad(d, old_h), d_bias, d_hr


def gru_forward(
    x: Tensor,
    sizes: list[int],
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reverse: bool,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run one GRU layer in one direction.

    The products are in the dtype of x and the weights; states, gates and biases in that of h.

    Returns:
        Output ``(ΣN, H)``, final h, and for the backward the gates ``(ΣN, 3·H)`` after their nonlinearities and
        W_hn h + b_hn ``(ΣN, H)``.
    """
    size = h.shape[1]
    gates = linear(x, w_ih, b_ih).to(h.dtype)
    inner = gates.new_empty(len(x), size)
    output = torch.empty_like(inner)
    multiply = prepacked_linear(w_hh, b_hh, len(h), sizes[0] == sizes[-1])
    r_and_z, (r, z, new), rows = gates[:, : 2 * size], gates.chunk(3, 1), find_resets(reset, sizes, reverse)[0]
    for a, r_t, z_t, new_t, inner_t, h_t, row in steps_of(sizes, reverse, r_and_z, r, z, new, inner, output, rows):
        alive = zero(h[: len(h_t)], row)
        from_h = multiply(alive.to(x.dtype))
        a.add_(from_h[:, : 2 * size]).sigmoid_()
        new_t.addcmul_(r_t, inner_t.copy_(from_h[:, 2 * size :])).tanh_()
        h = update_state(h, torch.lerp(new_t, alive, z_t, out=h_t))
    return output, h.clone(), gates, inner


def gru_backward(
    d_output: Tensor,
    d_h: Tensor,
    x: Tensor,
    sizes: list[int],
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    reverse: bool,
    output: Tensor,
    gates: Tensor,
    inner: Tensor,
    wants_x: bool = True,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty without ``wants_x``), h, w_ih, w_hh, b_ih and b_hh."""
    size = h.shape[1]
    r, z, new = gates.chunk(3, 1)
    rows, flat_rows = find_resets(reset, sizes, reverse)
    before = zero_(torch.cat(states_before(output, h, sizes, reverse)), flat_rows)
    to_new = _tanh_backward(1 - z, new)  # ∂h/∂a of n
    local = torch.empty_like(gates)  # ∂h/∂ of W_hh h + b_hh
    _sigmoid_backward(inner * to_new, r, grad_input=local[:, :size])
    _sigmoid_backward(before - new, z, grad_input=local[:, size : 2 * size])
    torch.mul(r, to_new, out=local[:, 2 * size :])
    d_output = d_output.to(h.dtype, copy=True)  # of a step; the walk adds that of later steps
    d = torch.empty_like(gates, dtype=x.dtype)
    multiply = prepacked_linear(w_hh.mT, None, len(h))
    parts = (part.view(-1, 3, size) for part in (local, d))
    for now, z_t, d_t, local_t, d_parts, row in reversed(steps_of(sizes, reverse, d_output, z, d, *parts, rows)):
        now.add_(d_h[: len(now)])
        torch.mul(local_t, now.unsqueeze(1), out=d_parts)
        d_h = update_state(d_h, zero_(torch.addcmul(multiply(d_t).to(h.dtype), now, z_t), row))
    d_hh, d_b_hh = weight_grad(d, before.to(x.dtype)), d.sum(0, dtype=h.dtype)
    torch.mul(d_output, to_new, out=d[:, 2 * size :])  # r multiplies the recurrent part alone
    d_x = linear(d, w_ih.mT) if wants_x else x.new_empty(0)
    return d_x, d_h.clone(), weight_grad(d, x), d_hh, d.sum(0, dtype=h.dtype), d_b_hh


def rnn_forward(
    x: Tensor,
    sizes: list[int],
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    relu: bool,
    reverse: bool,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run one Elman layer in one direction, with ``bias`` b_ih + b_hh; return output ``(ΣN, H)`` and final h."""
    output = linear(x, w_ih, bias)
    add_product = prepacked_add(w_hh, len(h), sizes[0] == sizes[-1])
    for a, row in steps_of(sizes, reverse, output, find_resets(reset, sizes, reverse)[0]):
        add_product(a, zero(rows_alive(h, a), row))
        h = update_state(h, a.relu_() if relu else _tanh(a, out=a))
    return output, h.clone()


def rnn_backward(
    d_output: Tensor,
    d_h: Tensor,
    x: Tensor,
    sizes: list[int],
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    relu: bool,
    reverse: bool,
    output: Tensor,
    wants_x: bool = True,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty without ``wants_x``), h, w_ih, w_hh and of each bias."""
    rows, flat_rows = find_resets(reset, sizes, reverse)
    d = torch.empty_like(output)
    multiply = prepacked_linear(w_hh.mT, None, len(h))
    for d_t, now, h_t, row in reversed(steps_of(sizes, reverse, d, d_output, output, rows)):
        now = now + rows_alive(d_h, d_t)
        if relu:
            torch.mul(now, h_t > 0, out=d_t)
        else:
            _tanh_backward_out(now, h_t, grad_input=d_t)
        d_h = update_state(d_h, zero_(multiply(d_t), row))
    if flat_rows is None and sizes[0] == sizes[-1]:  # the states before are the output, shifted by a step
        first, others = (slice(-len(h), None), slice(-len(h))) if reverse else (slice(len(h)), slice(len(h), None))
        earlier = output[len(h) :] if reverse else output[: -len(h)]
        d_hh = weight_grad(d[others], earlier)
        torch.addmm(d_hh, d[first].mT, h, out=d_hh)
    else:
        d_hh = weight_grad(d, zero_(torch.cat(states_before(output, h, sizes, reverse)), flat_rows))
    d_x = linear(d, w_ih.mT) if wants_x else x.new_empty(0)
    return d_x, d_h.clone(), weight_grad(d, x), d_hh, d.sum(0)


def as_rows(x: Tensor) -> Tensor:
    """View a padded tensor ``(T, N, ·)`` as rows ``(T·N, ·)``; a packed one has them."""
    return x.flatten(0, 1) if x.ndim == 3 else x


def step_sizes(x: Tensor, batch_sizes: Tensor | None) -> list[int]:
    """Return how many rows each step has; those of a packed input are checked, as a captured graph could not."""
    if batch_sizes is None:
        return [x.shape[1]] * x.shape[0]
    sizes: list[int] = batch_sizes.tolist()
    check_step_sizes(sizes, len(x))
    return sizes


def _tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Return tanh x, by σ where that is faster; not of half precision, where the difference would lose its digits."""
    if IS_MKL_FAST or x.dtype not in (torch.float32, torch.float64):
        return torch.tanh(x, out=out)
    return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)


def steps_of(sizes: list[int], reverse: bool, *parts: Tensor | list[Any]) -> list[tuple[Any, ...]]:
    """Split tensors into the rows of each step, in the order of the walk; a list has an entry for each step."""
    split = (part if isinstance(part, list) else torch.split(part, sizes) for part in parts)
    steps = list(zip(*split, strict=True))
    return steps[::-1] if reverse else steps


def rows_alive(state: Tensor, step: Tensor) -> Tensor:
    """Return the rows of a state that belong to the sequences of a step; a slice takes longer than the question."""
    return state if len(state) == len(step) else state[: len(step)]


def update_state(state: Tensor, alive: Tensor) -> Tensor:
    """Return the state with its first rows, those of the sequences alive, replaced."""
    return alive if len(alive) == len(state) else torch.cat([alive, state[len(alive) :].to(alive.dtype)])


def unsaved(ctx: Any, output: Tensor) -> Tensor:
    """Return an output that may be written into, as torch's may, though the backward of ``ctx`` reads it."""
    return output.clone() if any(ctx.needs_input_grad) else output.data  # no view, which autograd would not let change


def of_both_biases(d_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of b_ih and b_hh, equal and each in its own memory: a program may scale them in place."""
    return d_bias, d_bias.clone()


def states_before(values: Tensor, initial: Tensor, sizes: list[int], reverse: bool) -> list[Tensor]:
    """Return for each step, in the order of time, the value after the step before."""
    parts: list[Tensor] = []
    state = initial
    for (now,) in steps_of(sizes, reverse, values):
        parts.append(state[: len(now)])
        state = update_state(state, now)
    return parts[::-1] if reverse else parts
