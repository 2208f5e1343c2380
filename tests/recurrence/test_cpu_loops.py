"""The hand-written recurrences against torch's own layers in float64, and what holds for the loop of every kind."""

import contextlib
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

import wnseq
from wnseq._recurrence import cpu_loops
from wnseq._recurrence.backend import backend
from wnseq.nn import WNMLSTM, WNMinGRU, WNMinLSTM

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


# ---- the loop of every kind

RESETTING = {
    "gru": wnseq.WNGRU,
    "tanh rnn": wnseq.WNRNN,
    "relu rnn": partial(wnseq.WNRNN, nonlinearity="relu"),
    "lstm": wnseq.WNLSTM,
    "projected lstm": partial(wnseq.WNLSTM, proj_size=3),
    "mingru": WNMinGRU,
    "minlstm": WNMinLSTM,
}
LOOPS = {name: (make, True, False) for name, make in RESETTING.items()}
LOOPS |= {f"{name} without resets": (RESETTING[name], False, False) for name in ("gru", "tanh rnn", "mingru")}
LOOPS |= {"mlstm": (WNMLSTM, False, False), "lstm in bfloat16": (wnseq.WNLSTM, False, True)}
each_loop = pytest.mark.parametrize("loop", LOOPS)


class Run:
    """A layer and an input, which the loop of its kind runs."""

    def __init__(self, loop, bidirectional=True):
        torch.manual_seed(0)
        make, self.resets, self.half = LOOPS[loop]
        self.layer = make(5, 6, bidirectional=bidirectional)
        self.x = torch.randn(7, 3, 5, requires_grad=True)
        self.reset = torch.rand(7, 3) < 0.3
        self.leaves = [self.x, *self.layer.parameters()]

    def output(self, parameters=None):
        how = torch.autocast("cpu", torch.bfloat16) if self.half else contextlib.nullcontext()
        with how, backend("cpu_loop"):
            arguments = self.x, None, *([self.reset] if self.resets else [])
            return functional_call(self.layer, parameters or {}, arguments)[0]


@each_loop
def test_a_batch_of_gradients_has_each_of_them(loop):
    run = Run(loop)
    output = run.output()
    probes = torch.randn(2, *output.shape).to(output.dtype)
    batched = torch.autograd.grad(output, run.leaves, probes, is_grads_batched=True, retain_graph=True)
    singly = zip(*(torch.autograd.grad(output, run.leaves, probe, retain_graph=True) for probe in probes), strict=True)
    close = {"rtol": 0.1, "atol": 0.1} if run.half else {}
    for found, expected in zip(batched, singly, strict=True):
        torch.testing.assert_close(found, torch.stack(expected), **close)


@each_loop
@pytest.mark.parametrize("trains", [True, False])
def test_an_output_may_be_written_into(loop, trains):
    run, scale = Run(loop, bidirectional=False), torch.full((), 2.0, requires_grad=True)
    run.layer.requires_grad_(trains)
    run.x.requires_grad_(trains)
    leaves = [scale, *(run.leaves if trains else [])]
    expected = torch.autograd.grad((run.output() * scale).square().sum(), leaves)
    found = torch.autograd.grad(run.output().mul_(scale).square().sum(), leaves)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loop", RESETTING)
def test_a_mask_that_is_overwritten_before_the_backward_is_refused(loop):
    run = Run(loop)
    output = run.output()
    run.reset.logical_not_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@each_loop
def test_biases_may_lie_anywhere_in_memory(loop):
    run = Run(loop)
    biases = {name: bias for name, bias in run.layer.named_parameters() if "bias" in name}
    columns = torch.stack([*biases.values(), *biases.values()], 1).unbind(1)
    strided = dict(zip(biases, columns, strict=False))
    assert biases and not any(bias.is_contiguous() for bias in strided.values())
    torch.testing.assert_close(run.output(strided), run.output())
