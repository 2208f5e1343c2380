"""One step of each cell, and the order of the gates in its weights, which no other module knows."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence.matmul import is_memory_bound, memory_bound_linear
from wnseq._torch_internals import is_recording

GATES = {
    "rnn": ("hidden",),
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("reset", "update", "new"),
    "mingru": ("update", "new"),
    "minlstm": ("input", "forget", "new"),
    "mlstm": ("input", "forget", "cell", "output"),
}
CANDIDATES = ("hidden", "cell", "new")  # what is no gate among them: the new value, by tanh or as it is


def rnn_step(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    nonlinearity: str = "tanh",
) -> Tensor:
    """Compute one step of an Elman network.

    h' = φ(W_ih x + b_ih + W_hh h + b_hh)

    Args:
        x: Input.
        h: Hidden state.
        w_ih: Input weight.
        w_hh: Recurrent weight.
        b_ih: Input bias.
        b_hh: Recurrent bias.
        nonlinearity: φ, ``tanh`` or ``relu``.

    Shape:
        - x: ``(N, I)`` or ``(I,)``; h: ``(N, H)`` or ``(H,)``
        - w_ih: ``(H, I)``; w_hh: ``(H, H)``; biases: ``(H,)``

    Returns:
        The next hidden state, of h's shape.
    """
    if _is_of_torch(x, (h,), w_ih, w_hh, b_ih, b_hh):
        return (torch.rnn_tanh_cell if nonlinearity == "tanh" else torch.rnn_relu_cell)(x, h, w_ih, w_hh, b_ih, b_hh)
    total = memory_bound_linear(x, w_ih, b_ih) + memory_bound_linear(h, w_hh, b_hh)
    return total.tanh() if nonlinearity == "tanh" else total.relu()


def _is_of_torch(
    x: Tensor, states: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> bool:
    """Return True if a cell of torch computes the same numbers by fewer calls."""
    return (
        x.is_cpu
        and x.dim() == 2
        and all(state.shape == (len(x), w_hh.shape[1]) for state in states)  # a projected h is not as long as c
        and not is_recording(x, *states, w_ih, w_hh)
        and not is_memory_bound(x, w_ih, b_ih)
        and not is_memory_bound(states[0], w_hh, b_hh)
    )


def lstm_step(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    recurrent_dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Compute one step of an LSTM.

    i, f, g, o = σ, σ, tanh, σ of W_ih x + b_ih + W_hh h + b_hh; c' = f ⊙ c + i ⊙ g; h' = o ⊙ tanh(c')

    Args:
        x: Input.
        state: Hidden and cell state.
        w_ih: Weights and biases are those of :func:`rnn_step` for four gates, one below the other.
        w_hh, b_ih, b_hh: See w_ih.
        recurrent_dropout: Probability of a zero in g, of which the rest is scaled up; it is for training alone.

    Shape:
        - x: ``(N, I)`` or ``(I,)``; each state: ``(N, H)`` or ``(H,)``
        - w_ih: ``(4·H, I)``; w_hh: ``(4·H, H)``; biases: ``(4·H,)``

    Returns:
        The next hidden and cell state.
    """
    h, c = state
    if not recurrent_dropout and _is_of_torch(x, state, w_ih, w_hh, b_ih, b_hh):
        return torch.lstm_cell(x, (h, c), w_ih, w_hh, b_ih, b_hh)
    total = memory_bound_linear(x, w_ih, b_ih) + memory_bound_linear(h, w_hh, b_hh)  # (N, 4·H)
    i, f, g, o = total.chunk(4, -1)
    g = g.tanh()
    if recurrent_dropout:
        g = F.dropout(g, recurrent_dropout)
    c = f.sigmoid() * c + i.sigmoid() * g
    return o.sigmoid() * c.tanh(), c


