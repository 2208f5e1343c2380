"""Convolutions: padding, output sizes, the axis of g, and every error; the equation is in test_linear.py."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import wnseq
from wnseq import WNConv1d, WNConv2d, WNConvTranspose1d, WNConvTranspose2d
from wnseq.errors import ShapeError


def test_channels_last_is_kept():
    for cls in (WNConv2d, WNConvTranspose2d):
        module, x = cls(4, 6, 3), torch.randn(2, 4, 5, 5)
        expected = module(x)
        module = module.to(memory_format=torch.channels_last)
        torch.testing.assert_close(module(x.contiguous(memory_format=torch.channels_last)), expected)
        module.reset_parameters()


@pytest.mark.parametrize(
    "size", [(9, 12), [9, 14], (2, 6, 10, 13), torch.Size([10, 12]), None], ids=lambda size: str(size)
)
def test_the_output_may_be_of_any_size_that_the_stride_allows(size):
    options = {"stride": (2, 3), "padding": 1, "dilation": (1, 2)}
    torch.manual_seed(1)
    ours = WNConvTranspose2d(4, 6, 3, **options)
    torch.manual_seed(1)
    theirs = nn.ConvTranspose2d(4, 6, 3, **options)
    x = torch.randn(2, 4, 5, 4)
    torch.testing.assert_close(ours(x, output_size=size), theirs(x, output_size=size))
    torch.testing.assert_close(ours.bind()(x, output_size=size), theirs(x, output_size=size))
    if size is not None and len(size) == 2:
        torch.testing.assert_close(ours(x[0], size), theirs(x[0], size))


AXES = {"more out": (4, 6), "as many": (4, 4), "one in": (1, 3), "one out": (3, 1)}


@pytest.mark.parametrize(
    ("channels", "groups"),
    [*((channels, 1) for channels in AXES.values()), (AXES["more out"], 2), (AXES["as many"], 2)],  # no groups of one
)
@pytest.mark.parametrize("dim", [0, 1])
def test_a_scale_of_each_input_channel_keeps_its_axis(channels, dim, groups):
    torch.manual_seed(0)
    theirs = parametrizations.weight_norm(nn.ConvTranspose2d(*channels, 3, groups=groups), dim=dim)
    g = theirs.parametrizations.weight.original0
    with torch.no_grad():
        g.mul_(torch.randn_like(g))
    x = torch.randn(2, channels[0], 5, 5)
    expected = theirs(x)
    ours = WNConvTranspose2d(*channels, 3, groups=groups)
    held, optimizer = ours.weight_g, torch.optim.Adam(ours.parameters(), lr=0.1)
    ours.load_state_dict(theirs.state_dict())
    assert ours.weight_g is held  # an optimiser goes on with it
    torch.testing.assert_close(ours(x), expected)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for assign in (False, True):
        again = WNConvTranspose2d(*channels, 3, groups=groups)
        again.load_state_dict(saved, assign=assign)
        torch.testing.assert_close(again(x), expected)
    meta = WNConvTranspose2d(*channels, 3, groups=groups, device="meta")
    meta.load_state_dict(saved, assign=True)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), meta):
        torch.testing.assert_close(other(x), expected)
    assert {module.weight_g.shape for module in (again, meta, ours)} == {held.shape}

    along = held.ndim == 4  # else g lies along the outputs, where ours does
    assert along == (dim == 0 or groups == 2)
    ours(x).square().sum().backward()
    optimizer.step()
    ours.weight = nn.Parameter(2 * theirs.weight)
    torch.testing.assert_close(ours(x) - ours.bias.view(-1, 1, 1), 2 * (expected - theirs.bias.view(-1, 1, 1)))
    ours.reset_parameters()
    assert ours.weight_g.shape == held.shape
    torch.testing.assert_close(ours.weight.detach().as_subclass(torch.Tensor), ours.weight_v.detach())
    plain = nn.ConvTranspose2d(*channels, 3, groups=groups)
    ours.load_state_dict(plain.state_dict())  # which knows no axis: the outputs' again
    assert ours.weight_g.shape == (channels[1],)
    torch.testing.assert_close(ours(x), plain(x))


def test_a_scale_that_fits_no_axis_is_a_mismatch():
    ours = WNConvTranspose1d(4, 6, 3)
    state = {**ours.state_dict(), "weight_g": torch.ones(5, 1, 1)}
    with pytest.raises(RuntimeError, match="size mismatch for weight_g"):
        ours.load_state_dict(state)


def test_a_direction_of_zeros_along_the_axis_of_the_outputs_warns():
    layer = WNConvTranspose1d(4, 6, 3, groups=2)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    state["weight_v"][0] = 0  # an input channel: no output is without direction
    layer.load_state_dict(state)
    state["weight_v"][2:, 1] = 0  # the second output of the second group
    with pytest.warns(UserWarning, match="weight_v was loaded with a row of zeros"):
        layer.load_state_dict(state)


CONSTRUCTORS = {
    "no groups": {"groups": 0},
    "groups of inputs": {"groups": 3},
    "groups of outputs": {"groups": 4},
    "mode": {"padding_mode": "mirror"},
    "padding": {"padding": "full"},
    "strided same": {"padding": "same", "stride": 2},
    "negative": {"kernel_size": -1},
    "float": {"kernel_size": 1.5},
    "integers": {"dtype": torch.int64},
}
NO_WORDS = ("padding", "strided same")  # of a transposed convolution: torch takes the word for a tuple of letters
BAD_CONSTRUCTIONS = [
    pytest.param(kind, options, id=f"{kind}-{name}")
    for kind in ("Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d")
    for name, options in CONSTRUCTORS.items()
    if not (kind.startswith("ConvT") and name in NO_WORDS)
]


@pytest.mark.parametrize(("kind", "options"), BAD_CONSTRUCTIONS)
def test_a_bad_construction_raises_as_torch_s_does(kind, options):
    options = {"kernel_size": 3, **options}
    try:
        getattr(nn, kind)(4, 6, **options)
    except Exception as error:
        with pytest.raises(type(error)):
            getattr(wnseq, f"WN{kind}")(4, 6, **options)
    else:
        getattr(wnseq, f"WN{kind}")(4, 6, **options)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: WNConv1d(4, 6, 3, groups=0), ValueError, "groups must be a positive integer, got 0 in WNConv1d"),
        (lambda: WNConv1d(5, 6, 3, groups=2), ValueError, "in_channels must be divisible by groups, got 5 and 2"),
        (lambda: WNConv2d(6, 5, 3, groups=2), ValueError, "out_channels must be divisible by groups, got 5 and 2"),
        (
            lambda: WNConv2d(4, 6, 3, padding="full"),
            ValueError,
            "Invalid padding string 'full'.* in WNConv2d",
        ),
        (lambda: WNConv2d(4, 6, 3, 2, "same"), ValueError, r"not supported for strided .*, got \(2, 2\)"),
        (
            lambda: WNConv2d(4, 6, 3, padding_mode="mirror"),
            ValueError,
            "but got padding_mode='mirror' in WNConv2d",
        ),
        (
            lambda: WNConvTranspose1d(4, 6, 3, padding_mode="circular"),
            ValueError,
            "Only \"zeros\" padding mode is supported for WNConvTranspose1d, got 'circular'",
        ),
        (lambda: WNConvTranspose1d(4, 6, 3, padding="same"), TypeError, "padding should be of type int, got: str"),
        (lambda: WNConv1d(4, 6, 3)(np.ones((4, 9))), TypeError, "input must be a tensor, got ndarray"),
        (lambda: WNConv2d(4, 6, 3)(torch.ones(2, 5, 9, 9)), ShapeError, "must have 4 channels along axis -3, got 5"),
        (lambda: WNConv2d(4, 6, 3)(torch.ones(9, 9)), ShapeError, "must have 4 axes, or 3 without a batch, got shape"),
        (
            lambda: WNConvTranspose1d(4, 6, 3)(torch.ones(2, 4, 5), (1, 2)),
            ValueError,
            r"ConvTranspose1D: for 3D input, output_size must have 1 or 3 elements \(got 2\)",
        ),
        (
            lambda: WNConvTranspose1d(4, 6, 3, 2)(torch.ones(2, 4, 5), (9,)),
            ValueError,
            r"requested an output size of \(9,\), but valid sizes range from \[11\] to \[12\] \(for an input of ",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()
