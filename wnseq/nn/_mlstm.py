"""The multiplicative LSTM, with weight normalisation and without: layers and cells."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from wnseq._recurrence.call import Sequence
from wnseq._recurrence.steps import GATES, mlstm_step
from wnseq.errors import ShapeError
from wnseq.functional import direction_norm
from wnseq.nn._cells import gate_view, layer_suffix
from wnseq.nn._min_rnn import Minimal, _Cell, _Layers, _Plain
from wnseq.nn._module import WNModule

Pair = tuple[Tensor, Tensor]


class _Multiplicative(Minimal):
    """Four weights and one bias."""

    kind = "mlstm"

    def _shapes(self, inputs: int) -> dict[str, tuple[int, int]]:
        hidden = self.hidden_size
        rows = len(GATES[self.kind]) * hidden
        of_gates = {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden)}
        return {**of_gates, "weight_im": (hidden, inputs), "weight_hm": (hidden, hidden)}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise all parameters from U(−1/√H, 1/√H), as those of ``torch.nn.LSTM``; g is the norm of v."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for name in self._flat_weights_names:
            if isinstance(self, WNModule) and name in self.weight_names:
                v, g = self.writable_v_and_g(name)
                g.copy_(direction_norm(nn.init.uniform_(v, -bound, bound), g))
            else:
                nn.init.uniform_(getattr(self, name), -bound, bound)
        if isinstance(self, WNModule):
            self.accept_v_and_g()


class _MultiplicativeLayers(_Multiplicative, _Layers):
    """Layers over sequences."""

    def forward(  # type: ignore[override]
        self, input: Sequence, hx: Pair | None = None, reset: Sequence | None = None
    ) -> tuple[Any, Pair]:
        """Run over a sequence."""
        module: Any = self
        output: tuple[Any, Pair] = module._run(*((input, hx) if reset is None else (input, hx, reset)))
        return output


class _MultiplicativeCell(_Multiplicative, _Cell):
    """One step of time."""

    def _with_weights(  # type: ignore[override]
        self, weights: list[Tensor], input: Tensor, hx: Pair | None = None
    ) -> Pair:
        label = type(self).__name__
        if hx is not None and not isinstance(hx, tuple | list):
            raise TypeError(f"{label}: the state must be a pair (h, c), got {type(hx).__name__}")
        if hx is not None and len(hx) != 2:
            raise ShapeError(f"{label}: the state must be a pair (h, c), got {len(hx)} tensors")
        for state in hx or (None,):
            self._check(weights[0], input, state)
        zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
        return mlstm_step(input, (zeros, zeros) if hx is None else (hx[0], hx[1]), *weights)

    def forward(self, input: Tensor, hx: Pair | None = None) -> Pair:  # type: ignore[override]
        """Compute one step."""
        module: Any = self
        output: Pair = module._run(input, hx)
        return output


class MLSTM(_MultiplicativeLayers, _Plain):
    """Multiplicative LSTM layers, as :class:`WNMLSTM` without v and g."""


class MLSTMCell(_MultiplicativeCell, _Plain):
    """A multiplicative LSTM cell, as :class:`WNMLSTMCell` without v and g."""


class WNMLSTM(_MultiplicativeLayers, WNModule):
    """Multiplicative LSTM (mLSTM) layers with weight normalisation: an LSTM whose transition each input chooses.

    m_t = (W_im x_t) ⊙ (W_hm h_(t−1)); i, f, g, o = σ, σ, tanh, σ of W_ih x_t + W_hh m_t + b; c_t = f ⊙ c_(t−1) + i ⊙ g;
    h_t = o ⊙ tanh(c_t), each row of all four weights being g·v/‖v‖

    No kernel has its steps: on a CPU a loop with a backward of its own runs 16 and more, elsewhere they run one by one.

    Args:
        input_size: I, features of the input.
        hidden_size: H, features of the state and of m.
        num_layers: L, layers on top of each other.
        bias: Whether to add b.
        batch_first: Whether a batched input and output is ``(N, T, ·)`` instead of ``(T, N, ·)``.
        dropout: Probability of a zero in the output of each layer but the last.
        bidirectional: Whether to run each layer in both directions, D = 2.
        device, dtype: Device and dtype of the parameters.

    Shape:
        - input: ``(T, N, I)``, ``(N, T, I)`` with batch_first, ``(T, I)`` unbatched, or a ``PackedSequence``
        - hx: a pair ``(h, c)`` of ``(L·D, N, H)``, without N unbatched; zeros if not given
        - reset: as of :class:`wnseq.WNLSTM`
        - output: the input's form with D·H features; the final ``(h, c)``

    Raises:
        ShapeError: Input, state or reset have the wrong shape.
        TypeError: An argument has the wrong type, or the state is not a pair.
        ValueError: An argument is out of range, or the input's dtype is not the module's.

    State:
        For each layer k, and ``_reverse``: weight_ih_lk_v ``(G·H, I or D·H)``, weight_hh_lk_v ``(G·H, H)``,
        weight_im_lk_v ``(H, I or D·H)``, weight_hm_lk_v ``(H, H)``, bias_ih_lk ``(G·H,)`` from U(−1/√H, 1/√H), the
        gates in the order i f g o; weight_…_lk_g, one entry for each row of v, ‖v‖.

    Note:
        As in the code of Radford et al. 2017 the output gate multiplies tanh(c). There is one bias, not torch's two.

    Example:
        >>> rnn = WNMLSTM(40, 128)
        >>> output, (h, c) = rnn(torch.randn(35, 20, 40))
        >>> output.shape, c.shape
        (torch.Size([35, 20, 128]), torch.Size([1, 20, 128]))
        >>> rnn.gate_g("forget", weight="hh").shape, rnn.weight_hm_l0_g.shape
        (torch.Size([128]), torch.Size([128]))

    Source:
        Krause, Lu, Murray & Renals 2017, arXiv 1609.07959; Radford, Józefowicz & Sutskever 2017, arXiv 1704.01444, for
        weight normalisation of the four weights.
    """

    def gate_g(self, gate: str, layer: int = 0, weight: str = "hh", reverse: bool = False) -> Tensor:
        """Return a view of one gate's scales, ``(H,)``, as ``WNLSTM.gate_g`` does; of W_im and W_hm g is one vector."""
        return gate_view(self, f"weight_{_of_gates(self, weight)}{layer_suffix(self, layer, reverse)}", gate)


class WNMLSTMCell(_MultiplicativeCell, WNModule):
    """A multiplicative LSTM cell with weight normalisation; the equations are those of :class:`WNMLSTM`.

    Shape:
        - input: ``(N, I)`` or ``(I,)``
        - hx: a pair ``(h, c)``, each ``(N, H)`` or ``(H,)``; zeros if not given
        - output: the next ``(h, c)``
    """

    def gate_g(self, gate: str, weight: str = "hh") -> Tensor:
        """Return a view of one gate's scales, ``(H,)``, as ``WNMLSTM.gate_g`` does."""
        return gate_view(self, f"weight_{_of_gates(self, weight)}", gate)


def _of_gates(module: Any, weight: str) -> str:
    if weight not in ("ih", "hh"):
        raise ValueError(f"{type(module).__name__}: weight must be 'ih' or 'hh', got {weight!r}")
    return weight
