import pytest
import torch
from cases import Case, each_module, tensors
from torch import nn

from wnseq import WNLinear, remove_weight_norm, weight_normalize
from wnseq.convert._counterparts import normalized_layer


@each_module
def test_a_normalized_layer_has_the_function_and_the_biases_of_the_plain_one(case: Case) -> None:
    plain, x = case.make_twin(), case.input()
    layer = normalized_layer(plain)
    assert type(layer) is case.module
    for one, other in zip(tensors(layer(x)), tensors(plain(x)), strict=True):
        torch.testing.assert_close(one, other)
    biases = {name: value for name, value in plain.named_parameters() if name.startswith("bias")}
    assert all(layer.get_parameter(name) is bias for name, bias in biases.items())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_subclass_counts_as_the_class_of_torch(frozen: bool) -> None:
    class Own(nn.Linear):
        pass

    plain = Own(2, 3).requires_grad_(not frozen)
    layer = normalized_layer(plain)
    assert type(layer) is WNLinear and layer.weight_g.requires_grad != frozen
    assert normalized_layer(nn.Bilinear(2, 3, 4)) is None


def test_a_layer_keeps_its_memory_format():
    plain = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    ours = weight_normalize(plain)
    for weight in (ours.weight_v, ours.weight, remove_weight_norm(ours).weight):
        assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
