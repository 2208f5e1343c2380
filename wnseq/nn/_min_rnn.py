"""minGRU and minLSTM, with weight normalisation and without: layers whose gates see the input alone, and cells."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from wnseq._recurrence import dispatch
from wnseq._recurrence.call import Sequence
from wnseq._recurrence.steps import GATES, min_step
from wnseq._torch_internals import is_autocast
from wnseq.errors import ShapeError
from wnseq.functional import direction_norm
from wnseq.nn._arguments import check_bool, check_int, check_number, check_size
from wnseq.nn._cells import gate_view, layer_suffix
from wnseq.nn._fx import record_call, tracer_of
from wnseq.nn._module import WNModule

Factory = dict[str, Any]  # device and dtype of the parameters


class Minimal(nn.Module):
    """What all of them have in common: weights of the input with a bias, and no recurrent ones."""

    kind: str
    hidden_size: int
    bias: bool
    _flat_weights_names: list[str]  # of weights and biases, in the order of the layers

    def _register(self, sizes: dict[str, int], factory: Factory) -> None:
        """Create the parameters, given the features that the weight of each suffix reads."""
        rows, names = len(GATES[self.kind]) * self.hidden_size, []
        for suffix, inputs in sizes.items():
            for part, shape in self._shapes(inputs).items():
                weight = f"{part}{suffix}"
                if isinstance(self, WNModule):
                    self.register_weight(weight, shape, **factory)
                else:
                    self.register_parameter(weight, nn.Parameter(torch.empty(shape, **factory)))
                names.append(weight)
            bias = f"bias_ih{suffix}"
            self.register_parameter(bias, nn.Parameter(torch.empty(rows, **factory)) if self.bias else None)
            names += [bias] if self.bias else []
        self._flat_weights_names = names
        self.reset_parameters()

    def _shapes(self, inputs: int) -> dict[str, tuple[int, int]]:
        """Return the shape of each weight that reads so many features, by the beginning of its name."""
        return {"weight_ih": (len(GATES[self.kind]) * self.hidden_size, inputs)}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise all parameters as ``torch.nn.Linear`` does; g is the norm of v."""
        bound = 0.0
        for name in self._flat_weights_names:
            v_and_g = self.writable_v_and_g(name) if isinstance(self, WNModule) and name in self.weight_names else None
            values = v_and_g[0] if v_and_g else getattr(self, name)
            if values.ndim == 2:  # a bias has the bound of its weight
                bound = 1 / math.sqrt(values.shape[1]) if values.shape[1] else 0.0
            values.uniform_(-bound, bound)
            if v_and_g:
                v_and_g[1].copy_(direction_norm(*v_and_g))
        if isinstance(self, WNModule):
            self.accept_v_and_g()

    def _weights(self) -> list[Tensor]:
        """Return composed weights and biases."""
        composed = self.compose_weights() if isinstance(self, WNModule) else {}
        return [composed[name] if name in composed else getattr(self, name) for name in self._flat_weights_names]


class _Plain(nn.Module):
    """A module without weight normalisation: the call that WNModule has."""

    def _run(self, *arguments: Any) -> Any:
        tracer = tracer_of(arguments)
        if tracer is not None:
            return record_call(self, tracer, arguments)
        module: Any = self
        return module._with_weights(module._weights(), *arguments)


