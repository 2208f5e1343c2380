"""One layer in one direction over a sequence, step by step, and back through it by hand.

Sequences lie as packed ones do: the rows of step t, one for each sequence still alive, below those of step t − 1, and
``sizes`` says how many each step has. A padded batch is one whose steps have N rows each. All input products are taken
in one matrix product before the first step, and the gradients of the weights in one each after the last; what must wait
for the step before is the recurrent product and the arithmetic of the gates.

A forward returns the output, the final states, and what its backward needs beside them. A backward takes the gradients
of output and final states and returns those of input, initial states and weights, in the order of the forward's
arguments; that of ``b_ih`` comes first where the two biases' differ, and once where they are one.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gru_backward", "gru_forward", "lstm_backward", "lstm_forward", "rnn_backward", "rnn_forward"]


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
    """Run one LSTM layer in one direction.

    Args:
        x: Input.
        sizes: Rows of each step.
        h: Initial hidden state.
        c: Initial cell state.
        w_ih: Input weight.
        w_hh: Recurrent weight.
        bias: b_ih + b_hh.
        w_hr: Projection.
        reverse: Whether to walk from the last step to the first.

    Shape:
        - x: ``(ΣN, I)``; h: ``(N, P or H)``; c: ``(N, H)``; w_hr: ``(P, H)``

    Returns:
        Output ``(ΣN, P or H)``, final h and c, and for the backward the gates ``(ΣN, 4·H)`` after their nonlinearities
        and the cell states ``(ΣN, H)``.
    """
    size = c.shape[1]
    gates = F.linear(x, w_ih, bias)
    cells = torch.empty_like(gates[:, :size], memory_format=torch.contiguous_format)
    output = x.new_empty(len(x), h.shape[1])
    for rows in _walk(sizes, reverse):
        a, n = gates[rows], rows.stop - rows.start
        a += F.linear(h[:n], w_hh)
        a[:, : 2 * size].sigmoid_()
        a[:, 2 * size : 3 * size].tanh_()
        a[:, 3 * size :].sigmoid_()
        i, f, g, o = a.chunk(4, 1)
        new_c = torch.mul(f, c[:n], out=cells[rows]).addcmul_(i, g)
        if w_hr is None:
            new_h = torch.tanh(new_c, out=output[rows]).mul_(o)
        else:
            new_h = output[rows].copy_(F.linear(new_c.tanh() * o, w_hr))
        h, c = _renew(h, new_h), _renew(c, new_c)
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
    """Go back through :func:`lstm_forward`.

    Args:
        d_output: Gradient of the output.
        d_h: Gradient of the final hidden state.
        d_c: Gradient of the final cell state.
        x: Input.
        sizes: Rows of each step.
        h: Initial hidden state.
        c: Initial cell state.
        w_ih: Input weight.
        w_hh: Recurrent weight.
        w_hr: Projection.
        reverse: Direction of the forward.
        output: What the forward returned.
        gates: Likewise.
        cells: Likewise.

    Returns:
        Gradients of x, h, c, w_ih, w_hh, of each bias, and of w_hr (empty without a projection).
    """
    size = c.shape[1]
    i, f, g, o = gates.chunk(4, 1)
    tanh_c = cells.tanh()
    to_c = o * (1 - tanh_c.square())  # ∂h/∂c
    d = torch.empty_like(gates)  # first ∂c/∂a of i, f, g and ∂h/∂a of o, then the gradients of a
    torch.mul(g, i * (1 - i), out=d[:, :size])
    torch.mul(_before(cells, c, sizes, reverse), f * (1 - f), out=d[:, size : 2 * size])
    torch.mul(i, 1 - g.square(), out=d[:, 2 * size : 3 * size])
    torch.mul(tanh_c, o * (1 - o), out=d[:, 3 * size :])
    d_projected = d_output.clone() if w_hr is not None else d_output
    for rows in reversed(_walk(sizes, reverse)):
        n = rows.stop - rows.start
        now = d_output[rows] + d_h[:n]
        if w_hr is not None:
            d_projected[rows] = now
            now = now @ w_hr
        cell = torch.addcmul(d_c[:n], now, to_c[rows])
        d[rows, : 3 * size].view(n, 3, size).mul_(cell.unsqueeze(1))
        d[rows, 3 * size :].mul_(now)
        d_h, d_c = _renew(d_h, d[rows] @ w_hh), _renew(d_c, cell * f[rows])
    d_hr = d_projected.mT @ (o * tanh_c) if w_hr is not None else x.new_empty(0)
    before = _before(output, h, sizes, reverse)
    return d @ w_ih, d_h.clone(), d_c.clone(), d.mT @ x, d.mT @ before, d.sum(0), d_hr


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

    Args:
        x: Input.
        sizes: Rows of each step.
        h: Initial hidden state.
        w_ih: Input weight.
        w_hh: Recurrent weight.
        b_ih: Input bias.
        b_hh: Recurrent bias.
        reverse: Whether to walk from the last step to the first.

    Shape:
        - x: ``(ΣN, I)``; h: ``(N, H)``

    Returns:
        Output ``(ΣN, H)``, final h, and for the backward the gates ``(ΣN, 3·H)`` after their nonlinearities and
        W_hn h + b_hn ``(ΣN, H)``.
    """
    size = h.shape[1]
    gates = F.linear(x, w_ih, b_ih)
    inner = torch.empty_like(gates[:, :size], memory_format=torch.contiguous_format)
    output = torch.empty_like(inner)
    for rows in _walk(sizes, reverse):
        a, n = gates[rows], rows.stop - rows.start
        from_h = F.linear(h[:n], w_hh, b_hh)
        a[:, : 2 * size].add_(from_h[:, : 2 * size]).sigmoid_()
        r, z, new = a.chunk(3, 1)
        new.addcmul_(r, inner[rows].copy_(from_h[:, 2 * size :])).tanh_()
        h = _renew(h, torch.lerp(new, h[:n], z, out=output[rows]))
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Go back through :func:`gru_forward`.

    Args:
        d_output: Gradient of the output.
        d_h: Gradient of the final hidden state.
        x: Input.
        sizes: Rows of each step.
        h: Initial hidden state.
        w_ih: Input weight.
        w_hh: Recurrent weight.
        reverse: Direction of the forward.
        output: What the forward returned.
        gates: Likewise.
        inner: Likewise.

    Returns:
        Gradients of x, h, w_ih, w_hh, b_ih and b_hh.
    """
    size = h.shape[1]
    r, z, new = gates.chunk(3, 1)
    before = _before(output, h, sizes, reverse)
    d = torch.empty_like(gates)  # first ∂n/∂a of r, ∂h/∂a of z, r; then the gradients of W_hh h + b_hh
    torch.mul(inner, r * (1 - r), out=d[:, :size])
    torch.mul(before - new, z * (1 - z), out=d[:, size : 2 * size])
    d[:, 2 * size :] = r
    d_new = (1 - z) * (1 - new.square())  # first ∂h/∂a of n, then the gradient of a
    for rows in reversed(_walk(sizes, reverse)):
        n = rows.stop - rows.start
        now = d_output[rows] + d_h[:n]
        d_new[rows].mul_(now)
        d[rows].view(n, 3, size)[:, ::2].mul_(d_new[rows].unsqueeze(1))
        d[rows, size : 2 * size].mul_(now)
        d_h = _renew(d_h, torch.addcmul(d[rows] @ w_hh, now, z[rows]))
    d_from_x = torch.cat([d[:, : 2 * size], d_new], 1)
    return d_from_x @ w_ih, d_h.clone(), d_from_x.mT @ x, d.mT @ before, d_from_x.sum(0), d.sum(0)


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
    """Run one Elman layer in one direction.

    Args:
        x: Input.
        sizes: Rows of each step.
        h: Initial hidden state.
        w_ih: Input weight.
        w_hh: Recurrent weight.
        bias: b_ih + b_hh.
        relu: Whether the nonlinearity is relu, not tanh.
        reverse: Whether to walk from the last step to the first.

    Shape:
        - x: ``(ΣN, I)``; h: ``(N, H)``

    Returns:
        Output ``(ΣN, H)`` and final h.
    """
    output = F.linear(x, w_ih, bias)
    for rows in _walk(sizes, reverse):
        a = output[rows]
        a += F.linear(h[: len(a)], w_hh)
        h = _renew(h, a.relu_() if relu else a.tanh_())
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
    """Go back through :func:`rnn_forward`.

    Args:
        d_output: Gradient of the output.
        d_h: Gradient of the final hidden state.
        x: Input.
        sizes: Rows of each step.
        h: Initial hidden state.
        w_ih: Input weight.
        w_hh: Recurrent weight.
        relu: Nonlinearity of the forward.
        reverse: Direction of the forward.
        output: What the forward returned.

    Returns:
        Gradients of x, h, w_ih, w_hh and of each bias.
    """
    d = (output > 0).to(output.dtype) if relu else 1 - output.square()  # first ∂h/∂a, then the gradient of a
    for rows in reversed(_walk(sizes, reverse)):
        d[rows].mul_(d_output[rows] + d_h[: rows.stop - rows.start])
        d_h = _renew(d_h, d[rows] @ w_hh)
    return d @ w_ih, d_h.clone(), d.mT @ x, d.mT @ _before(output, h, sizes, reverse), d.sum(0)


def _walk(sizes: Iterable[int], reverse: bool) -> list[slice]:
    """List the rows of each step, in the order in which the steps are taken."""
    steps, begin = [], 0
    for size in sizes:
        steps.append(slice(begin, begin + size))
        begin += size
    return steps[::-1] if reverse else steps


def _renew(state: Tensor, alive: Tensor) -> Tensor:
    """Put the new state of the sequences that are alive, the first ones, in the place of the old."""
    return alive if len(alive) == len(state) else torch.cat([alive, state[len(alive) :].to(alive.dtype)])


def _before(values: Tensor, initial: Tensor, sizes: list[int], reverse: bool) -> Tensor:
    """Lay out, for each row, the value that the step before left: ``(ΣN, ·)``."""
    parts: list[Tensor] = []
    state = initial
    for rows in _walk(sizes, reverse):
        parts.append(state[: rows.stop - rows.start])
        state = _renew(state, values[rows])
    return torch.cat(parts[::-1] if reverse else parts)
