import copy
import dataclasses
import pickle

import pytest
import torch
from cases import (
    cell_cases,
    covering_cases,
    each,
    each_module,
    each_recurrent,
    layer_cases,
    normalized_weights,
    tensors,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from wnseq import WNGRU, WNLSTM, WNConvTranspose1d, WNGRUCell, WNLSTMCell
from wnseq.convert import conversion_report, remove_weight_norm, state_dict_as, weight_normalize

both_spellings = pytest.mark.parametrize(
    "apply",
    [
        pytest.param(
            nn.utils.weight_norm,
            marks=pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning"),
            id="hooks",
        ),
        pytest.param(parametrizations.weight_norm, id="parametrizations"),
    ],
)


def assert_same_function(one, other, case):
    x = case.input()
    for a, b in zip(tensors(one(x)), tensors(other(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def small(case):
    """The same case with one-row and one-column weights."""
    if case.kwargs.get("proj_size"):
        return dataclasses.replace(case, args=(1, 2), kwargs={**case.kwargs, "proj_size": 1})
    if case.is_layer:
        kwargs = {**case.kwargs, **({"groups": 1} if case.groups > 1 else {})}
        channels = case.shape[:-1] if len(case.args) == 2 else case.shape[1:]
        shape = (*channels, 1) if len(case.args) == 2 else (1, *channels)
        return dataclasses.replace(case, args=(1, 1, *case.args[2:]), kwargs=kwargs, shape=shape)
    return dataclasses.replace(case, args=(1, 1))


@each_module
def test_there_and_back_is_the_same_module(case):
    for form in (case, small(case)):
        twin = form.make_twin()
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if "weight" in name:
                    parameter[::2] = 0
        before, generator = {k: v.clone() for k, v in twin.state_dict().items()}, torch.get_rng_state()
        report = conversion_report(twin)
        ours = weight_normalize(twin)
        back = remove_weight_norm(ours)
        assert torch.equal(torch.get_rng_state(), generator)
        assert (type(ours), type(back)) == (form.module, form.twin)
        assert repr(back) == repr(twin)
        assert type(ours._parameters) is type(form.make()._parameters)
        assert report == (ours.weight_names, {}) and normalized_weights(back) == []
        assert_same_function(twin, ours, form)
        assert_same_function(twin, back, form)
        assert list(back.state_dict()) == list(before)
        for name, value in back.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
            assert torch.equal(twin.state_dict()[name], before[name])  # the caller's model is left as it was


@each_module
def test_a_plain_module_has_the_function_of_the_weight_normalised_one(case):
    for form in (case, small(case)):
        ours = form.make()
        with torch.no_grad():
            for name in ours.weight_names:
                v, g = ours.v_and_g(name)
                v.mul_(3)
                g[::2] *= -1
                v[0] = 0
        ours.accept_v_and_g()
        plain = remove_weight_norm(ours)
        assert_same_function(ours, plain, form)
        again = copy.deepcopy(pickle.loads(pickle.dumps(plain)))
        assert_same_function(ours, again, form)
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in again.parameters())


@each([case for case in covering_cases() + cell_cases() + layer_cases() if not (case.dim and case.groups > 1)])
def test_state_dicts_load_strictly_into_torch_s_modules(case):
    ours = case.make()
    for form, apply in (("plain", None), ("torch_hooks", nn.utils.weight_norm),
                        ("torch_parametrizations", parametrizations.weight_norm)):  # fmt: skip
        twin = case.make_twin(1)
        for name in ours.weight_names if apply else ():
            with pytest.warns(FutureWarning) if form == "torch_hooks" else torch.no_grad():
                apply(twin, name, case.dim)
        twin.load_state_dict(state_dict_as(ours, form), strict=True)
        assert_same_function(twin if form == "plain" else remove_weight_norm(twin), ours, case)
        ours_again = case.make(2)
        ours_again.load_state_dict(state_dict_as(twin, "wnseq"))
        assert_same_function(ours_again, ours, case)
    ours.load_state_dict(state_dict_as(ours, "wnseq"), strict=True)


def test_a_shared_module_is_spelled_at_each_of_its_places():
    cell = WNGRUCell(2, 2, bias=False)
    entries = state_dict_as(nn.ModuleList([cell, cell]), "plain")
    assert sorted(entries) == ["0.weight_hh", "0.weight_ih", "1.weight_hh", "1.weight_ih"]
    with pytest.raises(ValueError, match=r"form must be one of plain, .*, got 'keras'"):
        state_dict_as(nn.Linear(1, 1), "keras")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList([nn.LSTM(3, 4, 2, dropout=0.5), nn.ModuleDict({"deep": nn.GRU(4, 4)})])
        self.done = WNLSTM(4, 4)
        self.cell = nn.LSTMCell(4, 4)
        self.again = self.cell
        self.listed = [self.cell, {"key": self.done}]
        self.out = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.out.weight

    def forward(self, x):
        x = self.encoder[1]["deep"](self.encoder[0](x)[0])[0]
        x = self.done(x)[0]
        h = self.again(x[-1], self.listed[0](x[0]))[0]
        return self.tied(self.out(h))


def test_a_whole_model_there_and_back():
    model, x = Model().eval(), torch.randn(5, 2, 3)
    changed, skipped = conversion_report(model)
    with pytest.warns(UserWarning, match="weight_normalize left 2 layers as they are .out: weight is tied"):
        ours = weight_normalize(model)
    assert type(ours.encoder[0]) is WNLSTM and type(ours.encoder[1]["deep"]) is WNGRU
    assert ours.encoder[0].dropout == 0.5 and not ours.encoder[0].training
    assert ours.cell is ours.again is ours.listed[0] and type(ours.cell) is WNLSTMCell
    assert ours.listed[1]["key"] is ours.done and ours.done is not model.done
    assert ours.tied.weight is ours.out.weight and ours.out.weight is not model.out.weight
    tied = "weight is tied: one parameter is out.weight and tied.weight"
    assert skipped == {"done": "has weight normalisation already", "out": tied, "tied": tied}
    assert set(normalized_weights(ours)) == {*changed, "done.weight_ih_l0", "done.weight_hh_l0"}
    assert len(changed) == 4 + 2 + 2 and "encoder.1.deep.weight_hh_l0" in changed and "cell.weight_ih" in changed
    torch.testing.assert_close(ours(x), model(x))

    plain = remove_weight_norm(ours)
    assert {type(module) for module in plain.modules() if "weight_ih_l0" in dir(module)} == {nn.LSTM, nn.GRU}
    assert plain.cell is plain.again is plain.listed[0] and plain.listed[1]["key"] is plain.done
    assert normalized_weights(plain) == []
    assert plain.tied.weight is plain.out.weight
    torch.testing.assert_close(plain(x), model(x))
    plain.load_state_dict(state_dict_as(ours, "plain"))  # tied keys and both names of the cell are there
    assert type(ours.cell) is WNLSTMCell  # and was left as it was


class OwnLSTM(nn.LSTM):
    pass


class OwnWNLSTM(WNLSTM):
    pass


def test_what_cannot_be_converted_is_left_with_a_warning():
    model = nn.ModuleDict({"own": OwnLSTM(2, 2), "a": nn.LSTM(2, 2), "b": nn.LSTM(2, 2)})
    model["a"].weight_hh_l0 = model["b"].weight_hh_l0
    own = "OwnLSTM is a subclass, whose forward may be its own: convert it by hand"
    tied = "weight_hh_l0 is tied: one parameter is a.weight_hh_l0 and b.weight_hh_l0"
    with pytest.warns(UserWarning) as warned:
        made = weight_normalize(model)
    assert [str(warning.message) for warning in warned] == [
        f"weight_normalize left 3 layers as they are (own: {own}; a: {tied}; and 1 more); "
        "conversion_report(model) lists all layers"
    ]
    assert warned[0].filename == __file__
    assert type(made["own"]) is OwnLSTM and made["a"].weight_hh_l0 is made["b"].weight_hh_l0
    with pytest.raises(ValueError, match="target_modules='own' cannot be converted: OwnLSTM is a subclass"):
        weight_normalize(model, "own")
    assert type(weight_normalize(nn.ModuleDict({"table": nn.Embedding(2, 2), "a": nn.GRU(2, 2)}))["a"]) is WNGRU


def test_what_keeps_its_weight_norm_is_left_with_a_warning():
    cell = WNGRUCell(2, 2)
    prune.l1_unstructured(cell, "bias_hh", 1)
    own = OwnWNLSTM(2, 2)
    with pytest.warns(UserWarning) as warned:
        made = remove_weight_norm(nn.ModuleDict({"own": own, "cell": cell}))
    assert [str(warning.message) for warning in warned] == [
        "remove_weight_norm left 2 layers as they are "
        "(own: OwnWNLSTM is a subclass, whose forward may be its own: convert it by hand; "
        "cell: bias_hh: computed, as by pruning; make it a plain parameter first)"
    ]
    assert normalized_weights(made) == ["own.weight_ih_l0", "own.weight_hh_l0", "cell.weight_ih", "cell.weight_hh"]


def test_what_a_layer_carries_goes_with_it():
    model = nn.Sequential(nn.LSTM(2, 3, dtype=torch.float64), nn.GRUCell(2, 3, device="meta"))
    seen = []
    model[0].register_forward_hook(lambda module, x, y: seen.append(type(module)))
    model[0].weight_hh_l0.requires_grad_(False)
    model[0].bias_hh_l0.requires_grad_(False)
    model[0].note = "kept"
    model[0].register_buffer("mask", torch.ones(2))
    model[0].start = nn.Parameter(torch.ones(3))
    ours = weight_normalize(model)
    assert not any(p.requires_grad for p in (*ours[0].v_and_g("weight_hh_l0"), ours[0].bias_hh_l0))
    assert all(p.requires_grad for p in ours[0].v_and_g("weight_ih_l0"))
    ours[0].weight_ih_l0_v.requires_grad_(False)
    plain = remove_weight_norm(ours)
    assert {name: p.requires_grad for name, p in plain[0].named_parameters()} == {
        "weight_ih_l0": True, "weight_hh_l0": False, "bias_ih_l0": True, "bias_hh_l0": False, "start": True,
    }  # fmt: skip
    x = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(ours[0](x)[0], plain[0](x)[0])
    assert seen == [WNLSTM, nn.LSTM]
    for made in (ours, plain):
        assert made[0].note == "kept" and made[0].mask.tolist() == [1, 1] and made[0].start is not model[0].start
        assert "0.mask" in made.state_dict()
        assert all(parameter.is_meta for parameter in made[1].parameters())


def test_tied_parts_of_a_weight_stay_tied():
    a, b = WNLSTM(2, 2), WNLSTM(2, 2)
    b.weight_hh_l0_v, b.weight_hh_l0_g, b.bias_hh_l0 = a.weight_hh_l0_v, a.weight_hh_l0_g, a.bias_hh_l0
    plain = remove_weight_norm(nn.ModuleList([a, b]))
    assert plain[0].weight_hh_l0 is plain[1].weight_hh_l0 and plain[0].bias_hh_l0 is plain[1].bias_hh_l0
    assert plain[0].weight_ih_l0 is not plain[1].weight_ih_l0


def test_the_weight_of_an_embedding_keeps_the_layer_that_is_tied_to_it():
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "hidden": nn.Linear(4, 4), "out": nn.Linear(4, 5)})
    model["out"].weight = model["embedding"].weight
    with pytest.warns(
        UserWarning, match=r"left 1 layer as it is \(out: weight is tied: .* embedding.weight and out.weight"
    ):
        ours = weight_normalize(model)
    assert normalized_weights(ours) == ["hidden.weight"]
    assert ours["out"].weight is ours["embedding"].weight


def test_a_whole_network_of_layers_there_and_back():
    plain = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding="same"), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, groups=3), nn.ConvTranspose2d(6, 4, 2),
        nn.Flatten(2), nn.Conv1d(4, 4, 3), nn.ConvTranspose1d(4, 2, 3, groups=2), nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip
    x = torch.randn(2, 3, 9, 9)
    plain(x)
    ours = weight_normalize(plain)
    assert normalized_weights(ours) == [f"{k}.weight" for k in (0, 2, 3, 5, 6, 8)]
    torch.testing.assert_close(ours(x), plain(x))
    assert [type(module) for module in remove_weight_norm(ours)] == [type(module) for module in plain]
    torch.testing.assert_close(remove_weight_norm(ours)(x), plain(x))
    plain.load_state_dict(state_dict_as(ours, "plain"), strict=True)


