"""One layer in one direction over a sequence, step by step, and its backward written by hand.

Rows are those of a packed sequence: step t has ``sizes[t]`` of them, one for each sequence still alive, below those of
step t − 1. A padded batch has N at each step. The products with x are one matrix product before the first step, the
gradients of the weights one each after the last; a step is left with the recurrent product and the gates.

A backward takes the gradients of output and final states, the arguments of the forward, and what it saved.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence.backend import LayerBackend, forced_backend
from wnseq._recurrence.call import Call
from wnseq._recurrence.matmul import linear, onednn_supports, prepacked_linear, weight_grad
from wnseq._recurrence.packed import check_step_sizes
from wnseq._torch_internals import is_recording

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward


class CPULoop(LayerBackend):
    """Runs a loop where oneDNN has its products, and where nothing records: a graph would take the loop apart.

    An autograd function has no rule for the transforms of ``torch.func`` and for forward-mode derivatives either.
    """

    def supports(self, call: Call) -> bool:
        """Return True if the weights are float32 on a CPU, and torch's kernel is not forced."""
        return (
            not is_recording(call.x, *call.states, *call.flat)  # before what torch.compile cannot follow
            and forced_backend() != "torch"
            and onednn_supports(call.x, *call.states, *call.flat)
            and all(weight.dtype == torch.float32 for weight in call.flat)
        )


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run one LSTM layer in one direction, with ``bias`` b_ih + b_hh.

    Returns:
        Output ``(ΣN, P or H)``, final h and c, and for the backward the gates ``(ΣN, 4·H)`` after their nonlinearities
        and the cell states ``(ΣN, H)``.
    """
    size = c.shape[1]
    gates = linear(x, w_ih, bias)
    multiply = prepacked_linear(w_hh, None, len(h))
    cells = torch.empty_like(gates[:, :size], memory_format=torch.contiguous_format)
    output = x.new_empty(len(x), h.shape[1])
    for a, cells_t, output_t in _steps(sizes, reverse, gates, cells, output):
        n = len(a)
        a += multiply(h[:n])
        a[:, : 2 * size].sigmoid_()
        a[:, 2 * size : 3 * size].tanh_()
        a[:, 3 * size :].sigmoid_()
        i, f, g, o = a.chunk(4, 1)
        new_c = torch.mul(f, c[:n], out=cells_t).addcmul_(i, g)
        if w_hr is None:
            new_h = torch.tanh(new_c, out=output_t).mul_(o)
        else:
            new_h = output_t.copy_(F.linear(new_c.tanh() * o, w_hr))
        h, c = _update_state(h, new_h), _update_state(c, new_c)
    return output, h.clone(), c.clone(), gates, cells


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, h, c, w_ih, w_hh, of each bias, and of w_hr (empty without a projection)."""
    size = c.shape[1]
    i, f, g, o = gates.chunk(4, 1)
    tanh_c = cells.tanh()
    to_c = o * (1 - tanh_c.square())  # ∂h/∂c
    d = torch.empty_like(gates)  # first ∂c/∂a of i, f, g and ∂h/∂a of o, then the gradients of a
    torch.mul(g, i * (1 - i), out=d[:, :size])
    torch.mul(_previous_states(cells, c, sizes, reverse), f * (1 - f), out=d[:, size : 2 * size])
    torch.mul(i, 1 - g.square(), out=d[:, 2 * size : 3 * size])
    torch.mul(tanh_c, o * (1 - o), out=d[:, 3 * size :])
    d_projected = d_output.clone() if w_hr is not None else d_output
    multiply = prepacked_linear(w_hh.mT, None, len(h))
    for d_output_t, d_projected_t, to_c_t, d_t, f_t in reversed(
        _steps(sizes, reverse, d_output, d_projected, to_c, d, f)
    ):
        n = len(d_t)
        now = d_output_t + d_h[:n]
        if w_hr is not None:
            d_projected_t.copy_(now)
            now = now @ w_hr
        cell = torch.addcmul(d_c[:n], now, to_c_t)
        d_t[:, : 3 * size].view(n, 3, size).mul_(cell.unsqueeze(1))
        d_t[:, 3 * size :].mul_(now)
        d_h, d_c = _update_state(d_h, multiply(d_t)), _update_state(d_c, cell * f_t)
    d_hr = weight_grad(d_projected, o * tanh_c) if w_hr is not None else x.new_empty(0)
    before = _previous_states(output, h, sizes, reverse)
    return linear(d, w_ih.mT), d_h.clone(), d_c.clone(), weight_grad(d, x), weight_grad(d, before), d.sum(0), d_hr


