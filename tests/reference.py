"""Slow twins in float64, written from the equations: what the library is held against."""

import torch
from torch import Tensor


def weight_norm(v: Tensor, g: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """w[j] = g[j] · v[j] / ‖v[j]‖, one output after the other; where it is not the first axis, group after group."""
    if dim == 0:
        return torch.stack([g[j] * v[j] / v[j].pow(2).sum().sqrt() for j in range(len(v))])
    parts, outputs = v.chunk(groups), v.shape[dim]
    rows = [weight_norm(part.transpose(0, dim), g[k * outputs : (k + 1) * outputs]) for k, part in enumerate(parts)]
    return torch.cat([row.transpose(0, dim) for row in rows])


def mean_only_batch_norm(t: Tensor, b: Tensor) -> Tensor:
    """t̃[n, c] = t[n, c] − μ[c] + b[c], one channel after the other; μ over all else."""
    channels = []
    for c in range(t.shape[1]):
        values = t[:, c]
        channels.append(values - sum(values.flatten()) / values.numel() + b[c])
    return torch.stack(channels, 1)


def centred_gradient(grad: Tensor) -> Tensor:
    """∇_t = ∇_t̃ − μ[∇_t̃], one channel after the other: what mean-only batch norm hands back."""
    return mean_only_batch_norm(grad, torch.zeros(grad.shape[1], dtype=grad.dtype))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def tanh(x: Tensor) -> Tensor:
    return 2 * sigmoid(2 * x) - 1


def rnn_step(x, state, w_ih, w_hh, b_ih, b_hh, w_hr, nonlinearity="tanh"):
    a = w_ih @ x + b_ih + w_hh @ state[0] + b_hh
    return (tanh(a) if nonlinearity == "tanh" else a.clamp(min=0),)


def lstm_step(x, state, w_ih, w_hh, b_ih, b_hh, w_hr, candidate=1):
    h, c = state
    size = len(c)
    a = w_ih @ x + b_ih + w_hh @ h + b_hh
    i, f, g, o = (a[k * size : (k + 1) * size] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * candidate * tanh(g)
    h = sigmoid(o) * tanh(c)
    return (h if w_hr is None else w_hr @ h), c


def gru_step(x, state, w_ih, w_hh, b_ih, b_hh, w_hr, candidate=1):
    (h,) = state
    size = len(h)
    rows = [slice(k * size, (k + 1) * size) for k in range(3)]
    r, z = (sigmoid(w_ih[s] @ x + b_ih[s] + w_hh[s] @ h + b_hh[s]) for s in rows[:2])
    n = tanh(w_ih[rows[2]] @ x + b_ih[rows[2]] + r * (w_hh[rows[2]] @ h + b_hh[rows[2]]))
    return ((1 - z) * candidate * n + z * h,)


STEPS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


def layer_parameters(
    parameters: dict[str, Tensor], suffix: str, masks: dict[str, Tensor] | None = None
) -> list[Tensor | None]:
    """Compose w_ih, w_hh, b_ih, b_hh, w_hr of one layer and direction from v, g and biases; w_hh times its mask."""

    def weight(kind):
        name = f"weight_{kind}_{suffix}"
        return weight_norm(parameters[f"{name}_v"], parameters[f"{name}_g"]) if f"{name}_v" in parameters else None

    w_ih, w_hh = weight("ih"), weight("hh")
    if masks is not None:
        w_hh = w_hh * masks[f"weight_hh_{suffix}"]
    zero = torch.zeros(len(w_ih), dtype=w_ih.dtype)
    biases = [parameters.get(f"bias_{kind}_{suffix}", zero) for kind in ("ih", "hh")]
    return [w_ih, w_hh, *biases, weight("hr")]


def recur(kind, parameters, x, states, *, num_layers, bidirectional=False, masks=None, noise=None, **options):
    """Run one sequence ``(T, I)`` through all layers; states: tuple of ``(L·D, ·)``; the same for the result.

    masks: of each w_hh, by name. noise: called at each step, returns the mask of the candidate, or 1, and for each
    state the share of its old value.
    """
    directions = 2 if bidirectional else 1
    final = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            suffix = f"l{layer}" + ("_reverse" if direction else "")
            weights = layer_parameters(parameters, suffix, masks)
            state = tuple(s[layer * directions + direction] for s in states)
            steps = []
            for x_t in x.flip(0) if direction else x:
                candidate, shares = noise() if noise else (1, [0] * len(state))
                dropped = {} if kind == "rnn" else {"candidate": candidate}
                new = STEPS[kind](x_t, state, *weights, **options, **dropped)
                state = tuple(d * old + (1 - d) * each for d, old, each in zip(shares, state, new, strict=True))
                steps.append(state[0])
            output = torch.stack(steps)
            outputs.append(output.flip(0) if direction else output)
            final.append(state)
        x = torch.cat(outputs, 1)
    return x, tuple(torch.stack(parts) for parts in zip(*final, strict=True))


def data_dependent(v: Tensor, x: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Equations 5 and 6 of Salimans & Kingma 2016, one unit after the other: g, b, and what is passed on before φ.

    t = v·x/‖v‖, y = (t − μ[t])/σ[t]; g = 1/σ[t], b = −μ[t]/σ[t]; all of it times the scale. v: (H, I), x: (N, I).
    """
    g, b, y = [], [], []
    for row in v:
        t = torch.stack([(row * sample).sum() / row.pow(2).sum().sqrt() for sample in x])
        mean = t.sum() / len(t)
        deviation = ((t - mean).pow(2).sum() / len(t)).sqrt()
        y.append(scale * (t - mean) / deviation)
        g.append(scale / deviation)
        b.append(-scale * mean / deviation)
    return torch.stack(g), torch.stack(b), torch.stack(y, 1)


def patches(x: Tensor, size: int) -> Tensor:
    """Every patch of a batch of images that a convolution without padding sees, (N·positions, C·size·size)."""
    height, width = x.shape[2] - size + 1, x.shape[3] - size + 1
    cut = [x[:, :, i : i + size, j : j + size].flatten(1) for i in range(height) for j in range(width)]
    return torch.stack(cut, 1).flatten(0, 1)


def start_statistics(kind, parameters, x, *, num_layers, **options):
    """Take apart every pre-activation of a batch of sequences ``(T, N, I)`` run from the zero state.

    For each layer: the input part g^x·u + b of all gates, ``(T·N, G·H)``, and the recurrent part, ``(T·N, G·H)``, that
    of a GRU's new gate behind its reset gate.
    """
    parts = []
    for layer in range(num_layers):
        w_ih, w_hh, b_ih, b_hh, w_hr = layer_parameters(parameters, f"l{layer}")
        size = len(w_ih) // {"lstm": 4, "gru": 3, "rnn": 1}[kind]
        of_input, of_hidden, outputs = [], [], []
        for n in range(x.shape[1]):
            outputs_n = []
            state = (torch.zeros(w_hh.shape[1]).double(), *([torch.zeros(size).double()] if kind == "lstm" else []))
            for x_t in x[:, n]:
                u, r = w_ih @ x_t + b_ih + b_hh, w_hh @ state[0]
                if kind == "gru":
                    r = torch.cat([r[: 2 * size], sigmoid(u[:size] + r[:size]) * r[2 * size :]])
                of_input.append(u)
                of_hidden.append(r)
                state = STEPS[kind](x_t, state, w_ih, w_hh, b_ih, b_hh, w_hr, **options)
                outputs_n.append(state[0])
            outputs.append(torch.stack(outputs_n))
        x = torch.stack(outputs, 1)
        parts.append((torch.stack(of_input), torch.stack(of_hidden)))
    return parts


def gaussian_kl(mean: Tensor, log_deviation: Tensor, prior_mean: Tensor, prior_log_deviation: Tensor) -> Tensor:
    """KL(N(m, σ²) ‖ N(m₀, σ₀²)) = log(σ₀/σ) + (σ² + (m − m₀)²)/(2σ₀²) − ½, one element after the other."""
    values = []
    for m, a, m0, a0 in zip(mean, log_deviation, prior_mean, prior_log_deviation, strict=True):
        variance, prior_variance = torch.exp(a) ** 2, torch.exp(a0) ** 2
        values.append(a0 - a + (variance + (m - m0) ** 2) / (2 * prior_variance) - 0.5)
    return torch.stack(values)


def gaussian_log_density(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """log of exp(−(x − m)²/2σ²) / √(2πσ²), one element after the other."""
    values = []
    for value, m, a in zip(x, mean, log_deviation, strict=True):
        variance = torch.exp(a) ** 2
        values.append(torch.log(torch.exp(-((value - m) ** 2) / (2 * variance)) / torch.sqrt(2 * torch.pi * variance)))
    return torch.stack(values)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """x log p + (1 − x) log(1 − p), p = σ(l)."""
    p = sigmoid(logits)
    return x * torch.log(p) + (1 - x) * torch.log(1 - p)


def discretized_logistic(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """P(0), …, P(L−1): the distribution function's rise over each level's bin, the outer bins open. One variable."""

    def at(edge: float) -> Tensor:
        return sigmoid((edge - mean) / torch.exp(log_scale))

    width = 2 / (levels - 1)
    edges = [at(-1 + (k + 0.5) * width) for k in range(levels - 1)]
    ends = [torch.zeros_like(mean), *edges, torch.ones_like(mean)]
    return torch.stack([ends[k + 1] - ends[k] for k in range(levels)])


def logistic_mixture(x: Tensor, parameters: Tensor, levels: int) -> Tensor:
    """log Σ_k π_k Π_c P(x_c) of one pixel ``(C,)``, a component and a channel after the other; parameters ``(P,)``."""
    channels = len(x)
    blocks = parameters.view(1 + 2 * channels + channels * (channels - 1) // 2, -1)
    total = torch.zeros((), dtype=parameters.dtype)
    for k in range(blocks.shape[1]):
        probability = torch.exp(blocks[0, k]) / torch.exp(blocks[0]).sum()
        place = 1 + 2 * channels
        for c in range(channels):
            mean = blocks[1 + c, k]
            for d in range(c):
                mean = mean + torch.tanh(blocks[place, k]) * (2 * x[d].double() / (levels - 1) - 1)
                place += 1
            log_scale = torch.clamp(blocks[1 + channels + c, k], min=-7)
            probability = probability * discretized_logistic(mean, log_scale, levels)[x[c]]
        total = total + probability
    return torch.log(total)
