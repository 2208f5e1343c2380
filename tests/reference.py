"""Slow twins in float64, written from the equations: what the library is held against."""

import torch
from torch import Tensor


def weight_norm(v: Tensor, g: Tensor) -> Tensor:
    """w[j] = g[j] · v[j] / ‖v[j]‖, one row after the other."""
    rows = [g[j] * v[j] / v[j].pow(2).sum().sqrt() for j in range(len(v))]
    return torch.stack(rows)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def tanh(x: Tensor) -> Tensor:
    return 2 * sigmoid(2 * x) - 1


def rnn_step(x, state, w_ih, w_hh, b_ih, b_hh, w_hr, nonlinearity="tanh"):
    a = w_ih @ x + b_ih + w_hh @ state[0] + b_hh
    return (tanh(a) if nonlinearity == "tanh" else a.clamp(min=0),)


def lstm_step(x, state, w_ih, w_hh, b_ih, b_hh, w_hr):
    h, c = state
    size = len(c)
    a = w_ih @ x + b_ih + w_hh @ h + b_hh
    i, f, g, o = (a[k * size : (k + 1) * size] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return (h if w_hr is None else w_hr @ h), c


def gru_step(x, state, w_ih, w_hh, b_ih, b_hh, w_hr):
    (h,) = state
    size = len(h)
    rows = [slice(k * size, (k + 1) * size) for k in range(3)]
    r, z = (sigmoid(w_ih[s] @ x + b_ih[s] + w_hh[s] @ h + b_hh[s]) for s in rows[:2])
    n = tanh(w_ih[rows[2]] @ x + b_ih[rows[2]] + r * (w_hh[rows[2]] @ h + b_hh[rows[2]]))
    return ((1 - z) * n + z * h,)


STEPS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


def layer_parameters(parameters: dict[str, Tensor], suffix: str) -> list[Tensor | None]:
    """Compose w_ih, w_hh, b_ih, b_hh, w_hr of one layer and direction from v, g and biases."""

    def weight(kind):
        name = f"weight_{kind}_{suffix}"
        return weight_norm(parameters[f"{name}_v"], parameters[f"{name}_g"]) if f"{name}_v" in parameters else None

    w_ih, w_hh = weight("ih"), weight("hh")
    zero = torch.zeros(len(w_ih), dtype=w_ih.dtype)
    biases = [parameters.get(f"bias_{kind}_{suffix}", zero) for kind in ("ih", "hh")]
    return [w_ih, w_hh, *biases, weight("hr")]


def recur(kind, parameters, x, states, *, num_layers, bidirectional=False, **options):
    """Run one sequence ``(T, I)`` through all layers; states: tuple of ``(L·D, ·)``; the same for the result."""
    directions = 2 if bidirectional else 1
    final = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            suffix = f"l{layer}" + ("_reverse" if direction else "")
            weights = layer_parameters(parameters, suffix)
            state = tuple(s[layer * directions + direction] for s in states)
            steps = []
            for x_t in x.flip(0) if direction else x:
                state = STEPS[kind](x_t, state, *weights, **options)
                steps.append(state[0])
            output = torch.stack(steps)
            outputs.append(output.flip(0) if direction else output)
            final.append(state)
        x = torch.cat(outputs, 1)
    return x, tuple(torch.stack(parts) for parts in zip(*final, strict=True))
