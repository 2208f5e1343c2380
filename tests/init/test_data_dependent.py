"""Initialisation of feed-forward models: equations 5 and 6, every pre-activation, and plain networks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
import pytest
import reference
import torch
from torch import Tensor, nn

import wnseq
from wnseq.convert import remove_weight_norm, weight_normalize
from wnseq.init._data_dependent import data_init
from wnseq.nn._batch_norm import MeanOnlyBatchNorm1d
from wnseq.nn._conv import WNConv1d, WNConv2d, WNConvTranspose1d, WNConvTranspose2d
from wnseq.nn._linear import WNLinear
from wnseq.nn._module import WNModule
from wnseq.nn._rnn import WNLSTM


@contextmanager
def pre_activations(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record what every weight-normalised layer gives, by name, units first."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, WNModule):
            axis = 1 - module.v_and_g("weight")[0].ndim

            def hook(module, args, output, name=name, axis=axis):
                seen.setdefault(name, []).append(output.detach().double().movedim(axis, 0).flatten(1))

            handles.append(module.register_forward_hook(hook))
    yield seen
    for handle in handles:
        handle.remove()


def measured(model: nn.Module, *batch: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of each unit over all the calls of its layer."""
    training = model.training
    with pre_activations(model) as seen, torch.no_grad():
        model.eval()(*batch)
    model.train(training)
    joint = {name: torch.cat(parts, 1) for name, parts in seen.items()}
    return {name: (units.mean(1), units.std(1, correction=0)) for name, units in joint.items()}


def check(model: nn.Module, *batch: Tensor, scale: float = 1.0, tolerance: float = 1e-5) -> None:
    """Hold every pre-activation of a model to mean 0 and one deviation."""
    found = measured(model, *batch)
    assert found
    for mean, deviation in found.values():
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=tolerance * scale, rtol=0)
        torch.testing.assert_close(deviation, torch.full_like(deviation, scale), atol=tolerance * scale, rtol=0)


def conv_pool_cnn_c(width: int) -> nn.Module:
    """The paper's classifier, its channels divided."""

    def block(inputs: int, outputs: int, size: int, padding: int) -> list[nn.Module]:
        return [WNConv2d(inputs, outputs, size, padding=padding), nn.LeakyReLU(0.1, inplace=True)]

    a, b = 96 // width, 192 // width
    return nn.Sequential(
        *[part for inputs in (3, a, a) for part in block(inputs, a, 3, 1)],
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        *[part for inputs in (a, b, b) for part in block(inputs, b, 3, 1)],
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        *block(b, b, 3, 0),
        *block(b, b, 1, 0),
        *block(b, b, 1, 0),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        WNLinear(b, 10),
    )


class Residual(nn.Module):
    """Blocks with a shortcut of their own where the channels change."""

    def __init__(self) -> None:
        super().__init__()
        self.first = WNConv2d(3, 6, 3, padding=1)
        self.a = nn.ModuleList([WNConv2d(6, 6, 3, padding=1), WNConv2d(6, 12, 3, padding=1, stride=2)])
        self.b = nn.ModuleList([WNConv2d(6, 6, 3, padding=1), WNConv2d(12, 12, 3, padding=1)])
        self.shortcut = WNConv2d(6, 12, 1, stride=2)
        self.head = WNLinear(12, 5)
        self.aside = WNLinear(12, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)
        x = x + self.b[0](self.a[0](x.relu()).relu())
        x = self.shortcut(x) + self.b[1](self.a[1](x.relu()).relu())
        x = x.mean((2, 3))
        return self.head(x), self.aside(x)


