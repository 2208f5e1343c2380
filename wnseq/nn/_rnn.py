"""WNRNN, WNLSTM and WNGRU: layers of weight-normalised recurrence over whole sequences."""

import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import torch
from torch import Tensor, nn

from wnseq._recurrence import call
from wnseq._recurrence.call import Sequence
from wnseq._recurrence.steps import GATES
from wnseq.nn._cells import gate_view, reset_rnn_parameters_
from wnseq.nn._module import WNModule


class _WNRecurrent(WNModule):
    """What the three modules share: parameters, checks of the arguments, and composing once a forward."""

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
        reset_rnn_parameters_(self, self.hidden_size)

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

    def _with_weights(self, flat: list[Tensor], input: Sequence, hx: Any = None) -> tuple[Any, Any]:
        return call.run(self, flat, input, hx)


class _WNHidden(_WNRecurrent):
    """A module whose state is the hidden state alone."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse a projection as torch does, with a ValueError, without an argument that does nothing."""
        if "proj_size" in kwargs:
            raise ValueError(f"{cls.__name__}: proj_size is an argument of WNLSTM alone")
        return super().__new__(cls)

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

    State:
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

    State:
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

    State:
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

    def forward(self, input: Sequence, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run over a sequence; see the class for shapes."""
        return self._with_weights(self._weights(), input, hx)


class LSTM(nn.LSTM):
    """LSTM layers without weight normalisation, run as those of WNLSTM are.

    A ``torch.nn.LSTM`` in all but its forward, which on a CPU is faster where the loops of this library are: under
    bfloat16 autocast, where the layer is large, and in single steps. ``wnseq.weight_normalize`` makes a WNLSTM of it.

    Args:
        args: Those of ``torch.nn.LSTM``.
        kwargs: Likewise.

    Shape:
        - input, hx and output as of ``torch.nn.LSTM``

    Raises:
        ShapeError: Input or state do not fit.
        TypeError: An argument has the wrong type, or the state is not a pair.
        ValueError: The input's dtype is not the module's.

    Note:
        A graph is captured around it, not through it: ``torch.compile`` leaves it to eager mode, as it does torch's. To
        script or quantise, load its state dict into a ``torch.nn.LSTM``.

    Example:
        >>> import torch
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> rnn, x = LSTM(40, 128, num_layers=2), torch.randn(35, 20, 40)
        >>> theirs = torch.nn.LSTM(40, 128, num_layers=2)
        >>> theirs.load_state_dict(rnn.state_dict())
        <All keys matched successfully>
        >>> torch.allclose(rnn(x)[0], theirs(x)[0], atol=1e-6)
        True
    """

    def forward(self, input: Sequence, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run over a sequence; see the class for shapes."""
        return call.run(self, _flat_weights(self), input, hx)


class GRU(nn.GRU):
    """GRU layers without weight normalisation, run as those of WNGRU are.

    A ``torch.nn.GRU`` in all but its forward, which on a CPU is faster where the loop of this library is: from some 32
    steps of a layer of some size on. It differs in the last bits there. ``wnseq.weight_normalize`` makes a WNGRU of it.

    Args:
        args: Those of ``torch.nn.GRU``.
        kwargs: Likewise.

    Shape:
        - input, hx and output as of ``torch.nn.GRU``

    Raises:
        ShapeError: Input or state do not fit.
        TypeError: An argument has the wrong type.
        ValueError: The input's dtype is not the module's.

    Note:
        As of :class:`LSTM`.
    """

    def forward(self, input: Sequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Run over a sequence; see the class for shapes."""
        return call.run(self, _flat_weights(self), input, hx)


def _flat_weights(module: nn.RNNBase) -> list[Tensor]:
    """Read weights and biases as they are now: ``torch.func.functional_call`` and parametrisations put others there."""
    return [getattr(module, name) for name in module._flat_weights_names]
