"""Timescales, saturation and the turn in equilibrium, against simulations and integrals in float64."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import wnseq
from wnseq.nn import RNNStack, gate_values
from wnseq.training.gate_statistics import UnitStatistics, equilibrium_turn, text_law, timescale


def test_a_unit_whose_gate_is_constant_decays_at_its_timescale() -> None:
    keep = torch.tensor([0.5, 0.9, 0.999], dtype=torch.float64)
    torch.testing.assert_close(keep**7, torch.exp(-7 / timescale(keep)), rtol=1e-12, atol=0)
    assert timescale(torch.ones(1)).item() == math.inf


def test_the_law_of_text_is_the_mixture_that_decays_as_a_power() -> None:
    edges = torch.logspace(-3, 9, 20001, dtype=torch.float64)
    share = text_law(edges[:-1]) - text_law(edges[1:])  # of units between two timescales
    middle = (edges[1:] * edges[:-1]).sqrt()
    rest = text_law(edges[-1:])  # the units that never forget
    for lag in (1.0, 10.0, 100.0):
        assert float((share * (-lag / middle).exp()).sum() + rest) == pytest.approx((1 + lag) ** -0.56, rel=1e-4)
    assert float(text_law(torch.tensor(1e-3, dtype=torch.float64))) == pytest.approx(1)


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.5, betas=(0.9, 0.99)),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, weight_decay=0.5, momentum=0.9),
}


@pytest.mark.parametrize("name", [*OPTIMIZERS])
def test_steps_in_random_directions_come_to_turn_as_predicted(name: str) -> None:
    torch.manual_seed(0)
    v = nn.Parameter(torch.randn(8, 200, dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([v])
    angles = []
    for step in range(900):
        before = v.detach().clone()
        length, noise = before.norm(dim=1, keepdim=True), torch.randn_like(before)
        along = (noise * before).sum(1, keepdim=True) / length**2
        v.grad = (noise - along * before) / length  # at a right angle to v, and of the length that w = g·v/‖v‖ gives
        optimizer.step()
        if step >= 600:
            cosine = (before * v.detach()).sum(1) / length.squeeze() / v.detach().norm(dim=1)
            angles.append(cosine.acos().mean())
    found = equilibrium_turn(optimizer, optimizer.param_groups[0])
    assert found == pytest.approx(float(torch.stack(angles).mean()), rel=0.05)


def test_without_a_decay_or_a_formula_there_is_no_equilibrium() -> None:
    p: Any = [nn.Parameter(torch.zeros(2))]
    for optimizer in (
        torch.optim.AdamW(p, weight_decay=0),
        torch.optim.Adam(p, weight_decay=0.1),
        torch.optim.RMSprop(p, weight_decay=0.1),
        torch.optim.SGD(p, weight_decay=0.1, momentum=0.9, nesterov=True),
    ):
        assert equilibrium_turn(optimizer, optimizer.param_groups[0]) is None


def test_units_are_measured_as_they_read() -> None:
    torch.manual_seed(0)
    model = RNNStack([wnseq.WNLSTM(3, 4), wnseq.WNLSTM(4, 5)]).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.weight_hh_l0_g.mul_(20)
    units = UnitStatistics(model)
    units.watch()
    x, state, expected = torch.randn(2, 7, 18, 3), None, []
    for part in x:
        expected.append(
            gate_values(model.layers[0], part[:, :16], state and tuple(s[..., :16, :4] for s in state))["l0"]
        )
        _, state = model(part, state)
    units.stop()
    model(x[0])
    rows = {row[:3]: row[3:] for row in units.rows()}
    assert len(rows) == 3 * 4 + 3 * 5 and not any(layer._forward_pre_hooks for layer in model.layers)
    for gate in ("input", "forget", "output"):
        values = torch.cat([part[gate].flatten(0, 1) for part in expected]).double()
        for unit, column in enumerate(values.t()):
            shares = column.mean(), (column < 0.1).double().mean(), (column > 0.9).double().mean()
            assert rows["layers.0.l0", gate, unit] == pytest.approx([float(share) for share in shares], rel=1e-6)
    assert all(sum(row[k] for row in rows.values()) > 0 for k in (1, 2))


def test_no_more_is_read_than_the_beginning() -> None:
    model = wnseq.WNGRU(2, 3).eval()
    units = UnitStatistics(model)
    units.watch()
    first = torch.randn(1100, 2, 2)
    model(first)
    before = [*units.rows()]
    model(10 * torch.randn(5, 2, 2))
    assert [*units.rows()] == before and before[0][:3] == ("l0", "reset", 0)
    units.watch()
    assert [*units.rows()] == []
    model(torch.randn(5, 0, 2))  # of a process that has no stream
    assert [*units.rows()] == []
    packed = pack_sequence([torch.randn(4, 2), torch.randn(2, 2)])
    with torch.autocast("cpu", torch.bfloat16):
        model(input=packed)
    units.stop()
    mean = gate_values(model, packed)["l0"]["update"].mean(0)
    assert [row[3] for row in units.rows() if row[1] == "update"] == pytest.approx(mean.tolist(), rel=1e-6)
    assert math.isfinite(before[0][3])