class Repeated(nn.Module):
    """One layer used again and again."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.inner, self.outer, self.times = WNLinear(8, 8), WNLinear(8, 3), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x + self.inner(x).relu()
        return self.outer(x)


IMAGES = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 3 + 2
ROWS = torch.randn(300, 8, generator=torch.Generator().manual_seed(6)) * torch.arange(1, 9) + 4


def test_equation_5_each_layer_passes_on_what_is_normalised() -> None:
    net = nn.Sequential(WNLinear(8, 6), nn.Tanh(), WNLinear(6, 4)).double()
    x = ROWS.double()
    data_init(net, x)
    _, _, first = reference.data_dependent(net[0].weight_v.detach(), x)
    _, _, second = reference.data_dependent(net[2].weight_v.detach(), first.tanh())
    torch.testing.assert_close(net(x).detach(), second, rtol=1e-12, atol=1e-12)


def test_equation_6_sets_g_and_b() -> None:
    net = nn.Sequential(WNLinear(8, 6), nn.Tanh(), WNLinear(6, 4)).double()
    x = ROWS.double()
    data_init(net, x, init_scale=0.3)
    for layer in (net[0], net[2]):
        g, b, y = reference.data_dependent(layer.weight_v.detach(), x, 0.3)
        torch.testing.assert_close(layer.weight_g.detach(), g, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.bias.detach(), b, rtol=1e-12, atol=1e-12)
        x = y.tanh()


def test_equations_5_and_6_for_a_convolution_run_over_the_positions_too() -> None:
    conv = WNConv2d(3, 4, 3).double()
    x = IMAGES[:4, :, :6, :6].double()
    data_init(conv, x)
    g, b, y = reference.data_dependent(conv.weight_v.detach().flatten(1), reference.patches(x, 3))
    torch.testing.assert_close(conv.weight_g.detach(), g, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(conv.bias.detach(), b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(conv(x).detach().movedim(1, 3).flatten(0, 2), y, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_pre_activation_of_the_papers_classifier(dtype: torch.dtype) -> None:
    net = conv_pool_cnn_c(width=8).to(dtype)
    done = data_init(net, IMAGES.to(dtype))
    assert len(done.changed) == 10 and not done.skipped and not done.notes
    assert done.error < 1e-5
    check(net, IMAGES.to(dtype))


def test_every_pre_activation_of_a_residual_net_with_two_outputs() -> None:
    net = Residual()
    done = data_init(net, IMAGES)
    assert len(done.changed) == 8
    check(net, IMAGES)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (WNLinear(6, 4), (5, 7, 6)),
        (WNConv1d(6, 4, 3, groups=2), (5, 6, 9)),
        (WNConv1d(6, 4, 3), (6, 9)),
        (WNConvTranspose1d(6, 4, 3, groups=2, stride=2), (5, 6, 9)),
        (WNConvTranspose2d(6, 4, 3), (5, 6, 9, 9)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "x".join(map(str, value)),
)
def test_every_layer_in_every_layout(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 2 + 3
    data_init(layer, x)
    check(layer, x)


@pytest.mark.parametrize("times", [2, 3, 5])
def test_a_shared_layer_has_the_statistics_of_all_its_calls(times: int) -> None:
    net = Repeated(times)
    done = data_init(net, ROWS)
    assert done.error < 1e-5 and not done.notes
    check(net, ROWS)


def test_a_shared_layer_that_does_not_settle_is_noted() -> None:
    net = Repeated(5)
    done = data_init(net, ROWS, max_sweeps=2)
    assert "used 5 times, and not settled: still" in done.notes["inner"]
    assert done.error < 1e-5  # of the other layer, which stands on what there is
    mean, deviation = measured(net, ROWS)["outer"]
    torch.testing.assert_close(mean.abs() + deviation, torch.ones_like(mean), atol=1e-5, rtol=0)


def test_layers_that_share_their_parameters_are_one_layer() -> None:
    net = nn.Sequential(WNLinear(8, 8), nn.Tanh(), WNLinear(8, 8))
    net[2].weight_v, net[2].weight_g = net[0].weight_v, net[0].weight_g
    assert data_init(net, ROWS).changed == ["0"]
    assert torch.equal(net[0].bias, net[2].bias)
    with pre_activations(net) as seen:
        net(ROWS)
    both = torch.cat([seen["0"][0], seen["2"][0]], 1)
    torch.testing.assert_close(both.std(1, correction=0), torch.ones(8).double(), atol=1e-5, rtol=0)


def test_the_scale_is_a_number_or_goes_by_patterns() -> None:
    net = Residual()
    data_init(net, IMAGES, 0.5)
    check(net, IMAGES, scale=0.5)
    data_init(net, IMAGES, {"b.?": 0.1, "*": 2.0})
    for name, (_, deviation) in measured(net, IMAGES).items():
        scale = 0.1 if name.startswith("b.") else 2.0
        torch.testing.assert_close(deviation, torch.full_like(deviation, scale), rtol=1e-5, atol=0)


def test_a_constant_keeps_its_scale_and_loses_its_mean() -> None:
    net = nn.Sequential(WNLinear(8, 6), nn.ReLU(), WNLinear(6, 4))
    before = net[0].weight_g.detach().clone()
    done = data_init(net, torch.full((50, 8), 3.7))
    assert done.notes["0"] == "6 of 6 units see a constant: their g is kept"
    assert torch.equal(net[0].weight_g, before)
    for name, (mean, deviation) in measured(net, torch.full((50, 8), 3.7)).items():
        assert mean.abs().max() < 1e-5 and deviation.max() < 1e-5, name


def test_rounding_of_a_constant_is_no_signal_for_later_layers() -> None:
    net = nn.Sequential(
        WNConv2d(3, 16, 1), nn.ELU(), WNConvTranspose2d(16, 8, 3, stride=2), nn.ELU(), WNConv2d(8, 4, 1)
    )
    before = [layer.weight_g.detach().clone() for layer in net[::2]]
    x = torch.full((50, 3, 2, 2), 3.7)
    done = data_init(net, x)
    assert all(torch.equal(layer.weight_g, g) for layer, g in zip(net[::2], before, strict=True))
    assert done.error < 1e-6 and list(done.notes) == ["0", "2", "4"]
    assert net(x).abs().max() < 1e-5


def test_a_constant_without_a_bias_is_data_where_zeros_lie_around_it() -> None:
    net = nn.Sequential(WNConv2d(3, 16, 1, bias=False), WNConv2d(16, 4, 3, padding=1))
    x = torch.full((50, 3, 4, 4), 3.7)
    data_init(net, x)
    mean, deviation = measured(net, x)["1"]
    assert mean.abs().max() < 1e-5
    torch.testing.assert_close(deviation, torch.ones(4).double(), atol=1e-5, rtol=0)


def test_one_unit_that_sees_a_constant() -> None:
    layer = WNLinear(8, 6)
    with torch.no_grad():
        layer.weight_v[2] = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0])
    x = ROWS.clone()
    x[:, 0] = -2.0
    done = data_init(layer, x)
    assert done.notes[""] == "1 of 6 units see a constant: their g is kept"
    mean, deviation = measured(layer, x)[""]
    assert mean.abs().max() < 1e-5
    torch.testing.assert_close(deviation, torch.tensor([1.0, 1, 0, 1, 1, 1]).double(), atol=1e-5, rtol=0)


def test_without_a_bias_the_mean_stays_and_is_noted() -> None:
    layer = WNLinear(8, 6, bias=False)
    done = data_init(layer, ROWS)
    mean, deviation = measured(layer, ROWS)[""]
    torch.testing.assert_close(deviation, torch.ones(6).double(), atol=1e-5, rtol=0)
    assert done.notes[""] == f"no bias to move: means up to {float(mean.abs().max()):.2g} standard deviations stay"


@pytest.mark.parametrize("layer", [WNLinear, nn.Linear])
@pytest.mark.parametrize("inside", [True, False])
def test_under_autocast_each_layer_is_set_from_what_reaches_it(layer: Any, inside: bool) -> None:
    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                return super().forward(x)

    torch.manual_seed(0)
    net, x = Net(layer(5, 6), nn.ReLU(), layer(6, 3)), torch.randn(500, 5) + 3
    with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        data_init(net, x)
        y = net(x).float()
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(y.std(0), torch.ones(3), atol=0.03, rtol=0)


def test_under_autocast_a_recurrent_net_is_set_from_its_own_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = WNLSTM(4, 8, 2), WNLinear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(self.rnn(x)[0])
            return y

    torch.manual_seed(0)
    net, x = Net(), torch.randn(20, 30, 4) * 2 + 1
    with torch.autocast("cpu", torch.bfloat16):
        data_init(net, x)
        y = net(x).float().flatten(0, 1)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(y.std(0), torch.ones(3), atol=0.05, rtol=0)


def test_a_bias_that_cannot_move_stays_and_its_mean_is_noted() -> None:
    x, fixed = torch.randn(1000, 3) + 1, torch.tensor([1.0, -2.0, 0.5, 3.0])
    shared, frozen = (nn.Sequential(WNLinear(3, 4), nn.ReLU(), WNLinear(4, 4)) for _ in range(2))
    shared[2].bias = shared[0].bias
    frozen[0].bias.requires_grad_(False)
    for net in (shared, frozen):
        net[0].bias.data.copy_(fixed)
        report = data_init(net, x)
        assert torch.equal(net[0].bias, fixed)
        y = net[0](x)
        torch.testing.assert_close(y.std(0, correction=0), torch.ones(4))
        most = y.mean(0).abs().max().item()
        assert report.notes["0"] == f"no bias to move: means up to {most:.2g} standard deviations stay"
    torch.testing.assert_close(net(x).mean(0), torch.zeros(4), atol=1e-5, rtol=0)


def test_a_constant_unit_under_a_frozen_bias_passes_on_what_it_is() -> None:
    net, x = nn.Sequential(WNLinear(3, 4), WNLinear(4, 4)), torch.randn(1000, 3)
    x[:, 2] = 3.0
    with torch.no_grad():
        net[0].bias.requires_grad_(False).fill_(2.0)
        net[0].weight_v[0] = torch.tensor([0.0, 0.0, 1.0])
    data_init(net, x)
    torch.testing.assert_close(net(x).mean(0), torch.zeros(4), atol=1e-5, rtol=0)


def test_a_vector_and_a_norm_called_by_keyword_are_taken() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = WNLinear(3, 4), MeanOnlyBatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(input=self.linear(x))
            return y

    assert data_init(Net(), torch.randn(10, 3)).changed == ["linear"]
    assert "4 of 4 units see a constant" in data_init(nn.Sequential(WNLinear(3, 4)), torch.randn(3)).notes["0"]


def test_it_repeats_to_the_bit_whatever_stood_there() -> None:
    torch.manual_seed(3)
    one = Residual()
    torch.manual_seed(3)
    other = Residual()
    data_init(one, IMAGES, 0.2)
    for net in (one, other):
        data_init(net, IMAGES)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_and_unreached_layers_are_skipped_and_reported() -> None:
    net = Residual()
    net.first.weight_g.requires_grad_(False)
    net.spare = WNLinear(3, 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    done = data_init(net, IMAGES)
    assert done.skipped == {"first": "its g is frozen", "spare": "not reached by the batch"}
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(("first", "spare")) or name.endswith("_v")


def test_what_is_called_may_be_another_method_and_take_several_arguments() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = WNLinear(8, 3)

        def loss(self, x: Tensor, *, shift: float) -> Tensor:
            return self.layer(x + shift).square().mean()

    one, other = Model(), Model()
    other.load_state_dict(one.state_dict())
    data_init(one, {"x": ROWS, "shift": 0.0}, call=one.loss)
    data_init(other, (ROWS, 0.0), call=lambda x, shift: other.loss(x, shift=shift))
    check(one.layer, ROWS)
    check(other.layer, ROWS)


def test_a_compiled_model_is_reached() -> None:
    net = nn.Sequential(WNLinear(8, 6), nn.Tanh(), WNLinear(6, 4))
    compiled = torch.compile(net, backend="eager")
    compiled(ROWS)
    assert data_init(compiled, ROWS).changed == ["_orig_mod.0", "_orig_mod.2"]
    check(net, ROWS)


PLAIN_NETS = {
    "classifier": (lambda: remove_weight_norm(conv_pool_cnn_c(width=8)), IMAGES),
    "residual": (lambda: remove_weight_norm(Residual()), IMAGES),
    "repeated": (lambda: remove_weight_norm(Repeated(3)), ROWS),
    "channels_last": (lambda: remove_weight_norm(Residual()).to(memory_format=torch.channels_last), IMAGES),
    "one layer": (lambda: nn.Linear(8, 3, bias=False), ROWS),
    "groups": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2), IMAGES.view(10, 6, 32, 32)),
}


@pytest.mark.parametrize("name", PLAIN_NETS)
def test_a_plain_net_gets_the_weights_of_its_weight_normalised_form(name: str) -> None:
    make, x = PLAIN_NETS[name]
    plain = make()
    normalised = weight_normalize(plain)
    parameters, kinds = list(plain.parameters()), [type(module) for module in plain.modules()]
    expected = data_init(normalised, x, 0.5)
    report = data_init(plain, x, 0.5)
    assert report == expected and report.changed and report.error < 1e-5
    assert kinds == [type(module) for module in plain.modules()]
    assert all(a is b for a, b in zip(plain.parameters(), parameters, strict=True))
    other = remove_weight_norm(normalised).state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, other[key]), key


def test_no_sweep_is_refused() -> None:
    with pytest.raises(ValueError, match="max_sweeps must be at least 1, got 0"):
        data_init(WNLinear(8, 3), ROWS, max_sweeps=0)


ON_A_RANK = """
import sys, torch, wnseq
from torch import nn
from wnseq.init import data_init
from wnseq.nn import WNLinear

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
torch.manual_seed(0)
once = WNLinear(8, 8)
net = nn.parallel.DistributedDataParallel(nn.Sequential(once, nn.Tanh(), once, nn.Tanh(), WNLinear(8, 3)))
rows = torch.load(f"{folder}/rows.pt")
data_init(net, rows[:100] if rank else rows[100:])
rnn = wnseq.WNGRU(8, 6, num_layers=2)
data_init(rnn, rows[:100].view(10, 10, 8) if rank else rows[100:].view(10, 20, 8))
torch.save({**net.module.state_dict(), **rnn.state_dict(prefix="rnn.")}, f"{folder}/{rank}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_every_rank_ends_with_the_statistics_of_all(tmp_path: Path) -> None:
    torch.save(ROWS, tmp_path / "rows.pt")
    with (tmp_path / "said.txt").open("w+") as said:
        commands = [[sys.executable, "-c", ON_A_RANK, str(rank), str(tmp_path)] for rank in range(2)]
        ranks = [forked.Popen(command, stdout=said, stderr=forked.STDOUT) for command in commands]
        codes = [rank.wait(120) for rank in ranks]
    assert codes == [0, 0], (tmp_path / "said.txt").read_text()
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    once = WNLinear(8, 8)
    net = nn.Sequential(once, nn.Tanh(), once, nn.Tanh(), WNLinear(8, 3))
    net.load_state_dict({name: value for name, value in one.items() if name[0] != "r"})
    check(net, ROWS)
    rnn = wnseq.WNGRU(8, 6, num_layers=2)
    rnn.load_state_dict({name.removeprefix("rnn."): value for name, value in one.items() if name[0] == "r"})
    part = (ROWS @ rnn.weight_ih_l0.t() + rnn.bias_ih_l0).detach()
    torch.testing.assert_close(part.mean(0), torch.tensor([0.0, 1.0, 0.0]).repeat_interleave(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(part.std(0, correction=0), torch.full((18,), 0.8**0.5), atol=1e-5, rtol=0)
    for name, value in one.items():
        assert torch.equal(value, other[name])
