"""WNRNN, WNLSTM and WNGRU: weight-normalised recurrent layers over whole sequences.

Weight drop, zoneout and recurrent dropout are arguments of the constructors, by keyword alone so that torch's order of
arguments holds. None is a wrapper, as weight drop is in the code of its paper: they act between v and g and the kernel,
or inside of a step, where a wrapper reaches only by replacing the layer's parameters or its forward. That would rename
entries of the state dict, hide the layer's type from conversion and initialisation, and be lost in some copies.
"""

import warnings
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor, nn

from wnseq._recurrence import dispatch
from wnseq._recurrence.call import Sequence
from wnseq._recurrence.steps import GATES
from wnseq.nn._arguments import check_bool, check_int, check_number, check_rate
from wnseq.nn._cells import gate_view, layer_suffix, reset_rnn_parameters_
from wnseq.nn._dropout import drop_recurrent_weights
from wnseq.nn._module import WNModule

REGULARISERS = ("weight_drop", "zoneout", "zoneout_cell", "recurrent_dropout")


class _WNRecurrent(WNModule):
    """Recurrent layers of any kind."""

    kind: str
    weight_drop: float = 0.0
    # of classes without such an argument too: to miss an attribute costs a call two microseconds
    zoneout: float = 0.0
    zoneout_cell: float = 0.0
    recurrent_dropout: float = 0.0

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
        rates: dict[str, float],
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
        for name, rate in rates.items():
            setattr(self, name, check_rate(type(self).__name__, name, rate))
        self._check_arguments()
        num_layers, proj_size = self.num_layers, self.proj_size
        rows = len(GATES[self.kind]) * hidden_size
        outputs = proj_size or hidden_size
        for layer, suffix in self._layers_and_directions():
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
        # in torch's order, under the names that code written for torch's modules reads
        self._all_weights = [[f"{part}_{suffix}" for part in parts] for _, suffix in self._layers_and_directions()]
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self.reset_parameters()

    def _check_arguments(self) -> None:
        label = type(self).__name__
        dropout, phrase = self.dropout, "dropout should be a number in range [0, 1] representing the probability of an "
        self.dropout = check_number(label, "dropout", dropout, 0, 1, f"{phrase}element being zeroed")
        self.num_layers = check_int(label, "num_layers", self.num_layers)
        if dropout > 0 and self.num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers=1 in {label}",
                stacklevel=4,
            )
        for name in ("bias", "batch_first", "bidirectional"):
            check_bool(label, name, getattr(self, name))
        for name in ("input_size", "hidden_size", "num_layers"):
            check_int(label, name, getattr(self, name), Integral if name == "num_layers" else int)  # as torch does
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than zero, got {getattr(self, name)} in {label}")
        self.proj_size = check_int(label, "proj_size", self.proj_size)
        if self.proj_size < 0:
            phrase = "proj_size should be a positive integer or zero to disable projections"
            raise ValueError(f"{phrase}, got {self.proj_size} in {label}")
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size has to be smaller than hidden_size, got {self.proj_size} and {self.hidden_size} in {label}"
            )

    def _layers_and_directions(self) -> Iterator[tuple[int, str]]:
        """Yield ``(layer, name suffix)`` in torch's order."""
        for layer in range(self.num_layers):
            yield layer, f"l{layer}"
            if self.bidirectional:
                yield layer, f"l{layer}_reverse"

    def reset_parameters(self) -> None:
        """Initialise all parameters as torch does; g is the norm of v."""
        reset_rnn_parameters_(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Do nothing: a no-op for code written for torch's modules."""

    @property
    def mode(self) -> str:
        """Torch's name of the recurrence: ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``."""
        return self.kind.upper()

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Composed weights and biases of each layer and direction, read-only."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        defaults = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0,
            "bidirectional": False,
            **dict.fromkeys(REGULARISERS, 0),
        }
        values = {name: getattr(self, name, usual) for name, usual in defaults.items()}
        given = [f"{name}={value}" for name, value in values.items() if value != defaults[name]]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *given])

    def gate_g(self, gate: str, layer: int = 0, weight: str = "hh", reverse: bool = False) -> Tensor:
        """Return a view of one gate's scales, ``(H,)``, to be written under ``torch.no_grad()``.

        Args:
            gate: ``hidden`` (RNN); ``input``, ``forget``, ``cell``, ``output`` (LSTM); ``reset``, ``update``, ``new``
                (GRU).
            layer: Number of the layer, from 0.
            weight: ``ih`` for the input weight, ``hh`` for the recurrent one.
            reverse: Whether to view the layer's backward direction.

        Note:
            To freeze a gate under any optimiser, restore it after each step by ``optimizer.register_step_post_hook``.
        """
        if weight not in ("ih", "hh"):
            raise ValueError(f"{type(self).__name__}: weight must be 'ih' or 'hh', got {weight!r}")
        return gate_view(self, f"weight_{weight}{layer_suffix(self, layer, reverse)}", gate)

    def _weights(self) -> list[Tensor]:
        """Return composed weights and biases in the order of torch's kernels."""
        weights = self.compose_weights()
        # biases as attributes: those of DataParallel's replicas, pruned or parametrised ones are no parameters
        flat = [weights[name] if name in weights else getattr(self, name) for name in self._flat_weights_names]
        return drop_recurrent_weights(self, flat)

    def version_guard(self) -> Callable[[], None]:
        """Return the function of :meth:`WNModule.version_guard`; with weight_drop it knows training from evaluation."""
        check, was_training = super().version_guard(), self.training

        def check_mode() -> None:
            check()
            if self.weight_drop and self.training != was_training:
                mode = "training, so its weights are dropped" if was_training else "evaluation, so no weight is dropped"
                raise RuntimeError(
                    f"{type(self).__name__}: bind() was called in {mode}, and it is used after the other of train() "
                    "and eval(); call bind() again after each of them"
                )

        return check_mode

    def _with_weights(self, flat: list[Tensor], input: Sequence, hx: Any = None, reset: Any = None) -> tuple[Any, Any]:
        return dispatch.run(self, flat, input, hx, reset)

    def _run_layers(self, *arguments: Any) -> Any:
        """Run the module; without a reset the arguments are those of torch's module, also in a graph of torch.fx."""
        return self._run(*arguments if arguments[-1] is not None else arguments[:-1])


