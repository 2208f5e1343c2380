"""WNRNNCell, WNLSTMCell and WNGRUCell: one step of time."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from wnseq._recurrence.steps import GATES, gate_slice, gru_step, lstm_step, rnn_step
from wnseq._torch_internals import is_autocast
from wnseq.errors import ShapeError, raise_as_torch
from wnseq.functional import direction_norm
from wnseq.nn._arguments import check_bool, check_size
from wnseq.nn._module import WNModule
from wnseq.state_dict import param_names

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # w_ih, w_hh, b_ih, b_hh


def reset_rnn_parameters_(module: WNModule, hidden_size: int) -> None:
    """Initialise a recurrent module as torch does: the same seed gives the same function.

    Every v and bias ~ U(−1/√H, 1/√H), in torch's order; g = ‖v‖
    """
    bound = 1 / math.sqrt(hidden_size) if hidden_size else 0.0
    scales = {id(module.writable_v_and_g(name)[1]) for name in module.weight_names}
    with torch.no_grad():
        for parameter in module.parameters():
            if id(parameter) not in scales:
                parameter.uniform_(-bound, bound)
        for name in module.weight_names:
            v, g = module.writable_v_and_g(name)
            g.copy_(direction_norm(v, g, *module.layouts[name]))
    module.accept_v_and_g()


def gate_view(module: WNModule, name: str, gate: str) -> Tensor:
    """Return the view of one gate's entries in the g of a weight, ``(H,)``."""
    rows = gate_slice(module.kind, gate, module.hidden_size)
    g, g_name = module.v_and_g(name)[1], param_names(name)[1]
    if g.ndim != 1:
        raise RuntimeError(
            f"{type(module).__name__}.gate_g: {g_name} has shape {tuple(g.shape)}, as the checkpoint's, and no scale "
            'for each row; split the weights by rows with rnn.load_state_dict(wnseq.state_dict_as(rnn, "plain"))'
        )
    if hasattr(g, "full_tensor"):  # a DTensor: an index into it gives a copy, and a write into that would be lost
        raise RuntimeError(
            f"{type(module).__name__}.gate_g: {g_name} is sharded, so that no process has a whole gate to view; read "
            f"it as module.{g_name}.full_tensor()[{rows.start}:{rows.stop}], and write into gates before sharding"
        )
    module.refuse_computed(g_name)
    return g[rows]


def layer_suffix(module: Any, layer: int, reverse: bool) -> str:
    """Return the end of the names of one layer's parameters in one direction; raise ValueError if there is none."""
    label = type(module).__name__
    if not 0 <= layer < module.num_layers:
        raise ValueError(f"{label}: layer must be in 0…{module.num_layers - 1}, got {layer}")
    if reverse and not module.bidirectional:
        raise ValueError(f"{label}: there is no reverse direction without bidirectional=True")
    return f"_l{layer}" + ("_reverse" if reverse else "")


class _WNCell(WNModule):
    """A cell of any kind."""

    kind: str
    plain: Any  # torch's cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = input_size = check_size(name, "input_size", input_size)
        self.hidden_size = hidden_size = check_size(name, "hidden_size", hidden_size)
        if isinstance(bias, str) and bias in ("tanh", "relu"):
            warnings.warn(f"{name}: bias={bias!r} means True, as in torch; give nonlinearity by name", stacklevel=3)
            bias = True
        self.bias = bias = check_bool(name, "bias", bias, lenient=True)
        rows = len(GATES[self.kind]) * hidden_size
        self.register_weight("weight_ih", (rows, input_size), device=device, dtype=dtype)
        self.register_weight("weight_hh", (rows, hidden_size), device=device, dtype=dtype)
        for name in ("bias_ih", "bias_hh"):
            value = nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if bias else None
            self.register_parameter(name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all parameters as torch does; g is the norm of v."""
        reset_rnn_parameters_(self, self.hidden_size)

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")

    def gate_g(self, gate: str, weight: str = "hh") -> Tensor:
        """Return a view of one gate's scales, ``(H,)``, as ``WNLSTM.gate_g`` does."""
        if weight not in ("ih", "hh"):
            raise ValueError(f"{type(self).__name__}: weight must be 'ih' or 'hh', got {weight!r}")
        return gate_view(self, f"weight_{weight}", gate)

    def _weights(self) -> Weights:
        weights = self.compose_weights()
        return weights["weight_ih"], weights["weight_hh"], self.bias_ih, self.bias_hh

    def _check(self, weights: Weights, x: Tensor, *states: Tensor) -> None:
        name, w_ih = type(self).__name__, weights[0]
        for what, given in (("input", x), *(("each state", state) for state in states)):
            if not isinstance(given, Tensor):
                raise TypeError(f"{name}: {what} must be a tensor, got {type(given).__name__}")
        shape, problem = (*x.shape[:-1], self.hidden_size), ""
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            n = self.input_size
            problem = f"input must have shape (N, {n}) or ({n},), got {tuple(x.shape)}"
        for state in states if not problem else ():
            if state.shape != shape:
                problem = f"each state must have shape {shape} with an input of shape {tuple(x.shape)}"
                problem += f", got {tuple(state.shape)}"
                break
        mixed = x.dtype != w_ih.dtype or (len(states) > 0 and states[0].dtype != w_ih.dtype)
        if mixed and not problem and not is_autocast(x.device.type):
            dtypes = " and ".join(str(each.dtype) for each in (x, *states))
            problem = f"input and state must have the weights' dtype {w_ih.dtype}, got {dtypes}; convert them, as with "
            problem += f"x.to({w_ih.dtype}), or the module"
        if problem:
            raise_as_torch(lambda: self._run_as_torch(x, states), f"{name}: {problem}")

    def _run_as_torch(self, x: Tensor, states: tuple[Tensor, ...]) -> Any:
        """Run torch's own forward on this module's weights, for what it says of bad input."""
        hx: Any = (states if len(states) > 1 else states[0]) if states else None
        return self.plain.forward(self, x, hx)

    def _zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.hidden_size)


