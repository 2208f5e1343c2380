import copy
import functools

import pytest
import torch
from cases import sequence_cases
from torch import nn
from torch.nn.utils import parametrize, prune

import wnseq
from wnseq.convert import slim
from wnseq.nn import MLSTM, WNMLSTM, MLSTMCell
from wnseq.nn._units import find_units
from wnseq.optim import shrink_units_

MINIMAL = [
    (cls, {"num_layers": layers, "bidirectional": both, "bias": bias})
    for cls in (wnseq.WNMinGRU, wnseq.WNMinLSTM)
    for layers, both, bias in [(1, False, True), (2, True, True), (2, False, False)]
]
FORMS = [(case.module, case.kwargs) for case in sequence_cases() if not case.kwargs["batch_first"]] + MINIMAL
NAMES = [f"{cls.__name__}-{'-'.join(map(str, kwargs.values()))}" for cls, kwargs in FORMS]


def make(cls, kwargs, size=9, reader=wnseq.WNLinear):
    """Return a recurrent net and what reads it, in float64, biases of some size."""
    torch.default_generator.manual_seed(0)
    rnn = cls(5, size, **kwargs)
    features = (rnn.proj_size if kwargs.get("proj_size") else size) * (1 + rnn.bidirectional)
    return nn.ModuleDict({"rnn": rnn, "out": reader(features, 4)}).double()


@torch.no_grad()
def silence(model):
    """Make units 1 and 6 silent, and 3 unread, in every layer and direction; leave the second direction one unit more.

    The biases of the other gates stay, and those of a candidate gate cancel where the kind adds them.
    """
    for _, every in find_units(model, {"rnn": "out"}, "slim"):
        for number, units in enumerate(every):
            for k in (1, 6) if number != 1 else (1,):
                for name in units.rows:
                    weight = getattr(units.rnn, name).detach().as_subclass(torch.Tensor).clone()
                    weight[units.candidate][k] = 0
                    setattr(units.rnn, name, weight)
                for sign, name in zip((1, -1), units.biases, strict=False):
                    one = 0.25 if units.kind in ("rnn", "lstm") else 0.0
                    getattr(units.rnn, name)[units.candidate][k] = sign * one
            for module, name, at in units.columns:
                weight = getattr(module, name).detach().as_subclass(torch.Tensor).clone()
                weight[:, at + 3] = 0
                setattr(module, name, weight)
    return model


def outputs(model, x):
    """Return what two windows give, the state carried."""
    first, state = model["rnn"](x)
    second, _ = model["rnn"](x.flip(0), state)
    return torch.cat([model["out"](first), model["out"](second)])


@pytest.mark.parametrize(("cls", "kwargs"), FORMS, ids=NAMES)
def test_a_model_without_its_idle_units_is_the_same_function(cls, kwargs):
    model, x = silence(make(cls, kwargs)), torch.randn(6, 2, 5, dtype=torch.float64)
    expected = outputs(model, x)
    small = slim(model, {"rnn": "out"})
    several = kwargs["num_layers"] * (1 + kwargs["bidirectional"]) > 1
    assert small["rnn"].hidden_size == (7 if several else 6) and model["rnn"].hidden_size == 9
    torch.testing.assert_close(outputs(small, x), expected, rtol=0, atol=1e-12)
    assert (
        small["out"].in_features
        == small["out"].weight.shape[1]
        == model["out"].in_features
        - (0 if kwargs.get("proj_size") else (9 - small["rnn"].hidden_size) * (1 + kwargs["bidirectional"]))
    )
    fresh = cls(5, small["rnn"].hidden_size, **kwargs).double()
    fresh.load_state_dict(small["rnn"].state_dict())
    assert repr(fresh) == repr(small["rnn"])
    if cls not in (wnseq.WNMinGRU, wnseq.WNMinLSTM):
        plain = slim(wnseq.remove_weight_norm(model), {"rnn": "out"})
        assert not isinstance(plain["rnn"], wnseq.nn.WNModule)
        torch.testing.assert_close(outputs(plain, x), expected, rtol=0, atol=1e-12)
    outputs(small, x).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_a_unit_with_a_bias_is_not_idle():
    """All its g are zero, and its state is still what the bias of its candidate gate makes of it."""
    model = make(wnseq.WNLSTM, {})
    with torch.no_grad():
        for name in ("weight_ih_l0_g", "weight_hh_l0_g"):
            getattr(model["rnn"], name).view(4, 9)[:, 2] = 0
    x = torch.randn(6, 2, 5, dtype=torch.float64)
    assert slim(model, {"rnn": "out"})["rnn"].hidden_size == 9
    with torch.no_grad():
        for name in ("bias_ih_l0", "bias_hh_l0"):
            getattr(model["rnn"], name).view(4, 9)[2, 2] = 0
    small = slim(model, {"rnn": "out"})
    assert small["rnn"].hidden_size == 8
    torch.testing.assert_close(outputs(small, x), outputs(model, x), rtol=0, atol=1e-12)


