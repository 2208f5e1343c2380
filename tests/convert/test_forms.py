"""A state dict in the mixture of forms that another has."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from wnseq import WNLSTM, WNConv1d, WNConvTranspose1d, WNLinear, remove_weight_norm, state_dict_as, weight_normalize


def mixed():
    """A model with a weight in every form, along several axes."""
    parametrized = parametrizations.weight_norm
    return nn.ModuleDict(
        {
            "hooks": nn.utils.weight_norm(nn.Conv1d(3, 4, 2)),
            "one number": nn.utils.weight_norm(nn.Linear(3, 4), dim=None),
            "parametrised": nn.Sequential(parametrized(nn.ConvTranspose1d(3, 4, 2))),
            "across": parametrized(nn.ConvTranspose1d(4, 4, 2), dim=1),
            "plain": nn.Linear(3, 4),
            "groups": WNConvTranspose1d(4, 6, 2, groups=2),
            "wnseq": WNLSTM(3, 4, proj_size=2),
            "part": nn.utils.weight_norm(nn.GRU(3, 4), "weight_hh_l0"),
            "norm": nn.BatchNorm1d(3),
        }
    )


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_a_state_dict_is_spelled_like_another():
    original, other = mixed(), mixed()
    normalized, adopted = weight_normalize(original), weight_normalize(original, adopt=True)
    plain = remove_weight_norm(original)
    models = [original, plain, weight_normalize(plain), normalized, adopted, remove_weight_norm(original, "h*")]
    for model in models:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        for like in (other, other.state_dict(), *models):
            reference = like.state_dict() if isinstance(like, nn.Module) else like
            made = state_dict_as(model, like=like)
            assert list(made) == list(reference)
            assert {key: value.shape for key, value in made.items()} == {k: v.shape for k, v in reference.items()}
        reloaded = mixed()
        reloaded.load_state_dict(state_dict_as(model, like=reloaded))
        torch.testing.assert_close(state_dict_as(reloaded, "plain"), state_dict_as(model, "plain"))
    assert all(
        torch.equal(value, original.state_dict()[key]) for key, value in state_dict_as(original, like=other).items()
    )


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_v_and_g_that_lie_alike_are_kept_to_the_bit():
    theirs = nn.utils.weight_norm(nn.Conv1d(3, 4, 2))
    ours = WNConv1d(3, 4, 2)
    with torch.no_grad():
        ours.weight_v.mul_(3)
    made = state_dict_as(ours, like=theirs)
    assert torch.equal(made["weight_v"], ours.weight_v) and torch.equal(made["weight_g"].flatten(), ours.weight_g)
    again = state_dict_as(theirs, like=ours)
    assert again["weight_g"].shape == (4,) and torch.equal(again["weight_v"], theirs.weight_v)


def test_names_that_look_like_v_and_g_are_left_alone():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj_v, self.proj_g = nn.Linear(2, 3), nn.Linear(2, 3)
            self.key_v, self.key_g = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 3))
            self.rnn = nn.GRU(2, 3)

    model = Model()
    made = state_dict_as(weight_normalize(model), like=model)
    assert made.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("like", "error", "text"),
    [
        ({}, ValueError, "like has no weight weight, in any form; like must be a state dict of the same model"),
        (WNLinear(3, 5), ValueError, r"weight has shape \(4, 3\) in the model and \(5, 3\) in like"),
        (nn.ModuleList([WNLinear(3, 4)]), ValueError, "like has no weight weight"),
        (
            {"weight": torch.ones(4, 3), "a_v": torch.ones(4, 3), "a_g": torch.ones(4)},
            ValueError,
            "the model has no weight a, in any form",
        ),
        ({"model": {}}, TypeError, r"holds others in 'model'; give that entry, as checkpoint\['model'\]"),
        ("file.pt", TypeError, "like must be a state dict or a module, got str"),
    ],
)
def test_what_is_not_alike_is_refused(like, error, text):
    with pytest.raises(error, match=text):
        state_dict_as(WNLinear(3, 4), like=like)


def test_either_a_form_or_an_example_is_given():
    for given in ({}, {"form": "plain", "like": {}}):
        with pytest.raises(ValueError, match="give either a form, as 'plain', or like, a state dict or a module"):
            state_dict_as(WNLinear(3, 4), **given)
