"""The recurrences over a whole sequence, one function a kind, by the one of the ways that the moment asks for.

``flat`` holds weights and biases in torch's order: for each layer and direction, ``w_ih, w_hh[, b_ih, b_hh][, w_hr]``.
With ``batch_sizes`` the input is the data of a packed sequence; it has no batch axis then, and ``batch_first`` is moot.

Torch's kernels are the rule; on a CPU, GRUs of some size run by :mod:`wnseq._recurrence.cpu_gru`, and large LSTMs under bfloat16
autocast by :mod:`wnseq._recurrence.cpu_lstm`. While a graph is captured, each layer and direction is one operator of ours.
None of these has a batching rule, and torch's LSTM of float32 on a CPU no forward-mode derivative, so under
``torch.func.vmap``, ``jvp``, ``jacfwd`` and ``hessian`` the cells' steps run one by one. So does a single step of few
rows on a CPU.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence import cpu_gru, cpu_lstm, custom_ops, unrolled
from wnseq._recurrence.backend import is_open, product_dtype
from wnseq._recurrence.matmul import MIN_FLOPS_ONEDNN
from wnseq._recurrence.steps import rnn_step
from wnseq._recurrence.unrolled import Flat, Layer, Result, Sizes, States
from wnseq._torch_internals import is_tracing, needs_grad

# Rows up to which, and entries of w_hh from which on, the cells take a single step of an LSTM: by the dtype of its
# products, and whether there may be a backward through it. The measurements are at _lstm_streams.
SINGLE = {
    (torch.float32, False): (64, 0),
    (torch.float32, True): (32, 0),
    (torch.bfloat16, False): (16, 2**20),
    (torch.bfloat16, True): (64, 2**16),
}


class RNNConfig(NamedTuple):
    """How a recurrence runs, apart from its tensors."""

    bias: bool
    num_layers: int
    dropout: float
    training: bool
    bidirectional: bool
    batch_first: bool


def rnn(
    x: Tensor, batch_sizes: Tensor | None, h: Tensor, flat: list[Tensor], plan: RNNConfig, nonlinearity: str
) -> tuple[Tensor, Tensor]:
    """Run Elman layers over a sequence.

    Args:
        x: Input.
        batch_sizes: Sequences alive at each step of a packed input; None for a padded one.
        h: Initial hidden states.
        flat: Weights and biases.
        plan: How to run.
        nonlinearity: ``tanh`` or ``relu``.

    Shape:
        - x: ``(T, N, I)``, ``(N, T, I)`` with ``plan.batch_first``, or packed ``(ΣN, I)``
        - h: ``(L·D, N, H)``

    Returns:
        Output and final hidden states.
    """
    way = select_backend(x)
    if way == "steps":

        def step(x: Tensor, states: States, *weights: Tensor) -> States:
            w_ih, w_hh, *biases = weights
            b_ih, b_hh = biases or (None, None)
            return (rnn_step(x, states[0], w_ih, w_hh, b_ih, b_hh, nonlinearity),)

        layer = unrolled.layer(step)
    elif way == "operators":

        def layer(x: Tensor, batch_sizes: Sizes, states: States, weights: Flat, reverse: bool) -> Result:
            x, states, weights = _autocast(x, states, weights)
            w_ih, w_hh, b_ih, b_hh = weights if plan.bias else [*weights, None, None]
            output, h = custom_ops.rnn(x, batch_sizes, *states, w_ih, w_hh, b_ih, b_hh, nonlinearity == "relu", reverse)
            return output, (h,)

    else:
        flat = _cast_once(flat)
        run = torch.rnn_tanh if nonlinearity == "tanh" else torch.rnn_relu
        if batch_sizes is None:
            return run(x, h, flat, *plan)
        return run(x, batch_sizes, h, flat, *plan[:-1])
    output, (h,) = _run(layer, x, batch_sizes, (h,), flat, plan)
    return output, h


def lstm(
    x: Tensor, batch_sizes: Tensor | None, state: tuple[Tensor, Tensor], flat: list[Tensor], plan: RNNConfig
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run LSTM layers over a sequence.

    Args:
        x: Input.
        batch_sizes: Sequences alive at each step of a packed input; None for a padded one.
        state: Initial hidden and cell states.
        flat: Weights and biases.
        plan: How to run.

    Shape:
        - x: ``(T, N, I)``, ``(N, T, I)`` with ``plan.batch_first``, or packed ``(ΣN, I)``
        - state: ``(L·D, N, P or H)`` and ``(L·D, N, H)``

    Returns:
        Output, and final hidden and cell states.
    """
    gates = 4 if plan.bias else 2  # weights and biases of the gates; a projection comes after them
    projected = state[0].shape[2] != state[1].shape[2]
    way = select_backend(x)
    if way == "steps":
        layer = unrolled.layer(unrolled.lstm)
    elif way == "operators":

        def layer(x: Tensor, batch_sizes: Sizes, states: States, weights: Flat, reverse: bool) -> Result:
            dtype = states[1].dtype
            x, states, weights = _autocast(x, states, weights)
            w_ih, w_hh, b_ih, b_hh = weights[:gates] if plan.bias else [*weights[:gates], None, None]
            w_hr = weights[gates] if len(weights) > gates else None
            onednn = custom_ops.has_onednn(x, batch_sizes, w_hr)
            save = not onednn and needs_grad(x, *states, *weights)
            output, h, c, _, _ = custom_ops.lstm(x, batch_sizes, *states, w_ih, w_hh, b_ih, b_hh, w_hr, reverse, save)
            if not onednn:  # there autocast lowers torch's products, not its states
                c = c.to(dtype)
                output, h = (output, h) if w_hr is not None else (output.to(dtype), h.to(dtype))
            return output, (h, c)

    elif _lstm_streams(x, batch_sizes, state, flat, plan, projected):
        x, (h, c), flat = _autocast(x, state, flat)
        state, layer = (h, c), unrolled.layer(unrolled.lstm)
    elif cpu_lstm.fits(x, batch_sizes, state, flat, projected):

        def layer(x: Tensor, batch_sizes: Sizes, states: States, weights: Flat, reverse: bool) -> Result:
            return cpu_lstm.lstm(x, states, weights, reverse)

    elif batch_sizes is None:
        output, h, c = torch.lstm(x, state, flat, *plan)
        return output, (h, c)
    else:
        output, h, c = torch.lstm(x, batch_sizes, state, flat, *plan[:-1])
        return output, (h, c)
    output, (h, c) = _run(layer, x, batch_sizes, state, flat, plan)
    return output, (h, c)


