import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import wnseq
from wnseq import WNGRUCell, conversion_report, weight_normalize
from wnseq.nn._module import WNModule


def test_the_summary():
    report = conversion_report(nn.ModuleDict({"a": nn.GRUCell(1, 1), "b": WNGRUCell(1, 1)}))
    assert str(report) == (
        "weights to convert: 2\n  a.weight_ih\n  a.weight_hh\nlayers skipped: 1\n  b: has weight normalisation already"
    )
    assert str(conversion_report(nn.BatchNorm1d(1))) == "weights to convert: 0"
    assert "(the model itself): has weight normalisation already" in str(conversion_report(WNGRUCell(1, 1)))


class OwnLSTM(nn.LSTM):
    pass


def test_what_is_skipped_and_why():
    model = nn.ModuleDict({"own": OwnLSTM(2, 2), "a": nn.LSTM(2, 2), "b": nn.LSTM(2, 2), "torch_wn": nn.GRU(2, 2)})
    model["a"].weight_hh_l0 = model["b"].weight_hh_l0
    parametrizations.weight_norm(model["torch_wn"], "weight_hh_l0")
    for name in ("weight_hh", "bias_hh"):
        model[name] = prune.l1_unstructured(nn.GRUCell(2, 2), name, 1)
    model["spectral"] = parametrizations.spectral_norm(nn.Linear(2, 2))
    model["lazy"] = nn.LazyLinear(2)
    model["grey"] = nn.Conv2d(3, 4, 3)
    model["grey"].weight = nn.Parameter(model["grey"].weight.sum(1, keepdim=True))
    model["out"] = nn.Linear(2, 2)
    before = copy.deepcopy(model["out"].state_dict())
    changed, skipped = conversion_report(model)
    tied = "weight_hh_l0 is tied: one parameter is a.weight_hh_l0 and b.weight_hh_l0"
    assert changed == ["torch_wn.weight_ih_l0", "torch_wn.weight_hh_l0", "out.weight"]
    assert skipped == {
        "own": "OwnLSTM is a subclass, whose forward may be its own: convert it by hand",
        "a": tied,
        "b": tied,
        "weight_hh": "weight_hh: computed, as by pruning; make it a plain parameter first",
        "bias_hh": "bias_hh: computed, as by pruning; make it a plain parameter first",
        "spectral": "weight: computed, as by pruning; make it a plain parameter first",
        "lazy": "LazyLinear has no weights yet: call the model once first",
        "grey": "weight: of another shape than the sizes of the layer say",
    }
    assert type(model["out"]) is nn.Linear and torch.equal(model["out"].weight, before["weight"])


@pytest.mark.parametrize(
    "layer",
    [nn.EmbeddingBag(3, 2), nn.Bilinear(2, 2, 2)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_without_counterpart_is_listed_and_no_warning(layer):
    reason = f"{type(layer).__name__} has no weight-normalised counterpart"
    model = nn.ModuleDict({"part": layer, "out": nn.Linear(2, 2)})
    assert conversion_report(model) == (["out.weight"], {"part": reason})
    assert type(weight_normalize(model)["part"]) is type(layer)
    with pytest.raises(ValueError, match=f"target_modules='part' cannot be converted: {reason}"):
        weight_normalize(model, ["out", "part"])


def test_an_embedding_is_converted_where_it_is_named():
    class Own(nn.Embedding):
        pass

    model = nn.ModuleDict({"a": nn.Embedding(3, 2), "b": Own(3, 2), "out": nn.Linear(2, 2)})
    reason = "{} is converted only where target_modules names it"
    assert conversion_report(model) == (
        ["out.weight"], {"a": reason.format("Embedding"), "b": reason.format("Own")}
    )  # fmt: skip
    assert type(weight_normalize(model)["a"]) is nn.Embedding
    for target in ("a", nn.Embedding, "*"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the subclass
            made = weight_normalize(model, target)
        assert type(made["a"]) is wnseq.WNEmbedding and conversion_report(model, target).changed[0] == "a.weight"
    bounded = nn.Embedding(3, 2, max_norm=1, norm_type=1)
    with pytest.raises(ValueError, match="target_modules='0' cannot be converted: norm_type is 1"):
        weight_normalize(nn.Sequential(bounded), "0")


def test_attention_is_listed_with_its_projection():
    _, skipped = conversion_report(nn.MultiheadAttention(4, 2))
    assert skipped == {
        "": "MultiheadAttention has no weight-normalised counterpart",
        "out_proj": "NonDynamicallyQuantizableLinear is a subclass, whose forward may be its own: convert it by hand",
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_layer_is_listed():
    model = nn.Sequential(torch.jit.script(nn.Linear(2, 3)), nn.Linear(3, 2))
    assert conversion_report(model) == (["1.weight"], {"0": "is scripted: convert the model before torch.jit.script"})


def test_only_some_layers():
    model = nn.ModuleDict({"enc": nn.ModuleList([nn.LSTM(2, 2), nn.GRU(2, 2)]), "dec": nn.LSTM(2, 2)})

    def converted(targets):
        changed, skipped = conversion_report(model, targets)
        made = weight_normalize(model, targets)
        assert set(skipped.values()) <= {"not in target_modules"}
        ours = [name for name, module in made.named_modules() if isinstance(module, WNModule)]
        assert ours == list(dict.fromkeys(name.rpartition(".")[0] for name in changed))
        assert sorted([*ours, *skipped]) == ["dec", "enc.0", "enc.1"]
        return ours

    assert converted(nn.LSTM) == ["enc.0", "dec"]
    assert converted("enc.*") == ["enc.0", "enc.1"]
    assert converted([nn.GRU, "d?c"]) == ["enc.1", "dec"]
    assert converted(nn.RNN) == []
    for function in (weight_normalize, conversion_report):
        with pytest.raises(
            ValueError, match=r"target_modules='encoder.\*' matches no layer .*; there are 'enc.0', 'enc.1', 'dec'"
        ):
            function(model, ["dec", "encoder.*"])
        with pytest.raises(TypeError, match=r"target_modules takes the classes nn.Linear, .*, got Bilinear"):
            function(model, nn.Bilinear)
        with pytest.raises(TypeError, match="target_modules takes names and classes, got int"):
            function(model, [3])


def test_a_target_that_is_weight_normalised_already_stays():
    model = nn.ModuleDict({"a": WNGRUCell(1, 1), "b": nn.GRUCell(1, 1)})
    assert conversion_report(model, "a") == (
        [], {"a": "has weight normalisation already", "b": "not in target_modules"}
    )  # fmt: skip
    assert type(weight_normalize(model, "a")["a"]) is WNGRUCell


def test_a_class_stands_for_its_subclasses_too():
    model = nn.ModuleList([wnseq.LSTM(2, 2), OwnLSTM(2, 2), nn.GRU(2, 2)])
    changed, skipped = conversion_report(model, nn.LSTM)
    assert changed == ["0.weight_ih_l0", "0.weight_hh_l0"] and list(skipped) == ["1", "2"]
    with pytest.warns(UserWarning, match="left 1 layer as it is .1: OwnLSTM is a subclass"):
        weight_normalize(model, nn.LSTM)
