import math

import pytest
import torch
from torch import nn

from wnseq import ShapeError, WNEmbedding, WNLinear
from wnseq.init import bias_from_counts_, g_from_counts_

COUNTS = torch.tensor([0, 1, 9, 99])


@pytest.mark.parametrize("layer", [WNEmbedding(4, 3), WNLinear(3, 4)], ids=["embedding", "linear"])
def test_g_is_proportional_to_log_counts_and_the_rest_stays(layer):
    v, square = layer.weight_v.clone(), layer.weight_g.square().mean()
    g_from_counts_(layer, COUNTS)
    logs = [math.log(1 + count) for count in COUNTS.tolist()]
    scale = math.sqrt(square.item() / (sum(log**2 for log in logs) / 4))
    torch.testing.assert_close(layer.weight_g.detach(), torch.tensor([scale * log for log in logs]))
    assert torch.equal(layer.weight_v, v)
    # a g that is not the norm of v is meant: no warning
    layer(torch.tensor([1]) if isinstance(layer, WNEmbedding) else torch.randn(1, 3)).sum().backward()


def test_the_bias_is_the_log_frequency_of_each_class():
    output = nn.Linear(3, 4)
    bias_from_counts_(output.bias, COUNTS)
    expected = torch.tensor([1, 2, 10, 100]) / 113
    torch.testing.assert_close(output(torch.zeros(3)).softmax(0), expected)
    torch.testing.assert_close(output.bias.exp(), expected)


@pytest.mark.parametrize(
    ("counts", "error", "text"),
    [
        (COUNTS[:3], ShapeError, r"one for each of \(4,\) rows, got \(3,\)"),
        ([0, 1, 9, 99], ShapeError, "got a list"),
        (-COUNTS, ValueError, "each count must be finite and at least 0"),
        (torch.tensor([1.0, math.nan, 1, 1]), ValueError, "each count must be finite"),
        (0 * COUNTS, ValueError, "and one greater than 0"),
    ],
    ids=["short", "list", "negative", "nan", "zeros"],
)
def test_counts_that_are_none_are_refused(counts, error, text):
    with pytest.raises(error, match=f"g_from_counts_: .*{text}"):
        g_from_counts_(WNEmbedding(4, 3), counts)
    with pytest.raises(error, match=f"bias_from_counts_: .*{text}"):
        bias_from_counts_(nn.Linear(3, 4).bias, counts)