def gru(x: Tensor, batch_sizes: Tensor | None, h: Tensor, flat: list[Tensor], plan: RNNConfig) -> tuple[Tensor, Tensor]:
    """Run GRU layers over a sequence.

    Args:
        x: Input.
        batch_sizes: Sequences alive at each step of a packed input; None for a padded one.
        h: Initial hidden states.
        flat: Weights and biases.
        plan: How to run.

    Shape:
        - x: ``(T, N, I)``, ``(N, T, I)`` with ``plan.batch_first``, or packed ``(ΣN, I)``
        - h: ``(L·D, N, H)``

    Returns:
        Output and final hidden states.
    """
    way = select_backend(x)
    if way == "steps":
        layer = unrolled.layer(unrolled.gru)
    elif way == "operators":

        def layer(x: Tensor, batch_sizes: Sizes, states: States, weights: Flat, reverse: bool) -> Result:
            dtype = states[0].dtype  # which torch's GRU keeps under autocast
            x, states, weights = _autocast(x, states, weights)
            w_ih, w_hh, b_ih, b_hh = weights if plan.bias else [*weights, None, None]
            save = needs_grad(x, *states, *weights)
            output, h, _, _ = custom_ops.gru(x, batch_sizes, *states, w_ih, w_hh, b_ih, b_hh, reverse, save)
            return output.to(dtype), (h.to(dtype),)

    elif _gru_streams(x, batch_sizes, h, flat, plan):
        layer = unrolled.layer(unrolled.gru)
    elif cpu_gru.fits(x, batch_sizes, h, flat):

        def layer(x: Tensor, batch_sizes: Sizes, states: States, weights: Flat, reverse: bool) -> Result:
            output, h = cpu_gru.gru(x, batch_sizes, states[0], weights, reverse)
            return output, (h,)

    else:
        flat = _cast_once(flat)
        if batch_sizes is None:
            return torch.gru(x, h, flat, *plan)
        return torch.gru(x, batch_sizes, h, flat, *plan[:-1])
    output, (h,) = _run(layer, x, batch_sizes, (h,), flat, plan)
    return output, h


def select_backend(x: Tensor) -> Literal["steps", "operators", "kernels"]:
    """Tell what the moment asks for.

    ``steps`` under a transform of ``torch.func`` that neither kernels nor operators have a rule for; ``operators``
    while a graph is captured that torch's own recurrence would not fit into as one node: on CUDA it does, except for
    export, which would fix the length.
    """
    if torch.compiler.is_compiling():  # where the transforms cannot be told apart
        if torch._C._are_functorch_transforms_active():
            return "steps"
        return "operators" if not x.is_cuda or torch.compiler.is_exporting() else "kernels"
    functorch = torch._C._functorch  # torch has no public name for the transforms at work
    without_rule = (functorch.TransformType.Vmap, functorch.TransformType.Jvp)
    for each in functorch.get_interpreter_stack() or ():
        if each.key() in without_rule:
            return "steps"
    return "kernels"