class _WNHiddenCell(_WNCell):
    """A cell without a cell state."""

    def _advance(self, x: Tensor, h: Tensor, weights: Weights) -> Tensor:
        raise NotImplementedError

    def _with_weights(self, weights: Weights, input: Tensor, hx: Tensor | None = None) -> Tensor:
        self._check(weights, input, *(() if hx is None else (hx,)))
        return self._advance(input, self._zeros(input) if hx is None else hx, weights)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Compute one step."""
        output: Tensor = self._run(input, hx)
        return output


class WNRNNCell(_WNHiddenCell):
    """An Elman cell with weight normalisation, a drop-in for ``torch.nn.RNNCell``; see :class:`WNLSTMCell`.

    h' = φ(W_ih x + b_ih + W_hh h + b_hh), φ being tanh or relu, each row of W_ih and W_hh being g·v/‖v‖

    Shape:
        - hx and output: ``(N, H)`` or ``(H,)``
    """

    kind = "rnn"
    plain = nn.RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity: {nonlinearity}; WNRNNCell takes 'tanh' or 'relu'")
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")

    def _advance(self, x: Tensor, h: Tensor, weights: Weights) -> Tensor:
        return rnn_step(x, h, *weights, nonlinearity=self.nonlinearity)


class WNLSTMCell(_WNCell):
    """An LSTM cell with weight normalisation, a drop-in for ``torch.nn.LSTMCell``.

    i, f, g, o = σ, σ, tanh, σ of W_ih x + b_ih + W_hh h + b_hh; c' = f ⊙ c + i ⊙ g; h' = o ⊙ tanh(c'),
    each row of W_ih and W_hh being g·v/‖v‖

    Shape:
        - input: ``(N, I)`` or ``(I,)``
        - hx: a pair ``(h, c)``, each ``(N, H)`` or ``(H,)``; zeros if not given
        - output: the next ``(h, c)``

    State:
        weight_ih_v ``(G·H, I)``, weight_hh_v ``(G·H, H)``, bias_ih and bias_hh ``(G·H,)`` from U(−1/√H, 1/√H), the G
        gates in torch's order (LSTM: i f g o; GRU: r z n); weight_ih_g and weight_hh_g ``(G·H,)``, ‖v‖.

    Example:
        >>> import torch
        >>> cell = WNLSTMCell(10, 20)
        >>> step, state = cell.bind(), None  # composes the weights once
        >>> for x in torch.randn(5, 3, 10):
        ...     state = step(x, state)
        >>> state[0].shape
        torch.Size([3, 20])

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    kind = "lstm"
    plain = nn.LSTMCell

    def _with_weights(
        self, weights: Weights, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        if hx is not None and not isinstance(hx, tuple | list):
            raise TypeError(f"WNLSTMCell: the state must be a pair (h, c), got {type(hx).__name__}")
        if hx is not None and len(hx) != 2:
            raise ShapeError(f"WNLSTMCell: the state must be a pair (h, c), got {len(hx)} tensors")
        self._check(weights, input, *(hx or ()))
        return lstm_step(input, hx or (self._zeros(input), self._zeros(input)), *weights)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Compute one step."""
        output: tuple[Tensor, Tensor] = self._run(input, hx)
        return output


class WNGRUCell(_WNHiddenCell):
    """A GRU cell with weight normalisation, a drop-in for ``torch.nn.GRUCell``; see :class:`WNLSTMCell`.

    r, z = σ of W_ih x + b_ih + W_hh h + b_hh; n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn)); h' = (1 − z) ⊙ n + z ⊙ h,
    each row of W_ih and W_hh being g·v/‖v‖

    Shape:
        - hx and output: ``(N, H)`` or ``(H,)``
    """

    kind = "gru"
    plain = nn.GRUCell

    def _advance(self, x: Tensor, h: Tensor, weights: Weights) -> Tensor:
        return gru_step(x, h, *weights)
