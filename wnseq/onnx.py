"""ONNX nodes for wnseq's custom operators: one LSTM, GRU or RNN a layer and direction, of any length and batch size.

With resets it is a Scan, of :mod:`wnseq._onnx_steps`. And a language model as an ONNX file whose state is an input and
an output.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import wnseq._recurrence.custom_ops  # noqa: F401 - registers what is looked up below

NO_PROJECTION = (
    "ONNX has no LSTM with a projection (https://github.com/k2-fsa/icefall/pull/621). Export a model whose LSTM has "
    "proj_size=0, or run the exported program of torch.export."
)
NO_PACKING = (
    "an ONNX recurrence takes padded sequences, not packed ones (https://onnx.ai/onnx/operators/onnx__LSTM.html). "
    "Export the model with a padded input, or run the exported program of torch.export."
)
ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # ONNX has i o f c and z r h, torch i f g o and r z n

NO_NODE = (
    "there is no ONNX node for this recurrence, whose steps would be those of one length: export a model with an LSTM, "
    "a GRU or an RNN"
)
MODES = {"LSTM", "GRU", "RNN_TANH", "RNN_RELU"}  # of recurrences that ONNX has a node for


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ``custom_translation_table`` of ``torch.onnx.export`` for wnseq's custom operators.

    Raises:
        ImportError: onnxscript is missing; ``pip install 'wnseq[export]'``.
        ValueError: During the export: an LSTM has a projection, or an input is packed.

    Note:
        The graph composes each weight from v and g; a runtime does so once, when it loads the model. A layer that is
        called with ``reset`` becomes a Scan over its steps, since ONNX's own resets no state inside a sequence.

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

    from wnseq import _onnx_steps as steps

    op: Any = onnxscript.opset18

    def with_resets(
        function: Any, x: Any, reset: Any, states: list[Any], w_ih: Any, w_hh: Any, bias: Any, reverse: bool, *rest: Any
    ) -> tuple[Any, ...]:
        """Run a layer by a function over its steps; return its output and final states."""
        mask = op.Unsqueeze(op.CastLike(reset, x), [2])  # (T, N, 1)
        if reverse:  # a border lies before a step, which is after it from here
            x, mask = flip(x), flip(mask)
            mask = op.Concat(op.Sub(op.Slice(mask, [0], [1], [0]), op.Slice(mask, [0], [1], [0])), mask, axis=0)
            mask = op.Slice(mask, [0], [-1], [0])
        products = op.MatMul(x, op.Transpose(w_ih, perm=[1, 0]))  # (T, N, G·H)
        products = products if bias is None else op.Add(products, bias)
        keep = op.Sub(op.CastLike(op.Constant(value_float=1.0), x), mask)
        output, *final = function(products, keep, *states, op.Transpose(w_hh, perm=[1, 0]), *rest)
        return (flip(output) if reverse else output), *final

    def flip(x: Any) -> Any:
        return op.Slice(x, [-1], [-(2**63) + 1], [0], [-1])

    def both(b_ih: Any, b_hh: Any) -> Any:
        return None if b_ih is None else op.Add(b_ih, b_hh)

    def common(
        kind: str, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the weights and attributes of a node, gates in the order of ONNX."""
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
        _refuse_packed("lstm", batch_sizes)
        if reset is not None:
            return with_resets(steps.lstm_steps, x, reset, [h, c], w_ih, w_hh, both(b_ih, b_hh), reverse)
        weights, attributes = common("lstm", w_ih, w_hh, b_ih, b_hh, reverse)
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
        _refuse_packed("gru", batch_sizes)
        if reset is not None:
            zeros = op.Expand(op.CastLike(op.Constant(value_float=0.0), w_hh), [w_hh.shape[0]])
            bias = zeros if b_hh is None else b_hh
            return with_resets(steps.gru_steps, x, reset, [h], w_ih, w_hh, b_ih, reverse, bias)
        weights, attributes = common("gru", w_ih, w_hh, b_ih, b_hh, reverse)
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
        _refuse_packed("rnn", batch_sizes)
        if reset is not None:
            function = steps.relu_steps if relu else steps.tanh_steps
            return with_resets(function, x, reset, [h], w_ih, w_hh, both(b_ih, b_hh), reverse)
        weights, attributes = common("rnn", w_ih, w_hh, b_ih, b_hh, reverse)
        y, h = op.RNN(x, *weights, None, op.Unsqueeze(h, [0]), activations=["Relu" if relu else "Tanh"], **attributes)
        return op.Squeeze(y, [1]), op.Squeeze(h, [0])

    registered = torch.ops.wnseq
    return {registered.lstm.default: lstm, registered.gru.default: gru, registered.rnn.default: rnn}


