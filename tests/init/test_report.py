"""Which layers an initialisation sets, which it skips and why, and its report."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from wnseq.init import InitReport, data_free_init, data_init
from wnseq.nn import WNConvTranspose1d, WNLinear
from wnseq.nn._module import WNModule

ROWS = torch.randn(300, 8, generator=torch.Generator().manual_seed(6)) * torch.arange(1, 9) + 4


def test_a_g_along_the_inputs_is_skipped() -> None:
    layer = WNConvTranspose1d(4, 3, 2)
    theirs = torch.nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(4, 3, 2))
    layer.load_state_dict(theirs.state_dict())
    assert data_init(layer, torch.randn(5, 4, 6)).skipped == {"": "its g does not lie along the output axis"}


class Scaled(nn.Linear):
    """A subclass whose forward is its own, and linear in its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, 3 * self.weight, self.bias)


def test_what_a_plain_net_skips() -> None:
    net = nn.ModuleDict(
        {
            "table": nn.Embedding(9, 8), "lazy": nn.LazyLinear(3), "scaled": Scaled(8, 8), "tied": nn.Linear(8, 9),
            "torch": parametrizations.weight_norm(nn.Linear(8, 8)), "frozen": nn.Linear(8, 8), "cell": nn.GRUCell(8, 8),
            "spectral": parametrizations.spectral_norm(nn.Linear(8, 8)), "spare": nn.Linear(8, 8),
        }
    )  # fmt: skip
    net["tied"].weight = net["table"].weight
    net["frozen"].weight.requires_grad_(False)
    before = {
        name: value.clone() for name, value in net.state_dict().items() if not name.startswith(("lazy", "scaled"))
    }
    report = data_init(net, ROWS, call=lambda x: net["scaled"](x))
    assert report.changed == ["scaled"] and report.skipped == {
        "lazy": "LazyLinear has no weights yet: call the model once first",
        "tied": "weight is tied: one parameter is table.weight and tied.weight",
        "torch": "has torch's weight normalisation: convert it first, with weight_normalize",
        "frozen": "its weight is frozen",
        "cell": "a cell, whose steps are not known beforehand; data_free_init sets it",
        "spectral": "weight: computed, as by pruning; make it a plain parameter first",
        "spare": "not reached by the batch",
    }
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_layers_of_a_mixed_net_that_are_not_weight_normalised_stay() -> None:
    net = nn.Sequential(WNLinear(8, 6), nn.Linear(6, 4))
    before = net[1].weight.detach().clone()
    assert data_init(net, ROWS).changed == ["0"] and torch.equal(net[1].weight, before)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(
        ValueError, match="data_init: Embedding has no layer to initialise, neither a weight-normalised"
    ):
        data_init(nn.Embedding(3, 4), torch.zeros(5).long())


def test_sharded_parameters_are_refused() -> None:
    layer = WNLinear(8, 3)
    layer.weight_g.full_tensor = None  # as a DTensor has it
    with pytest.raises(ValueError, match="data_init: the parameters are sharded; initialise the model before"):
        data_init(layer, ROWS)
    with pytest.raises(ValueError, match="data_free_init: the parameters are sharded; initialise the model before"):
        data_free_init(layer)


def test_what_has_no_pre_activation_is_skipped() -> None:
    class Table(WNModule):
        def __init__(self) -> None:
            super().__init__()
            self.register_weight("weight", (5, 4), device=None, dtype=None)

    net = nn.ModuleList([Table(), WNLinear(8, 3)])
    assert data_init(net, ROWS, call=net[1]).skipped == {"0": "Table has no pre-activation to set"}


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan"), True, "1", {"*": 0}])
def test_a_scale_that_is_none_is_refused(scale) -> None:
    with pytest.raises(ValueError, match="init_scale must be a number greater than 0, got"):
        data_init(WNLinear(8, 3), ROWS, scale)


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="init_scale: 'last' fits no layer; there are '0', '1'"):
        data_init(nn.Sequential(WNLinear(8, 3), WNLinear(3, 3)), ROWS, {"last": 0.1})


def test_the_report_reads_as_text() -> None:
    done = InitReport(["a"], {"b": "its g is frozen"}, {"": "used 5 times"}, 1e-7)
    assert str(done).splitlines() == [
        "layers initialised: 1, to within 1.0e-07",
        "  a",
        "layers skipped: 1",
        "  b: its g is frozen",
        "notes: 1",
        "  (the model itself): used 5 times",
    ]
