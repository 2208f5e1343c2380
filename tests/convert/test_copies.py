"""What a model carries beside its layers, in the copy that a conversion returns."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from wnseq import WNGRU, remove_weight_norm, weight_normalize


@dataclasses.dataclass
class Kept:
    h: torch.Tensor


class Keeping(nn.Module):
    """It keeps activations with their history, as attention decoders and recurrent policies do."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 4), nn.Linear(4, 2)
        self.register_buffer("state", None)

    def forward(self, x):
        output, h = self.rnn(x)
        self.last, self.both, self.named, self.kept = output, [(output, h)], {"h": h}, Kept(h)
        self.rnn.note, self.state = h, h
        return self.out(output)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("apply", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_kept_activations_are_copied_without_their_history(apply):
    model, x = Keeping(), torch.randn(5, 2, 3)
    apply(model.out)
    expected = model(x)
    ours = weight_normalize(model)
    for made in (ours, remove_weight_norm(ours), remove_weight_norm(model)):
        kept = (made.last, made.both[0][0], made.named["h"], made.kept.h, made.rnn.note, made.state)
        for copied, original in zip(kept, (model.last, model.last, *[model.state] * 4), strict=True):
            assert torch.equal(copied, original) and copied is not original and not copied.requires_grad
        assert made.both[0][0] is made.last and made.kept.h is made.state
        torch.testing.assert_close(made(x), expected)
    assert model.last.requires_grad  # the caller's model is left as it was


class Opaque:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize("where", ["", "rnn"])
def test_what_cannot_be_copied_is_named(where):
    model = nn.ModuleDict({"rnn": nn.GRU(3, 4)})
    holder, name = model.get_submodule(where), f"{where}.last".strip(".")
    holder.last = Opaque(2 * next(model.parameters()))
    text = f"^Only Tensors created explicitly by the user.*; {name}, a Opaque, cannot be copied.*: set it to None"
    with pytest.raises(RuntimeError, match=text):
        weight_normalize(model)
    holder.last = Opaque(each for each in ())
    with pytest.raises(TypeError, match=f"cannot pickle 'generator' object; {name}, a Opaque, cannot be copied"):
        weight_normalize(model)
    holder.last = None
    assert type(weight_normalize(model)["rnn"]) is WNGRU