class _WNHidden(_WNRecurrent):
    """Layers without a cell state."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raise torch's ValueError for a projection, which is no argument here."""
        if "proj_size" in kwargs:
            raise ValueError(f"proj_size argument is only supported for LSTM, not RNN or GRU: {cls.__name__}")
        return super().__new__(cls)

    def forward(self, input: Sequence, hx: Tensor | None = None, reset: Sequence | None = None) -> tuple[Any, Tensor]:
        """Run over a sequence."""
        output: tuple[Any, Tensor] = self._run_layers(input, hx, reset)
        return output


class WNRNN(_WNHidden):
    """Elman layers with weight normalisation, a drop-in for ``torch.nn.RNN``; see :class:`WNLSTM`.

    h_t = φ(W_ih x_t + b_ih + W_hh h_(t−1) + b_hh), φ being tanh or relu, each row of every weight being g·v/‖v‖

    Shape:
        - hx and the final state: ``(L·D, N, H)``, or ``(L·D, H)`` unbatched
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
        *,
        weight_drop: float = 0.0,
        zoneout: float = 0.0,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu' in WNRNN.")
        sizes = (input_size, hidden_size, num_layers)
        rates = {"weight_drop": weight_drop, "zoneout": zoneout}
        super().__init__(*sizes, bias, batch_first, dropout, bidirectional, 0, device, dtype, rates)
        self.nonlinearity = nonlinearity

    @property
    def mode(self) -> str:
        """``RNN_TANH`` or ``RNN_RELU``."""
        return f"RNN_{self.nonlinearity.upper()}"


class WNGRU(_WNHidden):
    """GRU layers with weight normalisation, a drop-in for ``torch.nn.GRU``; see :class:`WNLSTM`.

    r, z = σ of W_ih x_t + b_ih + W_hh h_(t−1) + b_hh; n = tanh(W_in x_t + b_in + r ⊙ (W_hn h_(t−1) + b_hn));
    h_t = (1 − z) ⊙ n + z ⊙ h_(t−1), each row of every weight being g·v/‖v‖

    Shape:
        - hx and the final state: ``(L·D, N, H)``, or ``(L·D, H)`` unbatched
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
        *,
        weight_drop: float = 0.0,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
    ) -> None:
        sizes = (input_size, hidden_size, num_layers)
        rates = {"weight_drop": weight_drop, "zoneout": zoneout, "recurrent_dropout": recurrent_dropout}
        super().__init__(*sizes, bias, batch_first, dropout, bidirectional, 0, device, dtype, rates)


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
        bidirectional: Whether to run each layer in both directions, D = 2.
        proj_size: P, features of the projected hidden state (Sak et al. 2014); 0 for none, then P = H.
        device, dtype: Device and dtype of the parameters.
        weight_drop: Probability of a zero in each entry of every W_hh, the others being divided by its complement, in
            training: one mask for each forward, or for each ``bind()``, and all its steps. v and g are trained.
        zoneout: Probability that an entry of h is that of the step before, drawn for each step in training; evaluation
            takes the expectation. Steps with it run one by one, in evaluation too.
        zoneout_cell: The same for c, whose unchanged value still makes h.
        recurrent_dropout: Probability of a zero in the candidate g (GRU: n), drawn for each step in training, whose
            steps run one by one. What the cell remembers is never dropped.

    Shape:
        - input: ``(T, N, I)``, ``(N, T, I)`` with batch_first, ``(T, I)`` unbatched, or a ``PackedSequence``
        - hx: a pair ``(h, c)`` of ``(L·D, N, P)`` and ``(L·D, N, H)``, without N unbatched; zeros if not given
        - reset: bools in the input's form without its features, ``(T, N)``; where one is true, a border lies before
          that step, and no state crosses it in either direction: each begins from zero on its other side
        - output: the input's form with D·P features; the final ``(h, c)``

    Raises:
        ShapeError: Input, state or reset have the wrong shape.
        TypeError: An argument has the wrong type, or the state is not a pair.
        ValueError: An argument is out of range, or the input's dtype is not the module's.

    State:
        For each layer k, and ``_reverse``: weight_ih_lk_v ``(G·H, I or D·P)``, weight_hh_lk_v ``(G·H, P)``,
        weight_hr_lk_v ``(P, H)`` with a projection, bias_ih_lk and bias_hh_lk ``(G·H,)`` from U(−1/√H, 1/√H), the G
        gates in torch's order (LSTM: i f g o; GRU: r z n); weight_…_lk_g, one entry for each row of v, ‖v‖.

    Example:
        >>> import torch
        >>> rnn = WNLSTM(40, 128, num_layers=2)
        >>> output, (h, c) = rnn(torch.randn(35, 20, 40))
        >>> output.shape, c.shape
        (torch.Size([35, 20, 128]), torch.Size([2, 20, 128]))
        >>> rnn.gate_g("forget", layer=1, weight="hh").shape
        torch.Size([128])

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2; weight_drop: Merity et al. 2018, arXiv 1708.02182,
        section 2; zoneout: Krueger et al. 2017, arXiv 1606.01305; recurrent_dropout: Semeniuta et al. 2016,
        arXiv 1603.05118.
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
        *,
        weight_drop: float = 0.0,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        recurrent_dropout: float = 0.0,
    ) -> None:
        sizes = (input_size, hidden_size, num_layers)
        rates = {"weight_drop": weight_drop, "zoneout": zoneout, "zoneout_cell": zoneout_cell}
        rates["recurrent_dropout"] = recurrent_dropout
        super().__init__(*sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype, rates)

    def forward(
        self, input: Sequence, hx: tuple[Tensor, Tensor] | None = None, reset: Sequence | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run over a sequence."""
        output: tuple[Any, tuple[Tensor, Tensor]] = self._run_layers(input, hx, reset)
        return output