class _Layers(Minimal):
    """Layers over sequences."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        label, phrase = type(self).__name__, "dropout should be a number in range [0, 1] representing the probability "
        self.input_size = _check_positive(label, "input_size", input_size)
        self.hidden_size = _check_positive(label, "hidden_size", hidden_size)
        self.num_layers = _check_positive(label, "num_layers", num_layers)
        self.bias = check_bool(label, "bias", bias)
        self.batch_first = check_bool(label, "batch_first", batch_first)
        self.dropout = check_number(label, "dropout", dropout, 0, 1, f"{phrase}of an element being zeroed")
        self.bidirectional = check_bool(label, "bidirectional", bidirectional)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers=1 in {label}",
                stacklevel=2,
            )
        ends = ("", "_reverse") if self.bidirectional else ("",)
        inputs = [self.input_size, *[self.hidden_size * len(ends)] * (self.num_layers - 1)]
        sizes = {f"_l{layer}{end}": size for layer, size in enumerate(inputs) for end in ends}
        self._register(sizes, {"device": device, "dtype": dtype})

    @property
    def mode(self) -> str:
        """Name of the recurrence: ``MINGRU`` or ``MINLSTM``."""
        return self.kind.upper()

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}
        given = [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *given])

    def _with_weights(self, flat: list[Tensor], input: Sequence, hx: Any = None, reset: Any = None) -> Any:
        return dispatch.run(self, flat, input, hx, reset)

    def forward(self, input: Sequence, hx: Tensor | None = None, reset: Sequence | None = None) -> tuple[Any, Tensor]:
        """Run over a sequence."""
        module: Any = self
        output: tuple[Any, Tensor] = module._run(*((input, hx) if reset is None else (input, hx, reset)))
        return output


class _Cell(Minimal):
    """One step of time."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        label = type(self).__name__
        self.input_size = check_size(label, "input_size", input_size)
        self.hidden_size = check_size(label, "hidden_size", hidden_size)
        self.bias = check_bool(label, "bias", bias, lenient=True)
        self._register({"": self.input_size}, {"device": device, "dtype": dtype})

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")

    def _check(self, weight: Tensor, x: Tensor, h: Tensor | None) -> None:
        label = type(self).__name__
        for what, given in (("input", x), ("the state", x if h is None else h)):
            if not isinstance(given, Tensor):
                raise TypeError(f"{label}: {what} must be a tensor, got {type(given).__name__}")
            if given.dtype != weight.dtype and not is_autocast(given.device.type):
                raise ValueError(
                    f"{label}: {what} must have the weights' dtype {weight.dtype}, got {given.dtype}; convert it, as "
                    f"with x.to({weight.dtype}), or the module"
                )
        if x.ndim not in (1, 2):
            raise ShapeError(f"{label}: Expected input to be 1D or 2D, got {x.ndim}D instead")
        if x.shape[-1] != self.input_size:
            sizes = f"got {x.shape[-1]} expected {self.input_size}"
            raise ShapeError(f"input has inconsistent input_size: {sizes} in {label}")
        shape = (*x.shape[:-1], self.hidden_size)
        if h is not None and h.shape != shape:
            raise ShapeError(f"{label}: the state must have shape {shape} with this input, got {tuple(h.shape)}")

    def _with_weights(self, weights: list[Tensor], input: Tensor, hx: Tensor | None = None) -> Tensor:
        self._check(weights[0], input, hx)
        h = input.new_zeros(*input.shape[:-1], self.hidden_size) if hx is None else hx
        return min_step(self.kind, input, h, *weights)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Compute one step."""
        module: Any = self
        output: Tensor = module._run(input, hx)
        return output


class _WNLayers(_Layers, WNModule):
    """Layers with weight normalisation."""

    def gate_g(self, gate: str, layer: int = 0, reverse: bool = False) -> Tensor:
        """Return a view of one gate's scales, ``(H,)``, as ``WNLSTM.gate_g`` does.

        Args:
            gate: ``update``, ``new`` (minGRU); ``input``, ``forget``, ``new`` (minLSTM).
            layer: Number of the layer, from 0.
            reverse: Whether to view the layer's backward direction.
        """
        return gate_view(self, f"weight_ih{layer_suffix(self, layer, reverse)}", gate)


class _WNCell(_Cell, WNModule):
    """A cell with weight normalisation."""

    def gate_g(self, gate: str) -> Tensor:
        """Return a view of one gate's scales, ``(H,)``, as ``WNMinGRU.gate_g`` does."""
        return gate_view(self, "weight_ih", gate)


class MinGRU(_Layers, _Plain):
    """minGRU layers, as :class:`WNMinGRU` without v and g."""

    kind = "mingru"


class MinLSTM(_Layers, _Plain):
    """minLSTM layers, as :class:`WNMinLSTM` without v and g."""

    kind = "minlstm"


