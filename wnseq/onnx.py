"""ONNX nodes for wnseq's custom operators: one LSTM, GRU or RNN a layer and direction, of any length and batch size."""

from collections.abc import Callable
from typing import Any

import torch

import wnseq._recurrence.custom_ops  # noqa: F401 - registers what is looked up below

NO_PROJECTION = (
    "ONNX has no LSTM with a projection (https://github.com/k2-fsa/icefall/pull/621). Export a model whose LSTM has "
    "proj_size=0, or run the exported program of torch.export."
)
NO_PACKING = (
    "an ONNX recurrence takes padded sequences, not packed ones (https://onnx.ai/onnx/operators/onnx__LSTM.html). "
    "Export the model with a padded input, or run the exported program of torch.export."
)
NO_RESET = (
    "an ONNX recurrence has no resets inside a sequence (https://onnx.ai/onnx/operators/onnx__LSTM.html). Export the "
    "model without reset and run it from border to border, or run the exported program of torch.export."
)
ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # ONNX has i o f c and z r h, torch i f g o and r z n


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ``custom_translation_table`` of ``torch.onnx.export`` for wnseq's custom operators.

    Raises:
        ImportError: onnxscript is missing; ``pip install 'wnseq[export]'``.
        ValueError: During the export: an LSTM has a projection, an input is packed, or ``reset`` is given.

    Note:
        The graph composes each weight from v and g; a runtime does so once, when it loads the model.

    Example:
        >>> import torch, wnseq
        >>> model, x = wnseq.WNLSTM(4, 6).eval(), torch.randn(5, 2, 4)
        >>> sizes = ({0: torch.export.Dim("time"), 1: torch.export.Dim("batch")},)
        >>> program = torch.onnx.export(
        ...     model, (x,), dynamo=True, dynamic_shapes=sizes, custom_translation_table=translations(), verbose=False
        ... )
        >>> [node.op_type for node in program.model.graph if node.op_type in ("LSTM", "Loop", "Scan")]
        ['LSTM']
    """
    import onnxscript  # optional, and slow to import

    op: Any = onnxscript.opset18

    def common(
        kind: str, batch_sizes: Any, reset: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the weights and attributes of a node, gates in the order of ONNX."""
        if batch_sizes is not None:
            raise ValueError(f"wnseq.{kind}: {NO_PACKING}")
        if reset is not None:
            raise ValueError(f"wnseq.{kind}: {NO_RESET}")
        order = ORDERS[kind]
        size = w_hh.shape[1]

        def ordered(w: Any) -> Any:
            gates = [op.Slice(w, [k * size], [(k + 1) * size], [0]) for k in order]
            return op.Concat(*gates, axis=0) if len(gates) > 1 else w

        biases = None
        if b_ih is not None:
            biases = op.Unsqueeze(op.Concat(ordered(b_ih), ordered(b_hh), axis=0), [0])  # (1, 2·G·H)
        weights = [op.Unsqueeze(ordered(w), [0]) for w in (w_ih, w_hh)]  # (1, G·H, ·)
        return [*weights, biases], {"hidden_size": size, "direction": "reverse" if reverse else "forward"}

    def lstm(
        x: Any,
        batch_sizes: Any,
        reset: Any,
        h: Any,
        c: Any,
        w_ih: Any,
        w_hh: Any,
        b_ih: Any,
        b_hh: Any,
        w_hr: Any,
        reverse: bool,
        save: bool,
    ) -> tuple[Any, ...]:
        if w_hr is not None:
            raise ValueError(f"wnseq.lstm: {NO_PROJECTION}")
        weights, attributes = common("lstm", batch_sizes, reset, w_ih, w_hh, b_ih, b_hh, reverse)
        y, h, c = op.LSTM(x, *weights, None, op.Unsqueeze(h, [0]), op.Unsqueeze(c, [0]), **attributes)
        return op.Squeeze(y, [1]), op.Squeeze(h, [0]), op.Squeeze(c, [0])

    def gru(
        x: Any,
        batch_sizes: Any,
        reset: Any,
        h: Any,
        w_ih: Any,
        w_hh: Any,
        b_ih: Any,
        b_hh: Any,
        reverse: bool,
        save: bool,
    ) -> tuple[Any, ...]:
        weights, attributes = common("gru", batch_sizes, reset, w_ih, w_hh, b_ih, b_hh, reverse)
        y, h = op.GRU(x, *weights, None, op.Unsqueeze(h, [0]), linear_before_reset=1, **attributes)
        return op.Squeeze(y, [1]), op.Squeeze(h, [0])

    def rnn(
        x: Any,
        batch_sizes: Any,
        reset: Any,
        h: Any,
        w_ih: Any,
        w_hh: Any,
        b_ih: Any,
        b_hh: Any,
        relu: bool,
        reverse: bool,
    ) -> tuple[Any, ...]:
        weights, attributes = common("rnn", batch_sizes, reset, w_ih, w_hh, b_ih, b_hh, reverse)
        y, h = op.RNN(x, *weights, None, op.Unsqueeze(h, [0]), activations=["Relu" if relu else "Tanh"], **attributes)
        return op.Squeeze(y, [1]), op.Squeeze(h, [0])

    registered = torch.ops.wnseq
    return {registered.lstm.default: lstm, registered.gru.default: gru, registered.rnn.default: rnn}