def _refuse_packed(kind: str, batch_sizes: Any) -> None:
    """Raise ValueError for a packed input."""
    if batch_sizes is not None:
        raise ValueError(f"wnseq.{kind}: {NO_PACKING}")


class _Step(nn.Module):
    """A language model whose state is a flat list of tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, state = self.network(tokens, state if len(state) > 1 else state[0], last_only=True)
        return logits[0], *(state if isinstance(state, tuple) else (state,))


@torch.no_grad()
def export_language_model(network: nn.Module, path: str | Path) -> float:
    """Write a language model as an ONNX file with its state as input and output, and compare the two.

    The inputs are ``tokens`` ``(T, N)`` of int64 and the state, ``h`` and an LSTM's ``c``, ``(L, N, ·)``, zeros at the
    start; the outputs ``logits`` ``(N, V)`` of the token after the last one, ``next_h`` and ``next_c``.

    Args:
        network: On a CPU, in evaluation mode. ``network(tokens, state, last_only=True)`` returns the last logits,
            ``(1, N, V)``, and the state; None is the state of the start.
        path: The file to write, whose missing folders are made.

    Returns:
        The largest difference of a logit between ONNX Runtime and torch, over two windows of several streams.

    Raises:
        ImportError: onnxscript or onnxruntime is missing; ``pip install 'wnseq[export]'``.
        ValueError: The recurrence has no ONNX node, or the two disagree by more than rounding.
    """
    if {part.mode for part in network.modules() if hasattr(part, "mode") and hasattr(part, "hidden_size")} - MODES:
        raise ValueError(NO_NODE)  # before the minutes that its unrolled steps take
    import onnxruntime  # type: ignore[import-untyped]

    path = Path(path).expanduser()
    tokens = torch.arange(10).view(5, 2) % 2
    logits, state = network(tokens, None, last_only=True)
    states = state if isinstance(state, tuple) else (state,)
    names = ["h", "c"][: len(states)]
    steps, streams = torch.export.Dim("steps"), torch.export.Dim("streams")
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of itself, and that torchvision is missing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                _Step(network).eval(),
                (tokens, *states),
                input_names=["tokens", *names],
                output_names=["logits", *(f"next_{name}" for name in names)],
                dynamo=True,
                dynamic_shapes=({0: steps, 1: streams}, tuple({1: streams} for _ in states)),
                custom_translation_table=translations(),
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    if not {"LSTM", "GRU", "RNN"} & {node.op_type for node in program.model.graph}:
        raise ValueError(NO_NODE)
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path))
    ours, difference = [torch.zeros(len(part), 3, part.shape[2]).numpy() for part in states], torch.zeros(())
    state = None
    for length in (4, 1):
        tokens = torch.arange(length * 3).view(length, 3) % logits.shape[-1]
        found, *ours = session.run(None, dict(zip(["tokens", *names], [tokens.numpy(), *ours], strict=True)))
        logits, state = network(tokens, state, last_only=True)
        difference = torch.maximum(difference, (torch.from_numpy(found) - logits[0]).abs().max())  # which keeps NaN
    if not difference <= 1e-4 * max(1.0, logits.abs().max().item()):
        raise ValueError(
            f"ONNX Runtime gives logits that differ from torch's by {difference:.3g}: {path} is not usable"
        )
    return difference.item()