def test_a_layer_may_be_read_and_assigned_where_its_parent_reads_it():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).eval()
    with pytest.warns(UserWarning, match="self_attn.out_proj: NonDynamicallyQuantizableLinear is a subclass"):
        ours = weight_normalize(layer)
    assert normalized_weights(ours) == ["linear1.weight", "linear2.weight"]
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), layer(x))


@pytest.mark.parametrize("form", ["torch_hooks", "torch_parametrizations"])
def test_scales_of_groups_have_no_place_in_torch_s_forms(form):
    ours = WNConvTranspose1d(4, 6, 2, groups=2)
    with pytest.raises(ValueError, match="weight has a scale for each output of each of its 2 groups"):
        state_dict_as(ours, form)
    twin = nn.ConvTranspose1d(4, 6, 2, groups=2)
    twin.load_state_dict(state_dict_as(ours, "plain"))
    torch.testing.assert_close(twin(x := torch.randn(1, 4, 3)), ours(x))
    assert state_dict_as(ours, "wnseq").keys() == ours.state_dict().keys()


@both_spellings
@pytest.mark.parametrize("channels", [(4, 6), (4, 4), (1, 3), (3, 1)])
def test_scales_of_input_channels_go_through_every_conversion(apply, channels):
    theirs, x = apply(nn.ConvTranspose1d(*channels, 3)), torch.randn(2, channels[0], 5)
    with torch.no_grad():
        dict(theirs.named_parameters()).popitem()[1].mul_(-2)
        for name, parameter in theirs.named_parameters():
            if name.endswith(("_g", "original0")):
                parameter.mul_(torch.rand_like(parameter))
    ours = WNConvTranspose1d(*channels, 3)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(remove_weight_norm(ours)(x), theirs(x))
    form = "torch_hooks" if apply is nn.utils.weight_norm else "torch_parametrizations"
    theirs.load_state_dict(state_dict_as(ours, form), strict=True)
    torch.testing.assert_close(ours(x), theirs(x))


