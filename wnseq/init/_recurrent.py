"""Initialisation of weight-normalised recurrences from one batch, with a memory of a given length if wanted.

The pre-activation of gate k is a_k = g^x_k ⊙ u_k + g^h_k ⊙ r_k + b_k with u = V̂_x x_t and r = V̂_h h_(t−1), the rows of
V̂ having unit length. A unit has two scales, so a standard deviation of 1 does not determine them: the target is a mean
m_k and a standard deviation s for each gate, and the share ρ of the variance that comes from the input.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from wnseq._recurrence.steps import GATES, gate_slice
from wnseq.errors import ShapeError
from wnseq.functional import weight_norm
from wnseq.init._moments import Moments
from wnseq.init._report import RECURRENT
from wnseq.init._scales import gate_means, gate_rows, hidden_scales, recurrence_of, set_hidden_scales_
from wnseq.nn._rnn import WNLSTM, WNRNN

_SWEEPS = 30
_SETTLED = 1e-3
_PROBES = 16  # after which ρ is known to 1e-5
_HORIZON = (0.4, 0.75)  # inside [0.3, 1], so that another batch still finds it there


class RecurrentInit:
    """Sets a recurrent module from the input that reaches it, layer by layer, each with the output of the one below.

    1. From the input, for each unit: g^x = s√ρ/σ[u], b_ih = m − g^x·μ[u], b_hh = 0. The recurrent part is not centred.
    2. g^h in closed form, one number a gate.
    3. Sweeps over the sequence: R² = mean of (g^h·r)² over time, batch and units; log g^h += ½·log(s√(1−ρ)/R).

    A layer with a constant input keeps its g^x and the closed form, and so do those above it.

    Args:
        module: A weight-normalised module.
        scale: s.
        input_share: ρ.
        horizon: τ. With it, ρ is found by bisection, so that ‖∂y_T/∂x_(T−τ)‖ is 0.4 to 0.75 of ‖∂y_T/∂x_T‖.

    Raises:
        ValueError: There is a horizon, and the module is bidirectional.
    """

    def __init__(self, module: Any, scale: float, input_share: float, horizon: int | None) -> None:
        self.module, self.scale, self.share, self.horizon = module, scale, input_share, horizon
        self.label = type(module).__name__
        self.ratio = math.nan  # of the gradients at the horizon
        self.still: list[Any] = []  # layers with a constant input, and those above them
        if horizon is not None and module.bidirectional:
            raise ValueError(f"{self.label}: horizon is for one direction, and this module is bidirectional")
        self.layers = [_single_layer(module, layer) for layer in range(module.num_layers)]

    def set(self, input: Tensor | PackedSequence) -> None:
        """Set every parameter from the input of the module, from the zero state.

        Raises:
            ShapeError: The sequences are too short.
            ValueError: The input is not finite; or there is a horizon, and the sequences are packed, or no ρ gives it.
        """
        x, lengths = self._unify(input)
        least = 2 if self.horizon is None else self.horizon + 1
        if x.shape[0] < least:
            raise ShapeError(f"{self.label}: needs sequences of at least {least} steps, got {x.shape[0]}")
        if self.horizon is None:
            self._set_layers(x, lengths)
            return
        if lengths is not None:
            raise ValueError(f"{self.label}: horizon needs sequences of one length, got a PackedSequence")
        low, high = 0.0, 1.0
        for _ in range(_PROBES):
            self.share = (low + high) / 2
            self._set_layers(x, None)
            self.ratio = self._gradient_ratio(x, self.horizon)
            if _HORIZON[0] <= self.ratio <= _HORIZON[1]:
                return
            if self.ratio < _HORIZON[0]:
                high = self.share
            else:  # a gradient that explodes beyond every number, too
                low = self.share
        raise ValueError(
            f"{self.label}: no input share gives a memory of {self.horizon} steps; the last one tried, "
            f"{self.share:.4f}, has a gradient ratio of {self.ratio:.2g}; choose a shorter horizon"
        )

    def measure(self, input: Tensor | PackedSequence) -> tuple[float, float, int]:
        """Measure how far the parameters are from their targets with an input of the module.

        Returns:
            The largest error of the input part's mean and standard deviation, in units of s; the largest relative error
            of a gate's recurrent root mean square; and the number of units that see a constant.
        """
        x, lengths = self._unify(input)
        of_input, of_hidden, constant = 0.0, 0.0, 0
        for layer in self.layers:
            y = _run(layer, x, lengths)
            for direction in _directions(layer):
                if layer in self.still:
                    constant += direction.g("ih").numel()
                    continue
                u = direction.input_part(x, lengths)
                alike = u.is_constant(x.dtype)
                g = direction.g("ih").to(u.mean)
                off = (g * u.std / (self.scale * math.sqrt(self.share)) - 1).abs().masked_fill(alike, 0)
                if layer.bias:
                    mean = g * u.mean + (direction.bias("ih") + direction.bias("hh")).to(g) - gate_means(layer).to(g)
                    off = torch.maximum(off, mean.abs() / self.scale)
                of_input = max(of_input, float(off.max()))
                constant += int(alike.sum())
                sizes = direction.hidden_part(x, y, lengths)
                of_hidden = max([of_hidden, *(abs(size / self._hidden_size - 1) for size in sizes)])
            x = y
        return of_input, of_hidden, constant

    @property
    def _hidden_size(self) -> float:
        """Target of the recurrent part's root mean square."""
        return self.scale * math.sqrt(1 - self.share)

    def _unify(self, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
        """Return an input of any form as ``(T, N, I)``, with the lengths of packed sequences."""
        if isinstance(input, PackedSequence):
            return pad_packed_sequence(input)
        if input.dim() == 2:
            return input.unsqueeze(1), None
        return (input.transpose(0, 1) if self.module.batch_first else input), None

    def _set_layers(self, x: Tensor, lengths: Tensor | None) -> None:
        closed, _ = hidden_scales(*recurrence_of(self.module), self.scale, self.share)
        self.still = []
        for layer in self.layers:
            inputs = [(direction, direction.input_part(x, lengths)) for direction in _directions(layer)]
            if not all(bool((u.mean + u.square).isfinite().all()) for _, u in inputs):
                raise ValueError(f"{self.label}: the input that reaches this module is not finite")
            if self.still or all(bool(u.is_constant(x.dtype).all()) for _, u in inputs):
                self.still.append(layer)
            for direction, u in inputs:
                g = direction.g("ih")
                kept = torch.ones_like(u.mean).bool() if self.still else u.is_constant(x.dtype)
                g.copy_(torch.where(kept, g.to(u.mean), self.scale * math.sqrt(self.share) / u.std))
                if layer.bias:
                    direction.bias("ih").copy_(gate_means(layer).to(u.mean) - g.to(u.mean) * u.mean)
                    direction.bias("hh").zero_()
                direction.set_hidden(closed)
            x = _run(layer, x, lengths) if self.still else self._settle(layer, x, lengths)

    def _settle(self, layer: Any, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Sweep until every gate's recurrent part has its size; return the layer's output then."""
        for _ in range(_SWEEPS):
            y = _run(layer, x, lengths)
            parts = [(direction, direction.hidden_part(x, y, lengths)) for direction in _directions(layer)]
            if all(abs(size / self._hidden_size - 1) < _SETTLED for _, sizes in parts for size in sizes):
                break
            for direction, sizes in parts:
                for rows, size in zip(gate_rows(layer), sizes, strict=True):
                    direction.g("hh")[rows] *= math.sqrt(self._hidden_size / size) if size else 1.0
        else:
            y = _run(layer, x, lengths)
        return y

    def _gradient_ratio(self, x: Tensor, horizon: int) -> float:
        """Compute ‖∂y_T/∂x_(T−τ)‖ / ‖∂y_T/∂x_T‖ by one backward, of y_T's product with a random direction."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = x
            for layer in self.layers:
                y = layer(y)[0]
            along = torch.randn(y[-1].shape, generator=torch.Generator().manual_seed(0)).to(y)
            (slope,) = torch.autograd.grad((y[-1] * along).sum(), x)
        far, near = (Moments.of(part, -1).root_mean_square for part in (slope[-1 - horizon], slope[-1]))
        return far / near if near and math.isfinite(far / near) else math.inf


class _Direction(NamedTuple):
    """One direction of a module of one layer; the weights are ``ih``, of the input, and ``hh``, of the state."""

    layer: Any
    reverse: bool

    @property
    def suffix(self) -> str:
        return "_l0_reverse" if self.reverse else "_l0"

    def g(self, weight: str) -> Tensor:
        g: Tensor = self.layer.writable_v_and_g(f"weight_{weight}{self.suffix}")[1]
        return g

    def bias(self, weight: str) -> Tensor:
        bias: Tensor = self.layer.get_parameter(f"bias_{weight}{self.suffix}")
        return bias

    def set_hidden(self, scales: list[float]) -> None:
        set_hidden_scales_(self.layer, self.suffix, scales)

    def input_part(self, x: Tensor, lengths: Tensor | None) -> Moments:
        """Compute the moments of u = V̂_x x."""
        v, g = self.layer.v_and_g(f"weight_ih{self.suffix}")
        return Moments.of(_valid_steps(x, lengths) @ weight_norm(v, torch.ones_like(g)).t(), -1)

    def hidden_part(self, x: Tensor, y: Tensor, lengths: Tensor | None) -> list[float]:
        """Compute the root mean square of each gate's g^h ⊙ r from the layer's input x and output y."""
        w_h = weight_norm(*self.layer.v_and_g(f"weight_hh{self.suffix}"))  # (G·H, P)
        size = w_h.shape[1]
        before = torch.zeros_like(y[:, :, :size])  # h of the step before
        if self.reverse:
            before[:-1] = y[1:, :, size:]
        else:
            before[1:] = y[:-1, :, :size]
        x, before = _valid_steps(x, lengths), _valid_steps(before, lengths)
        part = before @ w_h.t()  # (ΣN, G·H)
        parts = {gate: part[:, rows] for gate, rows in zip(GATES[self.layer.kind], gate_rows(self.layer), strict=True)}
        if "new" in parts:  # a GRU's reset gate multiplies this part
            rows = gate_slice("gru", "reset", self.layer.hidden_size)
            w_x = weight_norm(*self.layer.v_and_g(f"weight_ih{self.suffix}"))[rows]
            bias = (self.bias("ih") + self.bias("hh"))[rows] if self.layer.bias else 0.0
            parts["new"] = (x @ w_x.t() + bias + parts["reset"]).sigmoid() * parts["new"]
        return [Moments.of(part, -1).root_mean_square for part in parts.values()]


def _directions(layer: Any) -> list[_Direction]:
    return [_Direction(layer, bool(reverse)) for reverse in range(1 + layer.bidirectional)]


def _single_layer(module: Any, layer: int) -> Any:
    """Make a module of one layer that shares the parameters of one layer of another."""
    kind = next(own for own in RECURRENT if isinstance(module, own))
    own = {"nonlinearity": module.nonlinearity} if kind is WNRNN else {}
    own |= {"proj_size": module.proj_size} if kind is WNLSTM else {}
    inputs = module.v_and_g(f"weight_ih_l{layer}")[0].shape[1]
    switches = {"bias": module.bias, "bidirectional": module.bidirectional}
    one = kind(inputs, module.hidden_size, **switches, **own, device="meta")
    for name in [name for name, _ in one.named_parameters()]:
        setattr(one, name, module.get_parameter(name.replace("_l0", f"_l{layer}")))
    return one


def _run(layer: Any, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Run a layer over ``(T, N, I)`` from the zero state, to ``(T, N, D·P)``; the padding is zero."""
    torch.clear_autocast_cache()  # which has the weights before in a lower precision
    if lengths is None:
        y: Tensor = layer(x)[0]
        return y
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    return pad_packed_sequence(layer(packed)[0])[0]


def _valid_steps(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the steps that are not padding, ``(T, N, ·)`` to ``(ΣN, ·)``."""
    if lengths is None:
        return x.flatten(0, 1)
    valid = torch.arange(x.shape[0], device=x.device).unsqueeze(1) < lengths.to(x.device)  # (T, N)
    return x[valid]
