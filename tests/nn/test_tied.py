import pytest
import torch
from torch import nn

from wnseq import ShapeError, WNEmbedding, WNLinear
from wnseq.nn import composed_weight, is_tied, tie_weights


@pytest.mark.parametrize(("embedding", "output"), [(WNEmbedding, WNLinear), (nn.Embedding, nn.Linear)])
def test_two_layers_train_one_weight(embedding, output):
    one, two = embedding(5, 3), output(3, 5)
    assert not is_tied(two, one)
    tie_weights(two, one)
    assert is_tied(two, one)
    weight = composed_weight(two)
    assert type(weight) in (torch.Tensor, nn.Parameter)
    torch.testing.assert_close(one(torch.arange(5)), weight)
    (nn.functional.linear(torch.ones(3), weight) + one(torch.tensor([1, 2, 0, 3, 4])).sum(1)).square().sum().backward()
    assert all(value.grad is not None for value in one.parameters())
    assert len({*one.parameters(), *two.parameters()}) == len([*one.parameters()]) + 1  # and the bias


def test_a_normalised_layer_and_a_plain_one_share_nothing():
    with pytest.raises(TypeError, match="must be weight-normalised or neither, got Linear and WNEmbedding"):
        tie_weights(nn.Linear(3, 5), WNEmbedding(5, 3))


@pytest.mark.parametrize(("output", "embedding"), [(WNLinear, WNEmbedding), (nn.Linear, nn.Embedding)])
def test_a_weight_of_another_shape_is_refused(output, embedding):
    layer = output(3, 5)
    before = layer.weight.clone()
    with pytest.raises(ShapeError, match=r"weight\w* must have the shape \(6, 3\) of the embedding's, got"):
        tie_weights(layer, embedding(6, 3))
    assert torch.equal(layer.weight, before)
