"""torch's own weight norm taken over into wnseq's layers: v and g as they are, and what works then."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from cases import Case, cell_cases, class_cases, each, layer_cases, normalized_weights, tensors
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

import wnseq
from wnseq import conversion_report, remove_weight_norm, state_dict_as, weight_normalize
from wnseq.nn import WNModule

SPELLINGS = {"hooks": nn.utils.weight_norm, "parametrizations": parametrizations.weight_norm}
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
both_spellings = pytest.mark.parametrize("spelling", SPELLINGS)


def normalized_twin(case: Case, spelling: str, dim: int | None = 0) -> nn.Module:
    """Return torch's module with torch's weight norm on every weight, its scales as after training."""
    module = case.make_twin()
    for name in [name for name, _ in module.named_parameters() if name.startswith("weight")]:
        SPELLINGS[spelling](module, name, dim=dim)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("_g", "original0")):
                parameter.mul_(0.5 + torch.rand_like(parameter))
    return module


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(module: nn.Module) -> nn.Module:
    average = AveragedModel(module)
    average.update_parameters(module)
    return average.module


@both_spellings
@each(list({(case.module, case.groups): case for case in [*class_cases(), *cell_cases(), *layer_cases()]}.values()))
def test_every_layer_keeps_v_and_g_its_function_and_a_life_of_its_own(case: Case, spelling: str) -> None:
    dims = range(next(case.make_twin().parameters()).ndim)
    for dim in (*dims, None):
        theirs, x = normalized_twin(case, spelling, dim), case.input()
        expected, before = tensors(theirs(x)), copy.deepcopy(theirs.state_dict())
        ours = weight_normalize(theirs)
        assert type(ours) is case.module and conversion_report(theirs).changed == ours.weight_names
        entries = state_dict_as(ours, like=theirs)
        assert list(entries) == list(before) and all(torch.equal(entries[key], before[key]) for key in before)
        assert not {p.data_ptr() for p in theirs.parameters()} & {p.data_ptr() for p in ours.parameters()}
        ways = (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), saved, averaged)
        copies = [way(ours) for way in (ways if dim == 0 else ())]  # along every axis in tests/nn/test_scale_axis.py
        for made in (ours, *copies):
            torch.testing.assert_close(tensors(made(x)), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(tensors(remove_weight_norm(ours)(x)), expected, rtol=0, atol=1e-6)
        sum(tensor.sum() for tensor in tensors(ours(x))).backward()
        assert all(p.grad is not None for p in ours.parameters())
        assert all(p.grad is None for p in theirs.parameters())


@both_spellings
def test_adopt_leaves_plain_layers_plain(spelling: str) -> None:
    apply = SPELLINGS[spelling]
    model = nn.ModuleDict({"conv": apply(nn.Conv1d(4, 4, 3, groups=2), dim=2), "out": nn.Linear(4, 2)})
    model["part"] = apply(nn.GRU(3, 4), "weight_hh_l0")
    ours = weight_normalize(model, adopt=True)
    assert normalized_weights(ours) == ["conv.weight", "part.weight_ih_l0", "part.weight_hh_l0"]
    assert conversion_report(model, adopt=True) == (
        normalized_weights(ours), {"out": "has no weight normalisation of torch's to adopt"}
    )  # fmt: skip
    assert normalized_weights(weight_normalize(model)) == [*normalized_weights(ours)[:1], "out.weight",
                                                           *normalized_weights(ours)[1:]]  # fmt: skip
    assert normalized_weights(weight_normalize(model, "c*", adopt=True))[0] == "conv.weight"
    with pytest.raises(ValueError, match="target_modules='out' cannot be converted: has no weight normalisation"):
        weight_normalize(model, "out", adopt=True)
    with pytest.raises(TypeError, match="adopt should be of type bool"):
        weight_normalize(model, adopt="yes")  # type: ignore[arg-type]


@both_spellings
def test_what_a_layer_carries_is_kept(spelling: str) -> None:
    theirs = SPELLINGS[spelling](nn.Conv1d(2, 3, 1)).eval().double()
    theirs.note, calls = "mine", []
    theirs.register_forward_pre_hook(lambda module, args: calls.append(type(module)))
    next(p for name, p in theirs.named_parameters() if name.endswith(("_v", "original1"))).requires_grad_(False)
    shared = nn.ModuleList([theirs, nn.ModuleList([theirs])])
    ours = weight_normalize(shared)[0]
    assert weight_normalize(shared)[1][0] is not ours and weight_normalize(shared) is not shared
    assert not ours.weight_v.requires_grad and ours.weight_g.requires_grad and ours.bias.requires_grad
    assert ours.note == "mine" and not ours.training and ours.weight_g.dtype == torch.float64
    ours(torch.ones(1, 2, 4, dtype=torch.float64))
    assert calls == [wnseq.WNConv1d]
    ours.weight = torch.ones(3, 2, 1)
    torch.testing.assert_close(ours.weight_g, torch.full((3,), 2.0, dtype=torch.float64).sqrt())


class Own(nn.Linear):
    pass


@both_spellings
def test_what_cannot_be_taken_over_is_left_with_its_reason(spelling: str) -> None:
    apply = SPELLINGS[spelling]
    model = nn.ModuleDict({"own": apply(Own(2, 2)), "bilinear": apply(nn.Bilinear(2, 2, 2)), "bias": nn.Linear(2, 2)})
    apply(model["bias"], "bias", dim=None)
    model["a"], model["b"] = apply(nn.Linear(2, 2)), apply(nn.Linear(2, 2))
    if spelling == "hooks":
        model["b"].weight_g = model["a"].weight_g
        model["pruned"] = prune.l1_unstructured(apply(nn.Linear(2, 2)), "weight_v", 1)
    else:
        model["b"].parametrizations.weight.original0 = model["a"].parametrizations.weight.original0
        model["further"] = apply(nn.Linear(2, 2))
        nn.utils.parametrize.register_parametrization(model["further"], "bias", nn.Tanh())
    key = "weight_g" if spelling == "hooks" else "parametrizations.weight.original0"
    tied = f"weight_g is tied: one parameter is a.{key} and b.{key}"
    special = (
        {"pruned": "weight_v: computed, as by pruning; make it a plain parameter first"}
        if spelling == "hooks"
        else {"further": "bias has further parametrisations: remove them first"}
    )
    report = conversion_report(model, adopt=True)
    assert report.changed == []
    assert report.skipped == {
        "own": "Own is a subclass, whose forward may be its own: convert it by hand",
        "bilinear": "Bilinear has no weight-normalised counterpart",
        "bias": "bias has torch's weight normalisation: remove it with remove_weight_norm",
        "a": tied,
        "b": tied,
        **special,
    }
    with pytest.warns(UserWarning, match="weight_normalize left 6 layers as they are"):
        made = weight_normalize(model, adopt=True)
    assert not any(isinstance(module, WNModule) for module in made.modules())


def test_a_row_of_zeros_is_a_row_of_zeros() -> None:
    theirs = parametrizations.weight_norm(nn.Linear(3, 2))
    with torch.no_grad():
        theirs.parametrizations.weight.original1[0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert weight_normalize(theirs).weight[0].tolist() == [0, 0, 0]
