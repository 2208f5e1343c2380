import itertools

import pytest
import torch
import torch.nn.functional as F
from pixelcnn_cases import CONV, KERNELS, UP, block, streams
from torch import nn

import wnseq
from wnseq.pixelcnn.layers import (
    DownRightShiftedConv2d,
    DownShiftedConv2d,
    PixelCNNStage,
    concat_elu,
    down_shift,
    right_shift,
)

LAYERS = [(shifted, kernel, stride, False) for (shifted, kernel), stride in itertools.product(KERNELS, (1, 2))]
LAYERS += [(shifted, kernel, 1, True) for shifted, kernel in KERNELS]
LAYERS += [(DownShiftedConv2d, (2, 3), 2, True), (DownShiftedConv2d, (3, 5), 2, True)]
LAYERS += [(DownRightShiftedConv2d, (2, 2), 2, True), (DownRightShiftedConv2d, (3, 4), 2, True)]
each_layer = pytest.mark.parametrize(("shifted", "kernel", "stride", "transposed"), LAYERS)


def make(shifted, kernel, stride, transposed, norm="weight", channels=(2, 3)):
    conv = (UP if transposed else CONV)[norm](*channels, kernel, stride=stride)
    return shifted(conv).double()


def seen(layer, kernel, stride, transposed, size):
    """Which output pixel sees which input pixel, from the definition: (H', W', H, W)."""
    (height, width), (above, wide) = size, kernel
    left, right = (wide // 2, wide // 2) if isinstance(layer, DownShiftedConv2d) else (wide - 1, 0)
    outputs = [stride * n if transposed else -(-n // stride) for n in size]
    sees = torch.zeros(*outputs, *size, dtype=torch.bool)
    for i, j, r, c in itertools.product(*map(range, (*outputs, height, width))):
        if transposed:
            sees[i, j, r, c] = 0 <= i - stride * r < above and 0 <= j + right - stride * c < wide
        else:
            sees[i, j, r, c] = 0 <= stride * i - r < above and -right <= stride * j - c <= left
    return sees


def by_gradient(function, x):
    """Which output pixel depends on which input pixel, by the gradient: (H', W', H, W)."""
    jacobian = torch.autograd.functional.jacobian(function, x)  # (1, C', H', W', 1, C, H, W)
    return jacobian.abs().sum((0, 1, 4, 5)) > 0


def by_perturbation(function, x):
    """The same, moving one input pixel after the other."""
    before, columns = function(x), []
    for row, column in itertools.product(range(x.shape[2]), range(x.shape[3])):
        moved = x.clone()
        moved[:, :, row, column] += torch.randn_like(x[:, :, row, column])
        columns.append((function(moved) - before).abs().sum((0, 1)) > 0)
    return torch.stack(columns, 2).unflatten(2, x.shape[2:])


@each_layer
@pytest.mark.parametrize("norm", ["weight", "none"])
def test_a_layer_sees_what_it_may_and_all_of_it(shifted, kernel, stride, transposed, norm):
    layer, x = make(shifted, kernel, stride, transposed, norm), torch.randn(1, 2, 4, 6).double()
    expected = seen(layer, kernel, stride, transposed, (4, 6))
    assert torch.equal(by_gradient(layer, x), expected)
    assert torch.equal(by_perturbation(layer, x), expected)
    for i, j, r, c in expected.nonzero().tolist():
        row, column = (i // stride, j // stride) if transposed else (i * stride, j * stride)
        assert r <= row, "a row further down is seen"
        assert r < row or shifted is DownShiftedConv2d or c <= column, "a column further right is seen"


@each_layer
def test_a_layer_is_the_sum_over_what_it_sees(shifted, kernel, stride, transposed):
    layer, x = make(shifted, kernel, stride, transposed), torch.randn(2, 2, 4, 6).double()
    right = kernel[1] // 2 if shifted is DownShiftedConv2d else 0
    w, y = layer.conv.weight.detach(), layer(x)
    expected = layer.conv.bias.detach()[:, None, None].expand_as(y).clone()
    for i, j, r, c in seen(layer, kernel, stride, transposed, (4, 6)).nonzero().tolist():
        if transposed:
            expected[:, :, i, j] += x[:, :, r, c] @ w[:, :, i - stride * r, j + right - stride * c]
        else:
            a, b = r - stride * i + kernel[0] - 1, c - stride * j + kernel[1] - 1 - right
            expected[:, :, i, j] += x[:, :, r, c] @ w[:, :, a, b].T
    torch.testing.assert_close(y, expected)


@each_layer
def test_a_layer_folds_and_normalises_as_any_other(shifted, kernel, stride, transposed):
    layer, x = make(shifted, kernel, stride, transposed), torch.randn(1, 2, 4, 6).double()
    plain = wnseq.remove_weight_norm(layer)
    assert type(plain) is shifted and not hasattr(plain.conv, "weight_names")
    torch.testing.assert_close(plain(x), layer(x))
    torch.testing.assert_close(wnseq.weight_normalize(plain)(x), layer(x))


def test_shifts():
    x = torch.arange(1.0, 7).view(1, 1, 2, 3)
    assert down_shift(x).tolist() == [[[[0, 0, 0], [1, 2, 3]]]]
    assert right_shift(x).tolist() == [[[[0, 1, 2], [0, 4, 5]]]]


def test_a_shifted_layer_does_not_see_its_own_place():
    x = torch.randn(1, 2, 4, 4).double()
    above, left = make(DownShiftedConv2d, (2, 3), 1, False), make(DownRightShiftedConv2d, (2, 1), 1, False)
    for i, j, r, c in by_gradient(lambda x: down_shift(above(x)) + right_shift(left(x)), x).nonzero().tolist():
        assert 4 * r + c < 4 * i + j


def test_concat_elu():
    x = torch.randn(2, 3, 4, 5).double()
    elu = torch.where(x > 0, x, x.exp() - 1), torch.where(x < 0, -x, (-x).exp() - 1)
    torch.testing.assert_close(concat_elu(x), torch.cat(elu, 1))
    assert concat_elu(x, 3).shape == (2, 3, 4, 10)


@pytest.mark.parametrize(
    ("shifted", "conv", "error", "text"),
    [
        (
            DownShiftedConv2d,
            nn.Linear(2, 2),
            TypeError,
            "DownShiftedConv2d: conv must be a convolution over two axes, .*Linear",
        ),
        (
            DownShiftedConv2d,
            nn.Conv1d(2, 2, 3),
            TypeError,
            "DownShiftedConv2d: conv must be a convolution over two axes",
        ),
        (DownShiftedConv2d, nn.Conv2d(2, 2, 3, padding=1), ValueError, r"padding \(0, 0\), .* got \(1, 1\)"),
        (DownRightShiftedConv2d, nn.Conv2d(2, 2, 3, dilation=2), ValueError, r"dilation \(1, 1\), .* got \(2, 2\)"),
        (DownRightShiftedConv2d, nn.Conv2d(2, 2, 3, groups=2), ValueError, "groups 1, .* got 2"),
        (
            DownRightShiftedConv2d,
            nn.ConvTranspose2d(2, 2, 3, stride=2, output_padding=1),
            ValueError,
            r"output_padding \(0, 0\), .* got \(1, 1\)",
        ),
        (
            DownShiftedConv2d,
            nn.Conv2d(2, 2, 2),
            ValueError,
            "DownShiftedConv2d: conv must have a kernel of odd width, got 2",
        ),
        (
            DownShiftedConv2d,
            wnseq.WNConvTranspose2d(2, 2, (2, 1), stride=2),
            ValueError,
            r"of stride \(2, 2\) needs a kernel of at least \(2, 2\), .* got \(2, 1\)",
        ),
        (
            DownRightShiftedConv2d,
            nn.ConvTranspose2d(2, 2, 1, stride=2),
            ValueError,
            r"of stride \(2, 2\) needs a kernel of at least \(2, 2\), .* got \(1, 1\)",
        ),
    ],
)
def test_a_convolution_that_does_not_fit_is_refused(shifted, conv, error, text):
    with pytest.raises(error, match=text):
        shifted(conv)


@pytest.mark.parametrize("shortcuts", [0, 1, 2])
def test_a_block_is_its_equation(shortcuts):
    net = block(1, shortcuts, classes=4).double()
    x, *rest = torch.randn(1 + shortcuts, 2, 3, 4, 5).double()
    label = torch.tensor([3, 1])
    c = net.first(F.elu(torch.cat([x, -x], 1)))
    if shortcuts:
        c = c + net.side(F.elu(torch.cat([*rest, *(-y for y in rest)], 1)))
    gates = net.second(F.elu(torch.cat([c, -c], 1))) + net.of_class.weight[label].view(2, 6, 1, 1)
    expected = x + gates[:, :3] / (1 + torch.exp(-gates[:, 3:]))
    torch.testing.assert_close(net(x, label, *rest), expected)


@pytest.mark.parametrize("stream", [0, 1])
def test_a_block_sees_as_far_as_its_convolutions(stream):
    net, x = block(stream, 1).double(), torch.randn(1, 3, 4, 4).double()
    for i, j, r, c in by_gradient(lambda y: net(x, None, y), x).nonzero().tolist():
        assert r < i or (r == i and (stream == 0 or c <= j))


def test_the_class_starts_small():
    assert block(0, 0, classes=500, channels=10).of_class.weight.detach().std() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("stream", ["u", "ul"])
def test_the_streams_see_what_they_may(stream):
    net = streams(channels=1).double()  # a gradient for every number of the output
    x = torch.randn(1, 1, 8, 8).double()

    def of_u(u):
        return net(u, x)[0 if stream == "u" else 1]

    for i, _, r, _ in by_gradient(of_u, x).nonzero().tolist():
        assert r <= i
    sees = by_gradient(lambda ul: net(x, ul)[1], x)
    assert torch.equal(sees, by_perturbation(lambda ul: net(x, ul)[1], x))
    for i, j, r, c in sees.nonzero().tolist():
        assert 8 * r + c <= 8 * i + j
    assert not by_gradient(lambda ul: net(x, ul)[0], x).any(), "u follows ul"


def test_every_skip_is_used():
    net = streams()
    u, ul = net(torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8))
    (u.sum() + ul.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_streams_with_another_number_of_skips_are_refused():
    with pytest.raises(ValueError, match="up must have a pair for each of 1 skips, got 2"):
        PixelCNNStage([(block(0, 0), block(1, 1))], [(block(0, 1), block(1, 2))] * 2)


def test_checkpointing_keeps_less_and_gives_the_same_gradient_with_dropout():
    found = {}
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = streams(classes=2, dropout=0.5, checkpointing=checkpointing)
        u, ul, kept = *torch.randn(2, 4, 3, 8, 8), {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = net(u, ul, torch.tensor([0, 1, 0, 1]))
        out[1].square().sum().backward()
        parameters = sum(parameter.nbytes for parameter in net.parameters())
        found[checkpointing] = [p.grad for p in net.parameters()], sum(kept.values()) - parameters
    for lean, full in zip(found[True][0], found[False][0], strict=True):
        assert (lean is full is None) or torch.equal(lean, full)
    assert found[True][1] < found[False][1] / 2