LAYERS = {
    "Linear": (lambda: nn.Linear(3, 4), (3,), 0),
    "Linear of one output": (lambda: nn.Linear(3, 1), (3,), 0),
    "Linear of one input": (lambda: nn.Linear(1, 4), (1,), 0),
    "Linear, one scale": (lambda: nn.Linear(3, 4), (3,), None),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 2), (3, 5), 0),
    "Conv2d": (lambda: nn.Conv2d(4, 4, 2, padding=1, padding_mode="reflect"), (4, 5, 5), 0),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 2), (3, 5), 0),
    "ConvTranspose1d, scales of outputs": (lambda: nn.ConvTranspose1d(3, 4, 2), (3, 5), 1),
    "ConvTranspose2d of as many": (lambda: nn.ConvTranspose2d(3, 3, 3), (3, 5, 5), 1),
    "Embedding": (lambda: nn.Embedding(3, 4), None, 0),
}


@both_spellings
@pytest.mark.parametrize("layer", LAYERS)
def test_torch_s_weight_norm_is_removed_from_any_layer(layer, apply):
    make, shape, dim = LAYERS[layer]
    fresh = make()
    theirs = nn.ModuleDict({"part": nn.Sequential(apply(make(), "weight", dim))})
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.mul_(-3 if name.endswith(("_g", "original0")) else 2)
    x = torch.tensor([[0, 2]]) if shape is None else torch.randn(2, *shape)
    expected = theirs["part"](x)  # after a forward, too, though torch's old spelling cannot be deep-copied then
    plain = remove_weight_norm(theirs)
    assert normalized_weights(theirs) == ["part.0.weight"] and normalized_weights(plain) == []
    assert type(plain["part"][0]) is type(fresh)
    assert list(plain["part"][0].state_dict()) == list(fresh.state_dict())
    torch.testing.assert_close(plain["part"](x), expected)
    torch.testing.assert_close(theirs["part"](x), expected)  # and it is still weight-normalised
    assert len(state_dict_as(theirs, "plain")) == len(fresh.state_dict())
    torch.testing.assert_close(copy.deepcopy(pickle.loads(pickle.dumps(plain)))["part"](x), expected)
    fresh.load_state_dict({key.removeprefix("part.0."): v for key, v in state_dict_as(theirs, "plain").items()})
    torch.testing.assert_close(fresh(x), expected)