class MinGRUCell(_Cell, _Plain):
    """A minGRU cell, as :class:`WNMinGRUCell` without v and g."""

    kind = "mingru"


class MinLSTMCell(_Cell, _Plain):
    """A minLSTM cell, as :class:`WNMinLSTMCell` without v and g."""

    kind = "minlstm"


class WNMinGRU(_WNLayers):
    """minGRU layers with weight normalisation: a GRU whose gates see the input alone.

    z = σ(W_z x_t + b_z), n = W_n x_t + b_n; h_t = (1 − z) ⊙ h_(t−1) + z ⊙ n, each row of both weights being g·v/‖v‖

    On a CPU it runs as one product for all steps and a loop of one interpolation a step, in a graph and elsewhere in
    parallel over time; both agree to rounding. Unlike a GRU's, z = 1 takes the new value.

    Args:
        input_size: I, features of the input.
        hidden_size: H, features of the state.
        num_layers: L, layers on top of each other.
        bias: Whether to add b.
        batch_first: Whether a batched input and output is ``(N, T, ·)`` instead of ``(T, N, ·)``.
        dropout: Probability of a zero in the output of each layer but the last.
        bidirectional: Whether to run each layer in both directions, D = 2.
        device, dtype: Device and dtype of the parameters.

    Shape:
        - input: ``(T, N, I)``, ``(N, T, I)`` with batch_first, ``(T, I)`` unbatched, or a ``PackedSequence``
        - hx and the final state: ``(L·D, N, H)``, or ``(L·D, H)`` unbatched; zeros if not given
        - reset: as of :class:`wnseq.WNLSTM`
        - output: the input's form with D·H features

    Raises:
        RuntimeError: A graph is captured, and the input is packed.
        ShapeError: Input, state or reset have the wrong shape.
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or the input's dtype is not the module's.

    State:
        For each layer k, and ``_reverse``: weight_ih_lk_v ``(G·H, I or D·H)`` and bias_ih_lk ``(G·H,)`` from U(−1/√I,
        1/√I) as of ``torch.nn.Linear``, the gates in the order z n (minLSTM: i f n); weight_ih_lk_g ``(G·H,)``, ‖v‖.

    Note:
        These are the paper's equations of section 3. Its log-space form, which most implementations have, keeps the
        state positive by a nonlinearity on n. A graph holds the number of steps of the input it was captured with.

    Example:
        >>> import torch
        >>> rnn = WNMinGRU(40, 128, num_layers=2)
        >>> output, h = rnn(torch.randn(35, 20, 40))
        >>> output.shape, h.shape
        (torch.Size([35, 20, 128]), torch.Size([2, 20, 128]))
        >>> rnn.gate_g("update", layer=1).shape
        torch.Size([128])

    Source:
        Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024, arXiv 2410.01201, section 3.1.
    """

    kind = "mingru"


class WNMinLSTM(_WNLayers):
    """minLSTM layers with weight normalisation: an LSTM whose gates see the input alone; see :class:`WNMinGRU`.

    i, f = σ of W x_t + b; n = W_n x_t + b_n; h_t = f/(f + i) ⊙ h_(t−1) + i/(f + i) ⊙ n, each row of W being g·v/‖v‖

    Source:
        Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024, arXiv 2410.01201, section 3.2.
    """

    kind = "minlstm"


class WNMinGRUCell(_WNCell):
    """A minGRU cell with weight normalisation; the equations are those of :class:`WNMinGRU`.

    Shape:
        - input: ``(N, I)`` or ``(I,)``; hx and output: ``(N, H)`` or ``(H,)``
    """

    kind = "mingru"


class WNMinLSTMCell(_WNCell):
    """A minLSTM cell with weight normalisation; the equations are those of :class:`WNMinLSTM`.

    Shape:
        - input: ``(N, I)`` or ``(I,)``; hx and output: ``(N, H)`` or ``(H,)``
    """

    kind = "minlstm"


def _check_positive(label: str, name: str, value: Any) -> int:
    value = check_int(label, name, value)
    if value <= 0:
        raise ValueError(f"{name} must be greater than zero, got {value} in {label}")
    return int(value)