def test_the_tolerance_takes_the_weakest_units():
    model = make(wnseq.WNGRU, {})
    ((_, (units,)),) = find_units(model, {"rnn": "out"}, "slim")
    order = units.strength().argsort()
    small = slim(model, {"rnn": "out"}, units.strength()[order[3]].item())
    torch.testing.assert_close(small["out"].weight, model["out"].weight[:, order[4:].sort().values])
    assert slim(model, {"rnn": "out"}, 1e9)["rnn"].hidden_size == 1
    assert slim(make(wnseq.WNLSTM, {"proj_size": 3}), {"rnn": ()}, 1e9)["rnn"].hidden_size == 4
    with pytest.raises(ValueError, match="slim: tolerance must be a number and at least 0, got -1"):
        slim(model, {"rnn": "out"}, -1)


def test_a_tied_softmax_gets_a_weight_of_its_own_and_a_stack_is_slimmed_layer_by_layer():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 9), "a": wnseq.WNLSTM(9, 8), "b": wnseq.LSTM(8, 9)})
    model["out"] = nn.Linear(9, 7)
    model["out"].weight = model["embed"].weight
    with torch.no_grad():
        model["a"].weight_hh_l0_v[:, 2:4] = model["b"].weight_ih_l0[:, 2:4] = 0
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(model["b"], name).view(4, 9, -1)[2, 5] = 0

    def run(net, tokens):
        return net["out"](net["b"](net["a"](net["embed"](tokens))[0])[0])

    before, tokens = copy.deepcopy(model.state_dict()), torch.randint(7, (6, 2))
    small = slim(model, {"a": "b", "b": "out"})
    assert (small["a"].hidden_size, small["b"].input_size, small["b"].hidden_size) == (6, 6, 8)
    assert small["embed"].weight.shape == (7, 9) and small["out"].weight.shape == (7, 8)
    torch.testing.assert_close(run(small, tokens), run(model, tokens))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("reader", [MLSTM, WNMLSTM, MLSTMCell], ids=lambda cls: cls.__name__)
def test_a_multiplicative_lstm_reads_by_two_weights(reader):
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 6), "out": reader(6, 4)}).double()
    ends = "" if reader is MLSTMCell else "_l0"

    def unread(name, units):
        weight = getattr(model["out"], name + ends).detach().as_subclass(torch.Tensor).clone()
        weight[:, units] = 0
        setattr(model["out"], name + ends, weight if reader is WNMLSTM else nn.Parameter(weight))

    with torch.no_grad():
        model["rnn"].weight_hh_l0[:, 2:] = 0
        unread("weight_ih", slice(2, 6))
        unread("weight_im", slice(4, 6))  # which still reads units 2 and 3
    small, x = slim(model, {"rnn": "out"}), torch.randn(3, 2, 3, dtype=torch.float64)
    assert small["rnn"].hidden_size == small["out"].input_size == 4

    def run(net):
        y = net["rnn"](x)[0]
        return net["out"](y[-1] if reader is MLSTMCell else y)[0]

    torch.testing.assert_close(run(small), run(model))


def test_a_computed_v_or_g_is_refused():
    for change in (
        lambda rnn: prune.l1_unstructured(rnn, "weight_hh_l0_v", 1),
        lambda rnn: parametrize.register_parametrization(rnn, "weight_ih_l0_g", nn.Softplus()),
    ):
        model = make(wnseq.WNGRU, {})
        change(model["rnn"])
        for call in (
            lambda model: slim(model, {"rnn": "out"}),
            lambda model: shrink_units_(model, {"rnn": "out"}, 0.1),
        ):
            with pytest.raises(ValueError, match=r"rnn\.weight_(hh_l0_v|ih_l0_g) is computed, not a parameter"):
                call(model)


def test_a_reader_of_two_recurrent_layers_is_refused():
    model = nn.ModuleDict({"a": nn.LSTM(3, 6), "b": nn.LSTM(3, 6), "out": nn.Linear(6, 2)})
    for call in (
        lambda readers: slim(model, readers), lambda readers: shrink_units_(model, readers, 0.1)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="'out' reads 'a' and 'b', whose units share its columns"):
            call({"a": "out", "b": "out"})


def test_other_layers_keep_their_sizes():
    model = silence(make(wnseq.WNLSTM, {}))
    model["graph"] = nn.Module()
    model["graph"].in_features, model["graph"].weight = 6, nn.Parameter(torch.ones(6, 2))  # stored (in, out)
    small = slim(model, {"rnn": "out"})
    assert small["graph"].in_features == 6 and small["out"].in_features == small["rnn"].hidden_size < 9


@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_reader_keeps_the_axis_of_its_scale(dim):
    model = silence(make(wnseq.WNGRU, {}, reader=functools.partial(wnseq.WNLinear, dim=dim)))
    small = slim(model, {"rnn": "out"})
    size = small["rnn"].hidden_size
    assert size < 9 and small["out"].weight_g.shape == {0: (4,), 1: (1, size), None: ()}[dim]
    x = torch.randn(6, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(outputs(small, x), outputs(model, x))
    again = copy.deepcopy(small)
    again.load_state_dict(wnseq.state_dict_as(small, "plain"))
    torch.testing.assert_close(outputs(again, x), outputs(small, x))


@pytest.mark.parametrize("readers", ["rnn", {"rnn": None}])
def test_readers_of_another_type_are_named(readers):
    with pytest.raises(TypeError, match="slim: readers"):
        slim(make(wnseq.WNGRU, {}), readers)