@both_spellings
@each_recurrent
def test_torch_s_weight_norm_is_removed_from_recurrent_layers(case, apply):
    theirs = case.make_twin()
    for name in [name for name, _ in theirs.named_parameters() if "weight_hh" in name]:
        apply(theirs, name)
    x = torch.randn(3, 5)
    expected = tensors(theirs(x))[0]
    plain = remove_weight_norm(theirs)
    assert type(plain) is case.twin and list(plain.state_dict()) == list(case.make_twin().state_dict())
    torch.testing.assert_close(tensors(plain(x))[0], expected)
    again = copy.deepcopy(pickle.loads(pickle.dumps(plain)))
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    tensors(again(x))[0].sum().backward()
    optimizer.step()
    other = case.make_twin()
    other.load_state_dict(again.state_dict())
    torch.testing.assert_close(tensors(again(x))[0], tensors(other(x))[0])
    assert not torch.equal(tensors(again(x))[0], expected)
    if hasattr(again, "_flat_weights"):
        assert all(a is b for a, b in zip(again._flat_weights, again.parameters(), strict=True))
    assert type(weight_normalize(plain)) is case.module


@both_spellings
def test_torch_s_weight_norm_beside_a_recurrent_layer_is_copied(apply):
    model, x = nn.Sequential(apply(nn.Linear(3, 4)), nn.GRU(4, 4)), torch.randn(5, 2, 3)
    expected = model(x)[0]  # torch's old spelling cannot be deep-copied after this
    ours = weight_normalize(model, nn.GRU)
    assert normalized_weights(ours) == ["0.weight", "1.weight_ih_l0", "1.weight_hh_l0"]
    torch.testing.assert_close(ours(x)[0], expected)
    ours(x)[0].sum().backward()
    assert sum(parameter.grad is not None for parameter in ours[0].parameters()) == 3
    assert all(parameter.grad is None for parameter in model.parameters())
    plain = remove_weight_norm(ours)
    assert normalized_weights(plain) == [] and type(plain[0]) is nn.Linear
    torch.testing.assert_close(plain(x)[0], expected)


def test_further_parametrizations_are_left_alone():
    class Double(nn.Module):
        def forward(self, w):
            return 2 * w

    elsewhere = parametrizations.weight_norm(nn.Linear(2, 2))
    parametrize.register_parametrization(elsewhere, "bias", Double())
    on_top = parametrizations.weight_norm(nn.Linear(2, 2))
    parametrize.register_parametrization(on_top, "weight", Double())
    alone = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Double())
    with pytest.warns(
        UserWarning,
        match=r"\(0: bias has further parametrisations: remove them first; 1: weight has further parametrisations",
    ):
        model = remove_weight_norm(nn.ModuleList([elsewhere, on_top, alone]))
    assert normalized_weights(model) == ["0.weight"]
    x = torch.randn(2)
    torch.testing.assert_close(model[1](x), on_top(x))
