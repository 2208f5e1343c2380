"""The hand-written recurrences, forward and back, against torch's own layers in float64."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from wnseq._recurrence import cpu_loops

SIZES = {"padded": [3, 3, 3, 3], "packed": [3, 3, 2, 1], "one step": [2], "one sequence": [1, 1, 1]}
FORMS = {
    "lstm": (nn.LSTM, {}),
    "projected lstm": (nn.LSTM, {"proj_size": 3}),
    "gru": (nn.GRU, {}),
    "tanh rnn": (nn.RNN, {}),
    "relu rnn": (nn.RNN, {"nonlinearity": "relu"}),
}


def by_hand(form, x, sizes, states, weights, reverse, d_output, d_states):
    """Run one direction and back; return output, final states, and the gradients of x, states and weights."""
    w_ih, w_hh, *rest = weights
    b_ih, b_hh, w_hr = [*rest, *[None] * (3 - len(rest))] if len(rest) != 1 else [None, None, *rest]
    both = None if b_ih is None else b_ih + b_hh
    if form.endswith("lstm"):
        output, h, c, *kept = cpu_loops.lstm_forward(x, sizes, *states, w_ih, w_hh, both, w_hr, reverse)
        d_x, d_h, d_c, d_ih, d_hh, d_b, d_hr = cpu_loops.lstm_backward(
            d_output, *d_states, x, sizes, *states, w_ih, w_hh, w_hr, reverse, output, *kept
        )
        final, d_initial, d_biases, d_rest = (h, c), (d_h, d_c), [d_b, d_b], [] if w_hr is None else [d_hr]
    elif form == "gru":
        output, h, *kept = cpu_loops.gru_forward(x, sizes, *states, w_ih, w_hh, b_ih, b_hh, reverse)
        d_x, d_h, d_ih, d_hh, *d_biases = cpu_loops.gru_backward(
            d_output, *d_states, x, sizes, *states, w_ih, w_hh, reverse, output, *kept
        )
        final, d_initial, d_rest = (h,), (d_h,), []
    else:
        relu = form.startswith("relu")
        output, h = cpu_loops.rnn_forward(x, sizes, *states, w_ih, w_hh, both, relu, reverse)
        d_x, d_h, d_ih, d_hh, d_b = cpu_loops.rnn_backward(
            d_output, *d_states, x, sizes, *states, w_ih, w_hh, relu, reverse, output
        )
        final, d_initial, d_biases, d_rest = (h,), (d_h,), [d_b, d_b], []
    return output, final, [d_x, *d_initial, d_ih, d_hh, *(d_biases if b_ih is not None else []), *d_rest]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_both_directions_and_their_gradients_are_torchs(form, sizes, bias):
    torch.manual_seed(0)
    kind, kwargs = FORMS[form]
    twin = kind(5, 6, bias=bias, bidirectional=True, dtype=torch.float64, **kwargs)
    outputs = kwargs.get("proj_size", 6)
    widths = (outputs, 6) if kind is nn.LSTM else (outputs,)
    x = torch.randn(sum(sizes), 5, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(2, sizes[0], width, dtype=torch.float64, requires_grad=True) for width in widths]
    output, final = twin(PackedSequence(x, torch.tensor(sizes)), tuple(states) if len(states) > 1 else states[0])
    final = final if len(states) > 1 else (final,)
    d_output = torch.randn_like(output.data)
    d_final = [torch.randn_like(state) for state in final]
    leaves = [x, *states, *twin.parameters()]
    d_x, *rest = torch.autograd.grad([output.data, *final], leaves, [d_output, *d_final])
    d_states, d_weights = rest[: len(states)], rest[len(states) :]

    weights = [weight.detach() for weight in twin.parameters()]
    half = len(weights) // 2
    sum_of_d_x = torch.zeros_like(x)
    for place, reverse in enumerate([False, True]):
        columns = slice(place * outputs, (place + 1) * outputs)
        own = slice(place * half, (place + 1) * half)
        ours, our_final, gradients = by_hand(
            form,
            x.detach(),
            sizes,
            [state.detach()[place] for state in states],
            weights[own],
            reverse,
            d_output[:, columns],
            [d[place] for d in d_final],
        )
        wanted = [d_states[k][place] for k in range(len(states))] + list(d_weights[own])
        sum_of_d_x += gradients[0]
        torch.testing.assert_close(ours, output.data[:, columns], rtol=0, atol=1e-12)
        torch.testing.assert_close(list(our_final), [state[place] for state in final], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradients[1:], wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(sum_of_d_x, d_x, rtol=0, atol=1e-12)
