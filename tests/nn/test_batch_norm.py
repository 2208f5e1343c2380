"""Mean-only batch norm: its equations and its running mean; over two processes it is in test_distributed."""

import copy
import pickle

import pytest
import reference
import torch
from torch import nn

from wnseq import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, WNConv2d
from wnseq.errors import ShapeError

FORMS = {
    "features": (MeanOnlyBatchNorm1d, (5, 3)),
    "line": (MeanOnlyBatchNorm1d, (4, 3, 5)),
    "image": (MeanOnlyBatchNorm2d, (4, 3, 2, 5)),
}
each_form = pytest.mark.parametrize(("cls", "shape"), FORMS.values(), ids=FORMS)


def make(cls, **options):
    module = cls(3, dtype=torch.float64, **options)
    nn.init.normal_(module.bias)
    return module


@each_form
def test_equals_equation_7(cls, shape):
    module, t = make(cls), torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(module(t), reference.mean_only_batch_norm(t, module.bias), rtol=0, atol=1e-12)


@each_form
def test_the_gradient_is_centred_as_in_equation_8(cls, shape):
    module, t = make(cls), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(shape, dtype=torch.float64)
    grad, grad_b = torch.autograd.grad(module(t), (t, module.bias), probe)
    torch.testing.assert_close(grad, reference.centred_gradient(probe), rtol=0, atol=1e-12)
    torch.testing.assert_close(grad_b, probe.transpose(0, 1).flatten(1).sum(1), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(module, t) and torch.autograd.gradgradcheck(module, t, fast_mode=True)


@each_form
def test_is_torch_s_batch_norm_without_the_division(cls, shape):
    module = make(cls)
    twin = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3, eps=1e-30, dtype=torch.float64)
    for _ in range(3):
        t = torch.randn(shape, dtype=torch.float64) + 7
        others = [axis for axis in range(len(shape)) if axis != 1]
        deviation = t.std(others, correction=0).view(-1, *[1] * (len(shape) - 2))
        shift = module.bias.view(-1, *[1] * (len(shape) - 2))
        torch.testing.assert_close(module(t), twin(t) * deviation + shift)
        torch.testing.assert_close(module.running_mean, twin.running_mean)
    assert module.num_batches_tracked == twin.num_batches_tracked == 3


def test_the_running_mean_is_exponential_or_cumulative():
    batches = [torch.randn(4, 3, dtype=torch.float64) for _ in range(5)]
    exponential, cumulative = make(MeanOnlyBatchNorm1d), make(MeanOnlyBatchNorm1d, momentum=None)
    expected = torch.zeros(3, dtype=torch.float64)
    for t in batches:
        exponential(t), cumulative(t)
        expected = 0.9 * expected + 0.1 * t.mean(0)
    torch.testing.assert_close(exponential.running_mean, expected)
    torch.testing.assert_close(cumulative.running_mean, torch.cat(batches).mean(0), rtol=1e-13, atol=1e-13)
    t = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(cumulative.eval()(t), t - torch.cat(batches).mean(0) + cumulative.bias)
    assert cumulative.num_batches_tracked == 5  # evaluation leaves it alone
    cumulative.reset_parameters()
    assert not any(tensor.any() for tensor in cumulative.state_dict().values())


def test_without_a_running_mean_evaluation_centres_its_batch():
    module = MeanOnlyBatchNorm1d(3, track_running_stats=False, affine=False)
    assert not module.state_dict() and not [*module.parameters()]
    t = torch.randn(4, 3)
    torch.testing.assert_close(module.eval()(t), t - t.mean(0))
    torch.testing.assert_close(module.train()(t), t - t.mean(0))
    assert str(module) == "MeanOnlyBatchNorm1d(3, momentum=0.1, affine=False, track_running_stats=False)"
    assert str(MeanOnlyBatchNorm2d(3, sync=True)).endswith("track_running_stats=True, sync=True)")


def test_an_empty_batch_is_empty_and_teaches_nothing():
    for momentum in (0.1, None):
        module = MeanOnlyBatchNorm2d(3, momentum)
        assert module(torch.randn(0, 3, 2, 2)).shape == (0, 3, 2, 2)
        assert not module.running_mean.any() and module.num_batches_tracked == 0


@pytest.mark.parametrize("tracking", [True, False])
def test_one_example_depends_on_the_others_in_training_alone(tracking):
    ours = MeanOnlyBatchNorm2d(3, track_running_stats=tracking)
    theirs = nn.BatchNorm2d(3, track_running_stats=tracking)
    x = torch.randn(4, 3, 2, 2)
    others = torch.cat([x[:1], 2 * torch.randn(3, 3, 2, 2)])
    for module in (ours, theirs, nn.Sequential(WNConv2d(3, 3, 1), ours)):
        assert not torch.allclose(module.train()(x)[0], module(others)[0])
        assert torch.allclose(module.eval()(x)[0], module(others)[0]) == tracking


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_take_the_mean_in_float32(dtype):
    t = torch.full((4096, 1), 100.0, dtype=dtype)  # the sum does not fit float16
    assert not MeanOnlyBatchNorm1d(1).to(dtype)(t).any()
    assert MeanOnlyBatchNorm1d(1)(t).dtype == dtype  # as under autocast


def test_life():
    module, t = MeanOnlyBatchNorm1d(3), torch.randn(4, 3)
    module(t)
    module.eval()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), MeanOnlyBatchNorm1d(3).eval()):
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(t), module(t))
    meta = MeanOnlyBatchNorm1d(3, device="meta").to_empty(device="cpu")
    meta.reset_parameters()
    assert not meta.running_mean.any() and not meta.bias.any()
    compiled = torch.compile(module.train(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(t), t - t.mean(0))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: MeanOnlyBatchNorm1d(3)(torch.ones(3)),
            ShapeError,
            r"^expected 2D or 3D input \(got 1D input\)",
        ),
        (
            lambda: MeanOnlyBatchNorm2d(3)(torch.ones(2, 3, 4)),
            ShapeError,
            r"^expected 4D input \(got 3D input\)",
        ),
        (
            lambda: MeanOnlyBatchNorm1d(3)(torch.ones(2, 4)),
            ShapeError,
            "should contain 4 elements not 3: .*1d has 3",
        ),
        (
            lambda: MeanOnlyBatchNorm1d(3)(torch.ones(1, 3)),
            ShapeError,
            "than 1 value per channel when training",
        ),
        (lambda: MeanOnlyBatchNorm1d(3)([1.0]), TypeError, "input must be a tensor, got list"),
        (
            lambda: MeanOnlyBatchNorm1d(3, 1.5),
            ValueError,
            "between 0 and 1, or None, got momentum=1.5",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_sync_alone_is_no_different():
    t = torch.randn(4, 3)
    assert torch.equal(MeanOnlyBatchNorm1d(3, sync=True)(t), MeanOnlyBatchNorm1d(3)(t))
