"""WNRNN, WNLSTM and WNGRU: layers of weight-normalised recurrence over whole sequences."""

import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from wnseq import kernels
from wnseq.cells import GATES, draw, gate_view
from wnseq.module import WNModule
from wnseq.weight_norm import ShapeError

__all__ = ["WNGRU", "WNLSTM", "WNRNN"]

Sequence = Tensor | PackedSequence
States = tuple[Tensor, ...]


class _WNRecurrent(WNModule):
    """What the three modules share: parameters, checks, batching, and composing once a forward."""

    kind: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._check_arguments()
        self.num_layers = num_layers = int(num_layers)
        self.proj_size = proj_size = int(proj_size)
        self.dropout = float(dropout)
        rows = len(GATES[self.kind]) * hidden_size
        outputs = proj_size or hidden_size
        for layer, suffix in self._places():
            inputs = input_size if layer == 0 else outputs * (1 + bidirectional)
            self.register_weight(f"weight_ih_{suffix}", (rows, inputs), device=device, dtype=dtype)
            self.register_weight(f"weight_hh_{suffix}", (rows, outputs), device=device, dtype=dtype)
            if bias:
                for name in (f"bias_ih_{suffix}", f"bias_hh_{suffix}"):
                    self.register_parameter(name, nn.Parameter(torch.empty(rows, device=device, dtype=dtype)))
            if proj_size:
                self.register_weight(f"weight_hr_{suffix}", (proj_size, hidden_size), device=device, dtype=dtype)
        parts = [
            "weight_ih",
            "weight_hh",
            *(["bias_ih", "bias_hh"] if bias else []),
            *(["weight_hr"] if proj_size else []),
        ]
        # in torch's order, and under the names by which torch's clients look for them
        self._all_weights = [[f"{part}_{suffix}" for part in parts] for _, suffix in self._places()]
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self.reset_parameters()

    def _check_arguments(self) -> None:
        label = type(self).__name__
        for name in ("input_size", "hidden_size", "num_layers", "proj_size"):
            value, least = getattr(self, name), 0 if name == "proj_size" else 1
            accepted = int if name in ("input_size", "hidden_size") else Integral  # as torch: numpy's there alone
            if not isinstance(value, accepted) or isinstance(value, bool):
                raise TypeError(f"{label}: {name} must be an int, got {type(value).__name__}")
            if value < least:
                raise ValueError(f"{label}: {name} must be at least {least}, got {value}")
        for name in ("bias", "batch_first", "bidirectional"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{label}: {name} must be a bool, got {type(getattr(self, name)).__name__}")
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"{label}: proj_size must be smaller than hidden_size {self.hidden_size}, got {self.proj_size}"
            )
        dropout = self.dropout
        if not isinstance(dropout, Real) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"{label}: dropout must be a number in [0, 1], the probability of a zero, got {dropout!r}")
        if dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"{label}: dropout acts after every layer but the last, so dropout={dropout} does nothing with "
                "num_layers=1",
                stacklevel=4,
            )

    def _places(self) -> Iterator[tuple[int, str]]:
        """Go through layers and directions in torch's order, as ``(layer, name suffix)``."""
        for layer in range(self.num_layers):
            yield layer, f"l{layer}"
            if self.bidirectional:
                yield layer, f"l{layer}_reverse"

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as the constructor did."""
        draw(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Do nothing; here so that code written for torch's modules runs."""

    @property
    def mode(self) -> str:
        """Torch's name of the recurrence: ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``."""
        return self.kind.upper()

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Weights and biases of each layer and direction, the weights composed; to be read, not to be written."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def extra_repr(self) -> str:
        """Show the arguments as torch does."""
        defaults = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        told = [f"{name}={getattr(self, name)}" for name, usual in defaults.items() if getattr(self, name) != usual]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *told])

    def gate_g(self, gate: str, layer: int = 0, of: str = "hh", reverse: bool = False) -> Tensor:
        """View the scales of one gate.

        Args:
            gate: Name of the gate: ``hidden``; ``input``, ``forget``, ``cell``, ``output``; or ``reset``, ``update``,
                ``new``.
            layer: Which layer, from 0.
            of: ``ih`` for the input weight, ``hh`` for the recurrent one.
            reverse: Whether of the layer's backward direction.

        Returns:
            A view of shape ``(H,)`` into the g vector. Write into it under ``torch.no_grad()``.

        Raises:
            RuntimeError: The parameters are sharded.
            ValueError: There is no such gate, layer, weight or direction.

        Example:
            A frozen gate is put back after each step, which holds under momentum and weight decay too.

            >>> rnn = WNLSTM(4, 6)
            >>> optimizer = torch.optim.Adam(rnn.parameters())
            >>> start = rnn.gate_g("forget").detach().clone()
            >>> def put_back(*_):
            ...     with torch.no_grad():
            ...         rnn.gate_g("forget").copy_(start)
            >>> handle = optimizer.register_step_post_hook(put_back)  # handle.remove() lets it go
            >>> rnn(torch.randn(3, 2, 4))[0].sum().backward()
            >>> optimizer.step()
            >>> torch.equal(rnn.gate_g("forget"), start), torch.equal(rnn.gate_g("output"), start)
            (True, False)
        """
        label = type(self).__name__
        if of not in ("ih", "hh"):
            raise ValueError(f"{label}: of must be 'ih' or 'hh', got {of!r}")
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"{label}: layer must be in 0…{self.num_layers - 1}, got {layer}")
        if reverse and not self.bidirectional:
            raise ValueError(f"{label}: there is no reverse direction without bidirectional=True")
        name = f"weight_{of}_l{layer}" + ("_reverse" if reverse else "")
        return gate_view(self, name, gate)

    def _weights(self) -> list[Tensor]:
        """Compose the weights, and put them and the biases in the order of torch's kernels."""
        weights: dict[str, Any] = {**self._parameters, **self.composed()}
        return [weights[name] for name in self._flat_weights_names]

    def _state_sizes(self) -> tuple[int, ...]:
        """Features of each state tensor."""
        return (self.hidden_size,)

    def _recur(
        self, x: Tensor, batch_sizes: Tensor | None, states: States, flat: list[Tensor]
    ) -> tuple[Tensor, States]:
        raise NotImplementedError

    def _run(self, flat: list[Tensor], x: Sequence, states: States | None) -> tuple[Sequence, States]:
        """Run over one input of any form: unbatched, batched or packed."""
        label = type(self).__name__
        for state in states or ():
            if not isinstance(state, Tensor):
                raise TypeError(f"{label}: each state must be a tensor, got {type(state).__name__}")
        if isinstance(x, PackedSequence):
            data, batch_sizes, order, back = x
            if data.ndim != 2:
                raise ShapeError(f"{label}: input must have 2 dimensions, got {data.ndim}")
            self._check_input(data, flat[0].dtype)
            batch: Any = batch_sizes[0].item()
            if states is not None and torch.compiler.is_compiling():  # a graph cannot branch on what a tensor holds
                torch._check(batch == states[0].shape[1])  # type: ignore[no-untyped-call]
            states = self._initial(states, data, batch)
            if order is not None:
                states = tuple(state.index_select(1, order) for state in states)
            output, states = self._recur(data, batch_sizes, states, flat)
            if back is not None:
                states = tuple(state.index_select(1, back) for state in states)
            return PackedSequence(output, batch_sizes, order, back), states

        if not isinstance(x, Tensor):
            raise TypeError(f"{label}: input must be a tensor or a PackedSequence, got {type(x).__name__}")
        dims = x.ndim
        if dims not in (2, 3):
            raise ShapeError(f"{label}: Expected input to be 2D or 3D, got {dims}D instead")
        for state in states or ():
            if state.ndim != dims:
                raise ShapeError(
                    f"{label}: For {'batched 3-D' if dims == 3 else 'unbatched 2-D'} input, each state should also be "
                    f"{dims}-D but got {state.ndim}-D"
                )
        axis = 0 if self.batch_first else 1
        if dims == 2:
            x = x.unsqueeze(axis)
            states = states and tuple(state.unsqueeze(1) for state in states)
        self._check_input(x, flat[0].dtype)
        output, states = self._recur(x, None, self._initial(states, x, x.shape[axis]), flat)
        if dims == 2:
            return output.squeeze(axis), tuple(state.squeeze(1) for state in states)
        return output, states

    def _check_input(self, x: Tensor, dtype: torch.dtype) -> None:
        label = type(self).__name__
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"{label}: input dtype ({x.dtype}) does not match weight dtype ({dtype}); "
                f"convert the input with x.to({dtype}) or the module with module.to({x.dtype})"
            )
        if x.shape[-1] != self.input_size:
            raise ShapeError(f"{label}: input must have {self.input_size} features, got {x.shape[-1]}")

    def _initial(self, states: States | None, x: Tensor, batch: int) -> States:
        """Check the given initial states, or make zeros."""
        places = self.num_layers * (1 + self.bidirectional)
        sizes = self._state_sizes()
        if states is None:
            return tuple(x.new_zeros(places, batch, size) for size in sizes)
        for k, (state, size) in enumerate(zip(states, sizes, strict=True)):
            if state.shape != (places, batch, size):
                raise ShapeError(
                    f"{type(self).__name__}: Expected hidden{f'[{k}]' if len(sizes) > 1 else ''} size "
                    f"{(places, batch, size)}, got {tuple(state.shape)}"
                )
        return states

    def _plan(self) -> kernels.Plan:
        return kernels.Plan(
            self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, self.batch_first
        )


