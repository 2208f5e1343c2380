"""Initialisation of recurrent models: input share, bias, each gate's recurrent part, memory, in any form of module."""

import copy
import math
from typing import Any

import pytest
import reference
import torch
from cases import Case, each_sequence
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import wnseq
from wnseq._recurrence.steps import GATES
from wnseq.init._data_dependent import data_init
from wnseq.init._scales import data_free_init, hidden_scales
from wnseq.nn._linear import WNLinear

KINDS = [
    ("lstm", wnseq.WNLSTM, {}),
    ("gru", wnseq.WNGRU, {}),
    ("rnn", wnseq.WNRNN, {}),
]
each_kind = pytest.mark.parametrize(("kind", "module", "options"), KINDS, ids=[kind for kind, _, _ in KINDS])
FORM = {"lstm": ("lstm", "tanh", 1.0), "gru": ("gru", "tanh", 1.0), "rnn": ("rnn", "tanh", 0.0)}


def batch(steps: int = 40, columns: int = 16, features: int = 30) -> Tensor:
    """Draw sequences with some correlation in time, a mean and a small scale, as an embedding gives them."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(steps, columns, features, generator=generator)
    return 0.05 * (x + 0.7 * x.roll(1, 0) + 0.5)


def gates(kind: str, units: Tensor) -> dict[str, Tensor]:
    return dict(zip(GATES[kind], units.chunk(len(GATES[kind]), -1), strict=True))


def gradient_ratio(rnn: nn.Module, x: Tensor, lag: int) -> float:
    """‖∂y_T/∂x_(T−τ)‖ / ‖∂y_T/∂x_T‖, from three random directions."""
    norms = torch.zeros(2)
    x = x.clone().requires_grad_()
    for seed in range(10, 13):
        y = rnn(x)[0]
        along = torch.randn(y[-1].shape, generator=torch.Generator().manual_seed(seed))
        (slope,) = torch.autograd.grad((y[-1] * along).sum(), x)
        norms += torch.stack([slope[-1 - lag].square().sum(), slope[-1].square().sum()])
    return float((norms[0] / norms[1]).sqrt())


@each_kind
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_input_part_and_recurrent_part_of_two_layers(kind: str, module: Any, options: Any, scale: float) -> None:
    rnn = module(30, 24, num_layers=2, **options)
    x = batch(steps=30, columns=6)
    done = data_init(rnn, x, scale, input_share=0.7)
    assert done.changed == [""] and done.error < 1e-5
    parameters = {name: value.detach().double() for name, value in rnn.named_parameters()}
    for of_input, of_hidden in reference.start_statistics(kind, parameters, x.double(), num_layers=2):
        for gate, units in gates(kind, of_input).items():
            mean = 1.0 if gate in ("forget", "update") else 0.0
            share = scale * math.sqrt(0.7)
            torch.testing.assert_close(units.mean(0), torch.full((24,), mean).double(), atol=1e-5, rtol=0)
            torch.testing.assert_close(units.std(0, correction=0), torch.full((24,), share).double(), atol=1e-5, rtol=0)
        for units in gates(kind, of_hidden).values():
            assert abs(float(units.square().mean().sqrt()) / (scale * math.sqrt(0.3)) - 1) < 1e-2


@each_kind
def test_each_gate_has_one_recurrent_scale(kind: str, module: Any, options: Any) -> None:
    rnn = module(30, 24, num_layers=2, **options)
    data_init(rnn, batch())
    for layer in range(2):
        for gate in GATES[kind]:
            g = rnn.gate_g(gate, layer)
            assert torch.equal(g, g[:1].expand_as(g))


@pytest.mark.parametrize("module", [wnseq.WNLSTM, wnseq.WNGRU, wnseq.WNRNN])
@pytest.mark.parametrize("horizon", [10, 30])
def test_the_gradient_reaches_back_to_the_horizon(module: Any, horizon: int) -> None:
    rnn = module(30, 48, num_layers=2)
    x = batch(steps=45)
    assert gradient_ratio(rnn, x, 30) < 1e-4
    done = data_init(rnn, x, horizon=horizon)
    assert f"at {horizon} steps" in done.notes[""] and "input share" in done.notes[""]
    assert 0.3 <= gradient_ratio(rnn, x, horizon) <= 1


def test_the_closed_form_holds_for_independent_inputs() -> None:
    x = torch.randn(60, 32, 64)
    for kind, module, options in KINDS:
        rnn = module(64, 400, **options)
        data_free_init(rnn)
        parameters = {name: value.detach() for name, value in rnn.named_parameters()}
        _, square = hidden_scales(*FORM[kind], 1.0, 0.8)
        measured = float(rnn(x)[0].detach().square().mean())
        assert abs(measured / square - 1) < 0.35, kind  # the state is correlated in time, which the form leaves out
        torch.testing.assert_close(
            parameters["weight_ih_l0_g"], torch.full((len(parameters["weight_ih_l0_g"]),), 0.8**0.5)
        )


def test_the_closed_form_of_an_elman_net_is_exact() -> None:
    (scale,), square = hidden_scales("rnn", "relu", 0.0, 1.0, 0.75)
    assert abs(square - 0.5) < 1e-9 and abs(scale - 0.5 / math.sqrt(0.5)) < 1e-9
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0)).double()
    (scale,), square = hidden_scales("rnn", "tanh", 0.0, 0.7, 0.5)
    assert abs(square / float((0.7 * z).tanh().square().mean()) - 1) < 0.01


def test_the_closed_form_of_lstm_and_gru_by_drawing() -> None:
    a = torch.randn(4, 400_000, generator=torch.Generator().manual_seed(0)).double()
    i, f, o, n = a[0].sigmoid(), (a[1] + 1).sigmoid(), a[2].sigmoid(), a[3].tanh()
    cell = i.square().mean() * n.square().mean() / (1 - f.square().mean())
    square = o.square().mean() * (cell.sqrt() * a[0]).tanh().square().mean()
    scales, of_form = hidden_scales("lstm", "tanh", 1.0, 1.0, 0.8)
    assert abs(of_form / float(square) - 1) < 0.02
    assert all(abs(scale - math.sqrt(0.2 / of_form)) < 1e-12 for scale in scales)
    square = (1 - f).square().mean() * n.square().mean() / (1 - f.square().mean())
    scales, of_form = hidden_scales("gru", "tanh", 1.0, 1.0, 0.8)
    assert abs(of_form / float(square) - 1) < 0.02
    assert scales[0] == scales[1] and abs(scales[2] / scales[0] / float(i.square().mean().rsqrt()) - 1) < 0.01


@each_sequence
def test_every_form_of_module_is_set(case: Case) -> None:
    rnn = case.make()
    x = case.lay_out(batch(steps=12, columns=8, features=5))
    done = data_init(rnn, x)
    assert done.changed == [""]
    assert done.error < 1e-5
    assert ("no bias to move" in done.notes[""]) != case.kwargs["bias"]
    again = copy.deepcopy(rnn)
    data_init(again, x)
    for one, other in zip(rnn.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("module", [wnseq.WNLSTM, wnseq.WNGRU])
def test_packed_sequences_are_measured_where_they_are(module: Any) -> None:
    x, lengths = batch(steps=20, columns=6), torch.tensor([20, 3, 11, 7, 20, 15])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    rnn = module(30, 12, num_layers=2, bidirectional=True)
    done = data_init(rnn, packed)
    assert done.error < 1e-5
    part = rnn.weight_ih_l0 @ packed.data.t()  # (G·H, ΣN)
    torch.testing.assert_close(
        part.detach().std(1, correction=0), torch.full((len(part),), 0.8**0.5), atol=1e-5, rtol=0
    )


def test_packed_sequences_of_one_length_are_the_padded_ones() -> None:
    x = batch(steps=9, columns=4)
    one, other = wnseq.WNGRU(30, 8, bidirectional=True), wnseq.WNGRU(30, 8, bidirectional=True)
    other.load_state_dict(one.state_dict())
    data_init(one, x)
    data_init(other, pack_padded_sequence(x, torch.full((4,), 9)))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


class Model(nn.Module):
    """An embedding, a bound recurrent net and a decoder."""

    def __init__(self, module: Any = wnseq.WNLSTM) -> None:
        super().__init__()
        self.encoder = nn.Embedding(50, 16)
        self.lower = module(16, 12)
        self.rnn = module(12, 20, num_layers=2)
        self.decoder = WNLinear(20, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        recur = self.rnn.bind()
        y: Tensor = self.decoder.bind()(recur(self.lower(self.encoder(tokens))[0])[0])
        return y


def test_a_bigger_model_is_set_in_the_order_in_which_data_reaches_it() -> None:
    model = Model()
    tokens = torch.randint(50, (20, 30))
    done = data_init(model, tokens)
    assert sorted(done.changed) == ["decoder", "lower", "rnn"]
    y = model(tokens).detach().flatten(0, 1)
    torch.testing.assert_close(y.mean(0), torch.zeros(50), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(50), atol=1e-5, rtol=0)
    assert "bind" not in vars(model.rnn)
    alone = wnseq.WNLSTM(16, 12)
    alone.load_state_dict(model.lower.state_dict())
    data_init(alone, model.encoder(tokens).detach())
    for one, other in zip(alone.parameters(), model.lower.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_patterns_of_the_scale_reach_recurrent_modules() -> None:
    model = Model()
    tokens = torch.randint(50, (20, 30))
    data_init(model, tokens, {"lower": 0.3})
    x = model.encoder(tokens).detach().flatten(0, 1)
    deviation = (x @ model.lower.weight_ih_l0.t()).std(0, correction=0).detach()
    torch.testing.assert_close(deviation, torch.full((48,), 0.3 * 0.8**0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 3.7])
@each_kind
def test_a_constant_keeps_its_scale_and_is_noted(kind: str, module: Any, options: Any, value: float) -> None:
    rnn = module(30, 8, num_layers=2, **options)
    before = [rnn.get_parameter(f"weight_ih_l{layer}_g").clone() for layer in range(2)]
    done = data_init(rnn, torch.full((10, 4, 30), value))
    assert f"{2 * len(before[0])} units see a constant: their g is kept" in done.notes[""]
    scales, _ = hidden_scales(*FORM[kind], 1.0, 0.8)
    for layer in range(2):
        assert torch.equal(rnn.get_parameter(f"weight_ih_l{layer}_g"), before[layer])
        for gate, scale in zip(GATES[kind], scales, strict=True):
            torch.testing.assert_close(rnn.gate_g(gate, layer).detach(), torch.full((8,), scale))
    assert rnn(torch.full((10, 4, 30), value))[0].isfinite().all()


def test_a_second_call_is_noted() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = wnseq.WNGRU(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.rnn(self.rnn(input=x)[0])[0]
            return y

    assert "used 2 times: set at the first" in data_init(Twice(), batch(features=6)).notes["rnn"]


@pytest.mark.parametrize("horizon", [None, 10])
@each_kind
def test_a_plain_module_gets_the_weights_of_its_weight_normalised_form(
    kind: str, module: Any, options: Any, horizon: int | None
) -> None:
    plain = wnseq.remove_weight_norm(module(30, 8, num_layers=2, **options))
    normalised = wnseq.weight_normalize(plain)
    assert data_init(plain, batch(), horizon=horizon) == data_init(normalised, batch(), horizon=horizon)
    for name, value in wnseq.remove_weight_norm(normalised).state_dict().items():
        assert torch.equal(plain.state_dict()[name], value), name
    torch.testing.assert_close(plain(batch())[0], normalised(batch())[0])


def test_a_plain_language_model() -> None:
    model = wnseq.remove_weight_norm(Model())
    model.forward = lambda tokens: model.decoder(model.rnn(model.lower(model.encoder(tokens))[0])[0])
    tokens = torch.randint(50, (20, 30))
    assert sorted(data_init(model, tokens).changed) == ["decoder", "lower", "rnn"]
    y = model(tokens).detach().flatten(0, 1)
    torch.testing.assert_close(y.mean(0), torch.zeros(50), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(50), atol=1e-5, rtol=0)


def test_frozen_modules_and_cells_are_skipped() -> None:
    model = nn.ModuleDict({"rnn": wnseq.WNGRU(30, 4), "cell": wnseq.WNLSTMCell(30, 4)})
    model["rnn"].bias_ih_l0.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = data_init(model, batch(), call=lambda x: (model["rnn"](x), model["cell"](x[0])))
    assert done.skipped == {
        "rnn": "its g is frozen",
        "cell": "a cell, whose steps are not known beforehand; data_free_init sets it",
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("cell", [wnseq.WNLSTMCell, wnseq.WNGRUCell, wnseq.WNRNNCell])
def test_without_data_a_cell_is_a_layer(cell: Any) -> None:
    module = {wnseq.WNLSTMCell: wnseq.WNLSTM, wnseq.WNGRUCell: wnseq.WNGRU, wnseq.WNRNNCell: wnseq.WNRNN}[cell]
    one, layer = cell(7, 5), module(7, 5)
    assert data_free_init(one, input_share=0.6).changed == [""]
    data_free_init(layer, input_share=0.6)
    for name in ("weight_ih_g", "weight_hh_g", "bias_ih", "bias_hh"):
        of_layer = name.replace("_g", "_l0_g") if name.endswith("_g") else f"{name}_l0"
        assert torch.equal(getattr(one, name), getattr(layer, of_layer))


def test_without_data_every_module_is_set() -> None:
    rnn = wnseq.WNLSTM(30, 24, num_layers=2, proj_size=8, bidirectional=True)
    data_free_init(rnn, input_share=0.8)
    scales, square = hidden_scales("lstm", "tanh", 1.0, 1.0, 0.8)
    for end in ("", "_reverse"):
        assert torch.equal(rnn.get_parameter(f"weight_hr_l1{end}_g"), torch.ones(8))
        torch.testing.assert_close(rnn.get_parameter(f"weight_hh_l1{end}_g"), torch.full((96,), scales[0]))
        upper = math.sqrt(0.8 / square)
        torch.testing.assert_close(rnn.get_parameter(f"weight_ih_l1{end}_g"), torch.full((96,), upper))
        bias = rnn.get_parameter(f"bias_ih_l1{end}") + rnn.get_parameter(f"bias_hh_l1{end}")
        assert bias.tolist() == [0.0] * 24 + [1.0] * 24 + [0.0] * 48


@pytest.mark.parametrize(
    ("module", "x", "options", "text"),
    [
        (wnseq.WNLSTM(30, 8), batch(1), {}, "WNLSTM: needs sequences of at least 2 steps, got 1"),
        (
            wnseq.WNGRU(30, 8),
            batch(20),
            {"horizon": 20},
            "WNGRU: needs sequences of at least 21 steps, got 20",
        ),
        (
            wnseq.WNLSTM(30, 8, bidirectional=True),
            batch(),
            {"horizon": 5},
            "WNLSTM: horizon is for one direction, and this module is bidirectional",
        ),
        (
            wnseq.WNLSTM(30, 8),
            pack_padded_sequence(batch(), torch.full((16,), 40)),
            {"horizon": 5},
            "WNLSTM: horizon needs sequences of one length, got a PackedSequence",
        ),
        (wnseq.WNGRU(30, 8), batch() / 0, {}, "WNGRU: the input that reaches this module is not finite"),
        (wnseq.WNLSTM(30, 8), batch(), {"horizon": 0}, "data_init: horizon must be at least 1, got 0"),
        (wnseq.WNLSTM(30, 8), batch(), {"input_share": 1}, "data_init: input_share must be between 0 and 1, got 1"),
    ],
)
def test_what_cannot_be_had_is_refused(module: nn.Module, x: Any, options: dict[str, Any], text: str) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=text):
        data_init(module, x, **options)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_share_that_is_none_is_refused_without_data_too() -> None:
    with pytest.raises(ValueError, match="data_free_init: input_share must be between 0 and 1, got 0"):
        data_free_init(wnseq.WNLSTM(3, 4), input_share=0)


def test_a_horizon_that_no_share_gives_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wnseq.init._recurrent.RecurrentInit._gradient_ratio", lambda self, x, horizon: 1e-9)
    with pytest.raises(
        ValueError, match=r"WNGRU: no input share gives a memory of 5 steps; the last one tried, 0\.0000"
    ):
        data_init(wnseq.WNGRU(30, 4), batch(8), horizon=5)
