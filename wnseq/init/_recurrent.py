"""The start of weight-normalised recurrences: in closed form, or from one batch, and for a memory of a given length.

The pre-activation of gate k is a_k = g^x_k ⊙ u_k + g^h_k ⊙ r_k + b_k with u = V̂_x x_t and r = V̂_h h_(t−1), the rows of
V̂ being of unit length. Two scales a unit, so that "deviation 1" does not determine them: the target is a mean m_k and a
deviation s for each gate, and the share ρ of the variance that comes from the input.
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
    """A recurrent module that is set when a batch reaches it, layer by layer, each passing on what it gives.

    1. From the input, for each unit: g^x = s√ρ/σ[u], b_ih = m − g^x·μ[u], b_hh = 0. The recurrent part is not centred.
    2. g^h in closed form, one number a gate.
    3. Sweeps over the sequence: R² = mean of (g^h·r)² over time, batch and units; log g^h += ½·log(s√(1−ρ)/R).

    A layer that sees a constant keeps its g^x and the closed form, and so do those above it.

    Args:
        module: The module.
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
        self.still: list[Any] = []  # layers that see a constant, and those above them
        if horizon is not None and module.bidirectional:
            raise ValueError(f"{self.label}: horizon is for one direction, and this module is bidirectional")
        self.layers = [_alone(module, layer) for layer in range(module.num_layers)]

    def set(self, input: Tensor | PackedSequence) -> None:
        """Set every parameter from what reaches the module, from the zero state.

        Args:
            input: What the module is called with.

        Raises:
            ShapeError: The sequences are too short.
            ValueError: What reaches the module is not finite; or there is a horizon, and the sequences are packed, or
                no ρ leads to it.
        """
        x, lengths = self._unify(input)
        least = 2 if self.horizon is None else self.horizon + 1
        if x.shape[0] < least:
            raise ShapeError(f"{self.label}: this start needs sequences of at least {least} steps, got {x.shape[0]}")
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
            f"{self.share:.4f}, has a gradient ratio of {self.ratio:.2g}; ask for a shorter horizon"
        )

    def measure(self, input: Tensor | PackedSequence) -> tuple[float, float, int]:
        """Measure how far the parameters are from their targets on a batch.

        Args:
            input: What the module is called with.

        Returns:
            The largest error of the input part's mean and deviation, in units of s; the largest relative error of a
            gate's recurrent root mean square; and the number of units that see a constant.
        """
        x, lengths = self._unify(input)
        of_input, of_hidden, constant = 0.0, 0.0, 0
        for layer in self.layers:
            y = _run(layer, x, lengths)
            for side in _sides(layer):
                if layer in self.still:
                    constant += side.g("ih").numel()
                    continue
                u = side.of_input(x, lengths)
                alike = u.constant(x.dtype)
                g = side.g("ih").to(u.mean)
                off = (g * u.deviation / (self.scale * math.sqrt(self.share)) - 1).abs().masked_fill(alike, 0)
                if layer.bias:
                    mean = g * u.mean + (side.bias("ih") + side.bias("hh")).to(g) - gate_means(layer).to(g)
                    off = torch.maximum(off, mean.abs() / self.scale)
                of_input = max(of_input, float(off.max()))
                constant += int(alike.sum())
                of_hidden = max([of_hidden, *(abs(part / self._memory - 1) for part in side.of_hidden(x, y, lengths))])
            x = y
        return of_input, of_hidden, constant

    @property
    def _memory(self) -> float:
        """The recurrent part's target."""
        return self.scale * math.sqrt(1 - self.share)

    def _unify(self, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
        """Bring an input of any form to ``(T, N, I)``, with the lengths of packed sequences."""
        if isinstance(input, PackedSequence):
            return pad_packed_sequence(input)
        if input.dim() == 2:
            return input.unsqueeze(1), None
        return (input.transpose(0, 1) if self.module.batch_first else input), None

    def _set_layers(self, x: Tensor, lengths: Tensor | None) -> None:
        closed, _ = hidden_scales(*recurrence_of(self.module), self.scale, self.share)
        self.still = []
        for layer in self.layers:
            inputs = [(side, side.of_input(x, lengths)) for side in _sides(layer)]
            if not all(bool((u.mean + u.square).isfinite().all()) for _, u in inputs):
                raise ValueError(f"{self.label}: the input that reaches this module is not finite")
            if self.still or all(bool(u.constant(x.dtype).all()) for _, u in inputs):
                self.still.append(layer)
            for side, u in inputs:
                g = side.g("ih")
                kept = torch.ones_like(u.mean).bool() if self.still else u.constant(x.dtype)
                g.copy_(torch.where(kept, g.to(u.mean), self.scale * math.sqrt(self.share) / u.deviation))
                if layer.bias:
                    side.bias("ih").copy_(gate_means(layer).to(u.mean) - g.to(u.mean) * u.mean)
                    side.bias("hh").zero_()
                side.set_hidden(closed)
            x = _run(layer, x, lengths) if self.still else self._settle(layer, x, lengths)

    def _settle(self, layer: Any, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Sweep until every gate's recurrent part has its size; return what the layer gives then."""
        for _ in range(_SWEEPS):
            y = _run(layer, x, lengths)
            parts = [(side, side.of_hidden(x, y, lengths)) for side in _sides(layer)]
            if all(abs(size / self._memory - 1) < _SETTLED for _, sizes in parts for size in sizes):
                break
            for side, sizes in parts:
                for rows, size in zip(side.rows(), sizes, strict=True):
                    side.g("hh")[rows] *= math.sqrt(self._memory / size) if size else 1.0
        else:
            y = _run(layer, x, lengths)
        return y

    def _gradient_ratio(self, x: Tensor, horizon: int) -> float:
        """Measure ‖∂y_T/∂x_(T−τ)‖ / ‖∂y_T/∂x_T‖ with one backward, of y_T's product with a random direction."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = x
            for layer in self.layers:
                y = layer(y)[0]
            along = torch.randn(y[-1].shape, generator=torch.Generator().manual_seed(0)).to(y)
            (slope,) = torch.autograd.grad((y[-1] * along).sum(), x)
        far, near = (Moments.of(part, -1).root_mean_square for part in (slope[-1 - horizon], slope[-1]))
        return far / near if near and math.isfinite(far / near) else math.inf


class _Side(NamedTuple):
    """One direction of a layer that stands alone."""

    layer: Any
    reverse: bool

    @property
    def suffix(self) -> str:
        return "_l0_reverse" if self.reverse else "_l0"

    def g(self, of: str) -> Tensor:
        g: Tensor = self.layer.v_and_g(f"weight_{of}{self.suffix}")[1]
        return g

    def bias(self, of: str) -> Tensor:
        bias: Tensor = self.layer.get_parameter(f"bias_{of}{self.suffix}")
        return bias

    def rows(self) -> list[slice]:
        return gate_rows(self.layer)

    def set_hidden(self, scales: list[float]) -> None:
        set_hidden_scales_(self.layer, self.suffix, scales)

    def of_input(self, x: Tensor, lengths: Tensor | None) -> Moments:
        """Take the moments of u = V̂_x x."""
        v, g = self.layer.v_and_g(f"weight_ih{self.suffix}")
        return Moments.of(_alive(x, lengths) @ weight_norm(v, torch.ones_like(g)).t(), -1)

    def of_hidden(self, x: Tensor, y: Tensor, lengths: Tensor | None) -> list[float]:
        """Take the root mean square of each gate's g^h ⊙ r, where the layer's input x gave y."""
        w_h = weight_norm(*self.layer.v_and_g(f"weight_hh{self.suffix}"))  # (G·H, P)
        size = w_h.shape[1]
        before = torch.zeros_like(y[:, :, :size])  # h of the step before
        if self.reverse:
            before[:-1] = y[1:, :, size:]
        else:
            before[1:] = y[:-1, :, :size]
        x, before = _alive(x, lengths), _alive(before, lengths)
        part = before @ w_h.t()  # (ΣN, G·H)
        parts = {gate: part[:, rows] for gate, rows in zip(GATES[self.layer.kind], self.rows(), strict=True)}
        if "new" in parts:  # a GRU's reset gate stands before this part
            rows = gate_slice("gru", "reset", self.layer.hidden_size)
            w_x = weight_norm(*self.layer.v_and_g(f"weight_ih{self.suffix}"))[rows]
            bias = (self.bias("ih") + self.bias("hh"))[rows] if self.layer.bias else 0.0
            parts["new"] = (x @ w_x.t() + bias + parts["reset"]).sigmoid() * parts["new"]
        return [Moments.of(part, -1).root_mean_square for part in parts.values()]


def _sides(layer: Any) -> list[_Side]:
    return [_Side(layer, bool(reverse)) for reverse in range(1 + layer.bidirectional)]


def _alone(module: Any, layer: int) -> Any:
    """Make a module of one layer with the parameters of one layer of another; both have the same ones."""
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
    """Run a layer over ``(T, N, I)`` from the zero state, to ``(T, N, D·P)``; what lies behind the lengths is zero."""
    if lengths is None:
        y: Tensor = layer(x)[0]
        return y
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    return pad_packed_sequence(layer(packed)[0])[0]


def _alive(x: Tensor, lengths: Tensor | None) -> Tensor:
    """List the steps that belong to a sequence, ``(T, N, ·)`` to ``(ΣN, ·)``."""
    if lengths is None:
        return x.flatten(0, 1)
    alive = torch.arange(x.shape[0], device=x.device).unsqueeze(1) < lengths.to(x.device)  # (T, N)
    return x[alive]