def _lstm_streams(x: Tensor, batch_sizes: Sizes, states: States, flat: Flat, plan: RNNConfig, projected: bool) -> bool:
    """Tell whether the cells take an LSTM: for a single step of few rows on a CPU.

    Torch's kernel prepares itself and lays the weights out anew at each call. With a projection it has another one,
    which autocast lowers less. Time of the cells over it, composition included, on two cores with AVX-512 and bfloat16
    products:

    ===========  ====================  ===================  ===================  ===================
    N×H          float32, inference    float32, training    bfloat16, inference  bfloat16, training
    ===========  ====================  ===================  ===================  ===================
    1×128        0.97                  0.79                 1.09                 0.90
    1×512        0.40                  0.57                 0.82                 0.64
    16×512                             0.83                 1.00                 0.67
    32×512                             0.91                 1.06                 0.66
    64×512       0.83                  1.15                 1.10                 0.70
    64×128                             1.17                 1.39                 1.00
    16×64                              0.85                 1.36                 0.97
    ===========  ====================  ===================  ===================  ===================
    """
    batch = _single_step(x, batch_sizes, plan)
    if not batch:
        return False
    dtype = product_dtype(x)
    rows, entries = SINGLE.get((dtype, needs_grad(x, *states, *flat)), (0, 0))
    return batch <= rows and flat[1].numel() >= entries and not (projected and dtype != torch.float32)


def _gru_streams(x: Tensor, batch_sizes: Sizes, h: Tensor, flat: Flat, plan: RNNConfig) -> bool:
    """Tell whether the cells take a GRU: for a single step of few rows in inference on a CPU, by a large weight.

    Torch's GRU takes the product of a row from a library that :mod:`wnseq._recurrence.matmul` avoids. Time of the cells over it:
    0.53 at N×H = 1×650 and 0.57 at 64×512, but 1.22 at 1×512.
    """
    batch = _single_step(x, batch_sizes, plan)
    is_large = 0 < batch <= 64 and batch * flat[1].numel() >= MIN_FLOPS_ONEDNN
    return is_large and product_dtype(x) == torch.float32 and not needs_grad(x, h, *flat)


def _single_step(x: Tensor, batch_sizes: Sizes, plan: RNNConfig) -> int:
    """Count the rows of an input on a CPU that is one padded step long; 0 of any other."""
    if batch_sizes is not None or not x.is_cpu or is_tracing() or not is_open():
        return 0
    steps, batch = (x.shape[1], x.shape[0]) if plan.batch_first else (x.shape[0], x.shape[1])
    return batch if steps == 1 else 0


def _autocast(x: Tensor, states: States, weights: Flat) -> tuple[Tensor, States, Flat]:
    """Cast what goes into a layer as autocast would."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return x, states, weights
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), tuple(state.to(dtype) for state in states), [weight.to(dtype) for weight in weights]


def _cast_once(flat: Flat) -> Flat:
    """Cast weights for the steps of torch's recurrences on a CPU.

    Autocast keeps the cast of a parameter, and casts anew at each step what has been composed: half of the time of a
    GRU at 35×1×1024.
    """
    if not (flat[0].is_cpu and torch.is_autocast_enabled("cpu")):
        return flat
    dtype = torch.get_autocast_dtype("cpu")
    return [each.to(dtype) if each.dtype == torch.float32 else each for each in flat]


def _run(
    layer: Layer, x: Tensor, batch_sizes: Tensor | None, states: States, flat: list[Tensor], plan: RNNConfig
) -> tuple[Tensor, States]:
    """Run layers and directions one by one; arguments and results as of the fused kernels."""
    swap = plan.batch_first and batch_sizes is None
    x = x.transpose(0, 1) if swap else x  # (T, N, I), or (ΣN, I) packed
    places = states[0].shape[0]
    directions = 1 + plan.bidirectional
    each = len(flat) // places
    final: list[States] = []
    for first in range(0, places, directions):
        if first and plan.dropout:
            x = F.dropout(x, plan.dropout, plan.training)
        outputs: list[Tensor] = []
        for place in range(first, first + directions):
            weights = flat[place * each : (place + 1) * each]
            output, new = layer(x, batch_sizes, tuple(s[place] for s in states), weights, place > first)
            outputs.append(output)
            final.append(new)
        x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    return x.transpose(0, 1) if swap else x, tuple(torch.stack(parts) for parts in zip(*final, strict=True))
