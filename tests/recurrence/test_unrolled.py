"""A layer out of a step, and the way back through it that can be differentiated again."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from wnseq._recurrence import unrolled

SIZES = {"padded": None, "packed": torch.tensor([3, 3, 2, 1])}


def problem(batch_sizes):
    """Draw a GRU, an input, a state, and gradients of what comes out."""
    torch.manual_seed(0)
    twin = nn.GRU(5, 6, bidirectional=True)
    x = torch.randn((4, 3, 5) if batch_sizes is None else (9, 5), requires_grad=True)
    h = torch.randn(2, 3, 6, requires_grad=True)
    output, final = twin(x if batch_sizes is None else PackedSequence(x, batch_sizes), h)
    output = output if batch_sizes is None else output.data
    return twin, x, h, output, final


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("batch_sizes", SIZES.values(), ids=SIZES)
def test_a_layer_and_its_gradients_are_torchs(batch_sizes, reverse):
    twin, x, h, output, final = problem(batch_sizes)
    weights = list(twin.parameters())[4 * reverse : 4 * reverse + 4]
    output, final = output[..., 6 * reverse : 6 * reverse + 6], final[int(reverse)]
    ours, (h_n,) = unrolled.unroll(unrolled.gru, x, batch_sizes, (h[int(reverse)],), weights, reverse)
    torch.testing.assert_close((ours, h_n), (output, final))
    d = (torch.randn_like(output), torch.randn_like(final))
    found = unrolled.differentiable_backward(unrolled.gru, d, x, batch_sizes, (h[int(reverse)],), weights, reverse)
    wanted = torch.autograd.grad([output, final], [x, h, *weights], d)
    torch.testing.assert_close([found[0], found[1], *found[2:]], [wanted[0], wanted[1][int(reverse)], *wanted[2:]])
    assert all(part.requires_grad for part in found)


def test_no_gradient_where_none_is_asked_for():
    _, x, h, _, _ = problem(None)
    weights = [part.detach() for part in nn.GRU(5, 6, bias=False).parameters()]
    weights[0].requires_grad_()
    d = (torch.ones(4, 3, 6), torch.ones(3, 6))
    found = unrolled.differentiable_backward(
        unrolled.gru, d, x.detach(), None, (h[0].detach(),), [*weights, None, None], False
    )
    assert [part is not None for part in found] == [False, False, True, False, False, False]