class _WNHidden(_WNRecurrent):
    """A module whose state is the hidden state alone."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse a projection as torch does, with a ValueError, without an argument that does nothing."""
        if "proj_size" in kwargs:
            raise ValueError(f"{cls.__name__}: proj_size is an argument of WNLSTM alone")
        return super().__new__(cls)

    def _with_weights(self, flat: list[Tensor], input: Sequence, hx: Tensor | None = None) -> tuple[Sequence, Tensor]:
        output, (h,) = self._run(flat, input, None if hx is None else (hx,))
        return output, h

    def forward(self, input: Sequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Run over a sequence; see the class for shapes."""
        return self._with_weights(self._weights(), input, hx)


class WNRNN(_WNHidden):
    """Elman layers with weight normalisation, a drop-in for ``torch.nn.RNN``.

    h_t = φ(W_ih x_t + b_ih + W_hh h_(t−1) + b_hh), each row of every weight being g·v/‖v‖

    Args:
        input_size: I, features of the input.
        hidden_size: H, features of the hidden state.
        num_layers: L, layers on top of each other.
        nonlinearity: φ, ``tanh`` or ``relu``.
        bias: Whether to add b_ih and b_hh.
        batch_first: Whether a batched input and output is ``(N, T, ·)`` instead of ``(T, N, ·)``.
        dropout: Probability of a zero in the output of each layer but the last.
        bidirectional: Whether to run each layer in both directions.
        device: Where to put the parameters.
        dtype: What to keep them in.

    Shape:
        - input: ``(T, N, I)``, ``(N, T, I)`` with batch_first, ``(T, I)`` unbatched, or a ``PackedSequence``
        - hx: ``(L·D, N, H)``, or ``(L·D, H)`` unbatched; zeros if not given
        - output: the input's form with D·H features; the final hidden states in hx's shape

    Raises:
        ShapeError: Input or state do not fit.
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of its range, or the input's dtype is not the module's.

    Parameters:
        For each layer k, and ``_reverse``: weight_ih_lk_v ``(H, I or D·H)``, weight_hh_lk_v ``(H, H)``, bias_ih_lk and
        bias_hh_lk ``(H,)``, all from U(−1/√H, 1/√H); weight_ih_lk_g and weight_hh_lk_g ``(H,)``, the norms of the rows
        of v.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    kind = "rnn"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"WNRNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self.nonlinearity = nonlinearity

    @property
    def mode(self) -> str:
        """``RNN_TANH`` or ``RNN_RELU``."""
        return f"RNN_{self.nonlinearity.upper()}"

    def _recur(
        self, x: Tensor, batch_sizes: Tensor | None, states: States, flat: list[Tensor]
    ) -> tuple[Tensor, States]:
        output, h = kernels.rnn(x, batch_sizes, states[0], flat, self._plan(), self.nonlinearity)
        return output, (h,)


class WNGRU(_WNHidden):
    """GRU layers with weight normalisation, a drop-in for ``torch.nn.GRU``.

    r, z = σ of W_ih x_t + b_ih + W_hh h_(t−1) + b_hh; n = tanh(W_in x_t + b_in + r ⊙ (W_hn h_(t−1) + b_hn));
    h_t = (1 − z) ⊙ n + z ⊙ h_(t−1), each row of every weight being g·v/‖v‖

    Args:
        input_size: I, features of the input.
        hidden_size: H, features of the hidden state.
        num_layers: L, layers on top of each other.
        bias: Whether to add b_ih and b_hh.
        batch_first: Whether a batched input and output is ``(N, T, ·)`` instead of ``(T, N, ·)``.
        dropout: Probability of a zero in the output of each layer but the last.
        bidirectional: Whether to run each layer in both directions.
        device: Where to put the parameters.
        dtype: What to keep them in.

    Shape:
        - input: ``(T, N, I)``, ``(N, T, I)`` with batch_first, ``(T, I)`` unbatched, or a ``PackedSequence``
        - hx: ``(L·D, N, H)``, or ``(L·D, H)`` unbatched; zeros if not given
        - output: the input's form with D·H features; the final hidden states in hx's shape

    Raises:
        ShapeError: Input or state do not fit.
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of its range, or the input's dtype is not the module's.

    Parameters:
        For each layer k, and ``_reverse``: weight_ih_lk_v ``(3·H, I or D·H)``, weight_hh_lk_v ``(3·H, H)``, bias_ih_lk
        and bias_hh_lk ``(3·H,)``, gates in the order r z n, all from U(−1/√H, 1/√H); weight_ih_lk_g and weight_hh_lk_g
        ``(3·H,)``, the norms of the rows of v.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    kind = "gru"

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
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )

    def _recur(
        self, x: Tensor, batch_sizes: Tensor | None, states: States, flat: list[Tensor]
    ) -> tuple[Tensor, States]:
        output, h = kernels.gru(x, batch_sizes, states[0], flat, self._plan())
        return output, (h,)


class WNLSTM(_WNRecurrent):
    """LSTM layers with weight normalisation, a drop-in for ``torch.nn.LSTM``.

    i, f, g, o = σ, σ, tanh, σ of W_ih x_t + b_ih + W_hh h_(t−1) + b_hh; c_t = f ⊙ c_(t−1) + i ⊙ g;
    h_t = W_hr (o ⊙ tanh(c_t)), W_hr only with a projection, each row of every weight being g·v/‖v‖

    Args:
        input_size: I, features of the input.
        hidden_size: H, features of the cell state.
        num_layers: L, layers on top of each other.
        bias: Whether to add b_ih and b_hh.
        batch_first: Whether a batched input and output is ``(N, T, ·)`` instead of ``(T, N, ·)``.
        dropout: Probability of a zero in the output of each layer but the last.
        bidirectional: Whether to run each layer in both directions.
        proj_size: P, features of the hidden state if it is projected (Sak et al. 2014); 0 for none.
        device: Where to put the parameters.
        dtype: What to keep them in.

    Shape:
        - input: ``(T, N, I)``, ``(N, T, I)`` with batch_first, ``(T, I)`` unbatched, or a ``PackedSequence``
        - hx: a pair ``(h, c)`` of ``(L·D, N, P or H)`` and ``(L·D, N, H)``, without N unbatched; zeros if not given
        - output: the input's form with D·(P or H) features; the final ``(h, c)`` in hx's shapes

    Raises:
        ShapeError: Input or state do not fit.
        TypeError: An argument has the wrong type, or the state is not a pair.
        ValueError: An argument is out of its range, or the input's dtype is not the module's.

    Parameters:
        For each layer k, and ``_reverse``: weight_ih_lk_v ``(4·H, I or D·(P or H))``, weight_hh_lk_v
        ``(4·H, P or H)``, weight_hr_lk_v ``(P, H)`` with a projection, bias_ih_lk and bias_hh_lk ``(4·H,)``, gates in
        the order i f g o, all from U(−1/√H, 1/√H); weight_ih_lk_g and weight_hh_lk_g ``(4·H,)``, weight_hr_lk_g
        ``(P,)``, the norms of the rows of v.

    Example:
        >>> import torch
        >>> rnn = WNLSTM(40, 128, num_layers=2)
        >>> output, (h, c) = rnn(torch.randn(35, 20, 40))
        >>> output.shape, c.shape
        (torch.Size([35, 20, 128]), torch.Size([2, 20, 128]))
        >>> rnn.gate_g("forget", layer=1, of="hh").shape
        torch.Size([128])

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    kind = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )

    def _with_weights(
        self, flat: list[Tensor], input: Sequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Sequence, tuple[Tensor, Tensor]]:
        if hx is not None and not isinstance(hx, tuple | list):
            raise TypeError(f"WNLSTM: the state must be a pair (h, c), got {type(hx).__name__}")
        if hx is not None and len(hx) != 2:
            raise ShapeError(f"WNLSTM: the state must be a pair (h, c), got {len(hx)} tensors")
        output, (h, c) = self._run(flat, input, None if hx is None else tuple(hx))
        return output, (h, c)

    def forward(self, input: Sequence, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run over a sequence; see the class for shapes."""
        return self._with_weights(self._weights(), input, hx)

    def _state_sizes(self) -> tuple[int, ...]:
        return (self.proj_size or self.hidden_size, self.hidden_size)

    def _recur(
        self, x: Tensor, batch_sizes: Tensor | None, states: States, flat: list[Tensor]
    ) -> tuple[Tensor, States]:
        h, c = states
        return kernels.lstm(x, batch_sizes, (h, c), flat, self._plan())