def mlstm_step(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    w_im: Tensor,
    w_hm: Tensor,
    b_ih: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute one step of a multiplicative LSTM: of an LSTM that reads m = (W_im x) ⊙ (W_hm h) instead of h."""
    h, c = state
    m = memory_bound_linear(x, w_im) * memory_bound_linear(h, w_hm)
    return lstm_step(x, (m, c), w_ih, w_hh, b_ih)


def gru_step(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    recurrent_dropout: float = 0.0,
) -> Tensor:
    """Compute one step of a GRU.

    r, z = σ of W_ih x + b_ih + W_hh h + b_hh; n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn)); h' = (1 − z) ⊙ n + z ⊙ h

    Args:
        x: Input.
        h: Hidden state.
        w_ih: Weights and biases are those of :func:`rnn_step` for three gates, one below the other.
        w_hh, b_ih, b_hh: See w_ih.
        recurrent_dropout: Probability of a zero in n, of which the rest is scaled up; it is for training alone.

    Shape:
        - x: ``(N, I)`` or ``(I,)``; h: ``(N, H)`` or ``(H,)``
        - w_ih: ``(3·H, I)``; w_hh: ``(3·H, H)``; biases: ``(3·H,)``

    Returns:
        The next hidden state, of h's shape.
    """
    if not recurrent_dropout and _is_of_torch(x, (h,), w_ih, w_hh, b_ih, b_hh):
        return torch.gru_cell(x, h, w_ih, w_hh, b_ih, b_hh)
    r_x, z_x, n_x = memory_bound_linear(x, w_ih, b_ih).chunk(3, -1)  # (N, H) each
    r_h, z_h, n_h = memory_bound_linear(h, w_hh, b_hh).chunk(3, -1)
    r = (r_x + r_h).sigmoid()
    z = (z_x + z_h).sigmoid()
    n = (n_x + r * n_h).tanh()
    if recurrent_dropout:
        n = F.dropout(n, recurrent_dropout)
    return n + z * (h - n)


def min_gru_gates(total: Tensor) -> tuple[Tensor, Tensor]:
    """Return z and n of h' = h + z ⊙ (n − h) from a minGRU's products with its input."""
    z, n = total.chunk(2, -1)
    return z.sigmoid(), n


def min_lstm_gates(total: Tensor) -> tuple[Tensor, Tensor]:
    """Return z = σ(i)/(σ(i) + σ(f)) and n of a minLSTM, without a quotient: both gates may be too small for one."""
    i, f, n = total.chunk(3, -1)
    return (F.logsigmoid(i) - F.logsigmoid(f)).sigmoid(), n


MIN_GATES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"mingru": min_gru_gates, "minlstm": min_lstm_gates}


def open_min_gates_(kind: str, total: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return z and n as above, without a gradient and faster; in place the gates of the products go through their σ.

    z is None if both gates of a minLSTM are too small for a quotient somewhere.
    """
    if kind == "mingru":
        z, n = total.chunk(2, -1)
        return z.sigmoid_(), n
    i, f, n = total.chunk(3, -1)
    total[:, : -n.shape[1]].sigmoid_()
    z = i + f
    return torch.div(i, z, out=z) if z.amin() > 1e-26 else None, n


def min_step(kind: str, x: Tensor, h: Tensor, w_ih: Tensor, b_ih: Tensor | None = None) -> Tensor:
    """Compute one step of a minGRU or a minLSTM; its only products are with the input."""
    z, n = MIN_GATES[kind](memory_bound_linear(x, w_ih, b_ih))
    return h + z * (n - h)


def gates_of_step(kind: str, x: Tensor, states: tuple[Tensor, ...], weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the gates of a step by name, ``(N, H)``, from 0 to 1; of minGRU and minLSTM ``keep`` alone, 1 − z.

    The weights are those of a layer in the order of a back end; an Elman net has no gate.
    """
    if kind in MIN_GATES:
        return {"keep": 1 - MIN_GATES[kind](memory_bound_linear(x, *weights))[0]}
    h, (w_ih, w_hh, *others) = states[0], weights
    if kind == "mlstm":
        h = memory_bound_linear(x, others[0]) * memory_bound_linear(h, others[1])
        others = others[2:]
    elif len(others) % 2:  # the last one is the projection
        others = others[:-1]
    b_ih, b_hh = (*others, None, None)[:2]
    parts = (memory_bound_linear(x, w_ih, b_ih) + memory_bound_linear(h, w_hh, b_hh)).chunk(len(GATES[kind]), -1)
    return {name: part.sigmoid() for name, part in zip(GATES[kind], parts, strict=True) if name not in CANDIDATES}


def gate_slice(kind: str, gate: str, hidden_size: int) -> slice:
    """Return the rows of one gate in a weight, a bias or a g vector.

    Args:
        kind: ``rnn``, ``lstm``, ``gru``, ``mingru``, ``minlstm`` or ``mlstm``.
        gate: Name of the gate.
        hidden_size: H.

    Raises:
        ValueError: There is no such kind or gate.
    """
    if not isinstance(kind, str) or kind not in GATES:
        raise ValueError(f"kind must be one of {', '.join(GATES)}, got {kind!r}")
    if gate not in GATES[kind]:
        raise ValueError(f"gate must be one of {', '.join(GATES[kind])} for this {kind}, got {gate!r}")
    k = GATES[kind].index(gate)
    return slice(k * hidden_size, (k + 1) * hidden_size)