def gru_forward(
    x: Tensor,
    sizes: list[int],
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reverse: bool,
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
    multiply = prepacked_linear(w_hh, b_hh, len(h))
    r_and_z, (r, z, new) = gates[:, : 2 * size], gates.chunk(3, 1)
    for a, r_t, z_t, new_t, inner_t, h_t in _steps(sizes, reverse, r_and_z, r, z, new, inner, output):
        alive = h[: len(h_t)]
        from_h = multiply(alive.to(x.dtype))
        a.add_(from_h[:, : 2 * size]).sigmoid_()
        new_t.addcmul_(r_t, inner_t.copy_(from_h[:, 2 * size :])).tanh_()
        h = _update_state(h, torch.lerp(new_t, alive, z_t, out=h_t))
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty without ``wants_x``), h, w_ih, w_hh, b_ih and b_hh."""
    size = h.shape[1]
    r, z, new = gates.chunk(3, 1)
    before = _previous_states(output, h, sizes, reverse)
    to_new = _tanh_backward(1 - z, new)  # ∂h/∂a of n
    local = torch.empty_like(gates)  # ∂h/∂ of W_hh h + b_hh
    _sigmoid_backward(inner * to_new, r, grad_input=local[:, :size])
    _sigmoid_backward(before - new, z, grad_input=local[:, size : 2 * size])
    torch.mul(r, to_new, out=local[:, 2 * size :])
    d_output = d_output.to(h.dtype, copy=True)  # of a step; the walk adds that of later steps
    d = torch.empty_like(gates, dtype=x.dtype)
    multiply = prepacked_linear(w_hh.mT, None, len(h))
    parts = (part.view(-1, 3, size) for part in (local, d))
    for now, z_t, d_t, local_t, d_parts in reversed(_steps(sizes, reverse, d_output, z, d, *parts)):
        now.add_(d_h[: len(now)])
        torch.mul(local_t, now.unsqueeze(1), out=d_parts)
        d_h = _update_state(d_h, torch.addcmul(multiply(d_t).to(h.dtype), now, z_t))
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
) -> tuple[Tensor, Tensor]:
    """Run one Elman layer in one direction, with ``bias`` b_ih + b_hh; return output ``(ΣN, H)`` and final h."""
    output = linear(x, w_ih, bias)
    multiply = prepacked_linear(w_hh, None, len(h))
    for (a,) in _steps(sizes, reverse, output):
        a += multiply(h[: len(a)])
        h = _update_state(h, a.relu_() if relu else a.tanh_())
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, h, w_ih, w_hh and of each bias."""
    d = (output > 0).to(output.dtype) if relu else 1 - output.square()  # first ∂h/∂a, then the gradient of a
    multiply = prepacked_linear(w_hh.mT, None, len(h))
    for d_t, d_output_t in reversed(_steps(sizes, reverse, d, d_output)):
        d_t.mul_(d_output_t + d_h[: len(d_t)])
        d_h = _update_state(d_h, multiply(d_t))
    before = _previous_states(output, h, sizes, reverse)
    return linear(d, w_ih.mT), d_h.clone(), weight_grad(d, x), weight_grad(d, before), d.sum(0)


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


def _steps(sizes: list[int], reverse: bool, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Split tensors into the rows of each step, in the order of the walk."""
    steps = list(zip(*(torch.split(tensor, sizes) for tensor in tensors), strict=True))
    return steps[::-1] if reverse else steps


def _update_state(state: Tensor, alive: Tensor) -> Tensor:
    """Return the state with its first rows, those of the sequences alive, replaced."""
    return alive if len(alive) == len(state) else torch.cat([alive, state[len(alive) :].to(alive.dtype)])


def _previous_states(values: Tensor, initial: Tensor, sizes: list[int], reverse: bool) -> Tensor:
    """Return for each row the value after the step before: ``(ΣN, ·)``."""
    parts: list[Tensor] = []
    state = initial
    for (now,) in _steps(sizes, reverse, values):
        parts.append(state[: len(now)])
        state = _update_state(state, now)
    return torch.cat(parts[::-1] if reverse else parts)
