"""The batch going through a model: what it leaves as it was, and the batch norms on its way."""

import pytest
import torch
from torch import nn

import wnseq
from wnseq.init import data_init
from wnseq.nn import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, WNConv2d, WNLinear

ROWS = torch.randn(300, 8, generator=torch.Generator().manual_seed(6)) * torch.arange(1, 9) + 4


def test_before_a_mean_only_batch_norm_the_bias_stays() -> None:
    net = nn.Sequential(WNConv2d(3, 5, 3), MeanOnlyBatchNorm2d(5), nn.ReLU(), nn.Flatten(), WNLinear(5 * 36, 4))
    plain = nn.Sequential(WNLinear(8, 4, bias=False), MeanOnlyBatchNorm1d(4))
    x = torch.randn(20, 3, 8, 8) * 3 + 2
    before = net[0].bias.detach().clone()
    statistics = {name: value.clone() for name, value in net.named_buffers()}
    assert not data_init(net, x).notes and not data_init(plain, ROWS).notes
    assert torch.equal(net[0].bias, before)
    for name, value in net.named_buffers():
        assert torch.equal(value, statistics[name])
    for model, batch in ((net[:2], x), (plain, ROWS)):
        y = model.train()(batch).movedim(1, 0).flatten(1)
        torch.testing.assert_close(y.mean(1), torch.zeros(len(y)), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.std(1, correction=0), torch.ones(len(y)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_flags_buffers_generators_and_gradients_are_left_alone(training: bool) -> None:
    net = nn.Sequential(WNLinear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), WNLinear(6, 4)).train(training)
    net[1].eval()
    flags = [module.training for module in net.modules()]
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    generator = torch.get_rng_state()
    data_init(net, ROWS)
    assert [module.training for module in net.modules()] == flags
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in net.named_buffers():
        assert torch.equal(value, buffers[name])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(("make", "error"), [(WNLinear, wnseq.ShapeError), (nn.Linear, RuntimeError)])
def test_a_model_that_fails_is_left_as_it_was(make: type[nn.Module], error: type[Exception]) -> None:
    net = nn.Sequential(make(8, 6), nn.ReLU(), make(5, 4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(error):
        data_init(net, ROWS)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and not net[0]._forward_hooks


def test_what_is_not_finite_is_refused() -> None:
    rows = ROWS.clone()
    rows[3, 2] = float("nan")
    with pytest.raises(ValueError, match="the output of the layer '1' for this batch is not finite"):
        data_init(nn.Sequential(nn.Identity(), WNLinear(8, 3)), rows)
