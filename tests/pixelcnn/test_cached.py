import itertools

import pytest
import torch
from pixelcnn_cases import CONV, KERNELS, UP, block, streams
from torch import nn

from wnseq.pixelcnn.cached import (
    CachedStreams,
    ConcatELUBuffer,
    PixelConv,
    PixelGated,
    PixelTransposed,
    RowConv,
    RowGated,
    RowTransposed,
    weight_and_bias,
)
from wnseq.pixelcnn.layers import DownRightShiftedConv2d, DownShiftedConv2d

SIZE = (6, 8)
ROWS = [kernel for shifted, kernel in KERNELS if shifted is DownShiftedConv2d]
PIXELS = [kernel for shifted, kernel in KERNELS if shifted is DownRightShiftedConv2d]
each_norm = pytest.mark.parametrize("norm", ["weight", "none"])


def image(channels=2, batch=3):
    return torch.randn(batch, channels, *SIZE).double()


def rows_of(x):
    """Cut images into rows, ``(N, W, C)``."""
    return list(x.permute(2, 0, 3, 1))


def from_rows(rows):
    return torch.stack(list(rows)).permute(1, 3, 0, 2)


@each_norm
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", ROWS)
def test_rows_are_those_of_the_layer(kernel, stride, norm, bias):
    layer, x = DownShiftedConv2d(CONV[norm](2, 5, kernel, stride=stride, bias=bias)).double(), image()
    step, rows = RowConv(layer, 3, SIZE[1]), []
    for number, row in enumerate(rows_of(x)):
        step.push(row)
        if number % stride == 0:
            rows.append(step.output())
    torch.testing.assert_close(from_rows(rows), layer(x))


@each_norm
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", PIXELS)
def test_pixels_are_those_of_the_layer(kernel, stride, norm, bias):
    layer, x = DownRightShiftedConv2d(CONV[norm](2, 5, kernel, stride=stride, bias=bias)).double(), image()
    step, y = PixelConv(layer, 3, SIZE[1]), torch.zeros_like(layer(x))
    for row, column in itertools.product(*map(range, SIZE)):
        if column == 0:
            step.next_row()
        step.slots[column].copy_(x[:, :, row, column])
        if row % stride == column % stride == 0:
            y[:, :, row // stride, column // stride] = step.output(column // stride)
    torch.testing.assert_close(y, layer(x))


def test_another_base_takes_the_place_of_the_bias():
    layer, base, out = (
        DownRightShiftedConv2d(nn.Conv2d(2, 5, 2)).double(),
        torch.randn(3, 5).double(),
        torch.empty(3, 5),
    )
    step, out = PixelConv(layer, 3, 4), out.double()
    step.slots[0].normal_()
    found = step.output(0, base, out)
    torch.testing.assert_close(out, step.output(0) - step.bias + base)
    assert found is out


@each_norm
def test_transposed_rows_and_pixels_are_those_of_the_layer(norm):
    above = DownShiftedConv2d(UP[norm](2, 5, (2, 3), stride=2)).double()
    left = DownRightShiftedConv2d(UP[norm](2, 5, (2, 2), stride=2)).double()
    x, y = image(), torch.empty(3, 5, 12, 16).double()
    by_row, by_pixel = RowTransposed(above), PixelTransposed(left)
    torch.testing.assert_close(from_rows(row for given in rows_of(x) for row in by_row(given)), above(x))
    for row, column in itertools.product(*map(range, SIZE)):
        for (a, made), b in itertools.product(enumerate(by_pixel(x[:, :, row, column])), range(2)):
            y[:, :, 2 * row + a, 2 * column + b] = made[b]
    torch.testing.assert_close(y, left(x))


def test_transposed_layers_that_overlap_are_refused():
    with pytest.raises(ValueError, match="RowTransposed: the kernel must be as high as the stride 2, got 3"):
        RowTransposed(DownShiftedConv2d(nn.ConvTranspose2d(2, 2, (3, 3), stride=2)))
    with pytest.raises(ValueError, match=r"PixelTransposed: .* of the size of the stride \(2, 2\), got \(2, 3\)"):
        PixelTransposed(DownRightShiftedConv2d(nn.ConvTranspose2d(2, 2, (2, 3), stride=2)))


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("shortcuts", [0, 1, 2])
def test_a_block_by_rows(shortcuts, classes):
    layer, label = block(0, shortcuts, classes).double(), torch.tensor([3, 0, 1]) if classes else None
    images = [image(3) for _ in range(1 + shortcuts)]
    with torch.no_grad():
        step = RowGated(layer, 3, SIZE[1], label)
        found = from_rows(step(*rows) for rows in zip(*map(rows_of, images), strict=True))
        torch.testing.assert_close(found, layer(images[0], label, *images[1:]))


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("shortcuts", [1, 2])
def test_a_block_by_pixels(shortcuts, classes):
    layer, label = block(1, shortcuts, classes).double(), torch.tensor([3, 0, 1]) if classes else None
    x, u, *skip = (image(3) for _ in range(1 + shortcuts))
    found, held = torch.empty_like(x), ConcatELUBuffer(x, 3, 3)
    with torch.no_grad():
        step = PixelGated(layer, 3, SIZE[1], label)
        for row, column in itertools.product(*map(range, SIZE)):
            if column == 0:
                step.begin(rows_of(u)[row])
            elu = []
            for y in skip:
                signed = ConcatELUBuffer(x, 3, 3)
                signed.x.copy_(y[:, :, row, column])
                elu.append(torch.empty_like(signed.both))
                signed.elu(elu[0])
            held.x.copy_(x[:, :, row, column])
            step(column, held, *elu)
            found[:, :, row, column] = held.x
        torch.testing.assert_close(found, layer(x, label, u, *skip))


@pytest.mark.parametrize("classes", [0, 4])
def test_both_streams_are_those_of_whole_images(classes):
    net, label = streams(classes, dropout=0.5).double().eval(), torch.tensor([3, 0, 1]) if classes else None
    u, ul = image(3), image(3)
    found_u, found_ul = [], torch.empty_like(ul)
    with torch.no_grad():
        step = CachedStreams(net, 3, SIZE[1], label)
        for row, given in enumerate(rows_of(u)):
            found_u.append(step.row(row, given))
            for column in range(SIZE[1]):
                step.x.copy_(ul[:, :, row, column])
                step.pixel(row, column)
                found_ul[:, :, row, column] = step.x
        expected = net(u, ul, label)
    torch.testing.assert_close(from_rows(found_u), expected[0])
    torch.testing.assert_close(found_ul, expected[1])


def test_weights_are_composed_once():
    conv = CONV["weight"](2, 3, 2)
    weight, bias = weight_and_bias(conv)
    assert type(weight) is torch.Tensor and not weight.requires_grad and not bias.requires_grad
    torch.testing.assert_close(weight, conv.compose_weights()["weight"].detach())
    assert weight_and_bias(nn.Conv2d(2, 3, 2, bias=False))[1].tolist() == [0, 0, 0]
