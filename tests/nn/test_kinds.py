import itertools

import torch

from wnseq import weight_normalize
from wnseq.nn import GATES, RECURRENT_LAYERS, WNModule


def test_each_kind_has_a_layer_of_one_function_with_weight_normalisation_and_without():
    assert {*RECURRENT_LAYERS} == {*itertools.product(GATES, ("weight", "none"))}
    for kind in GATES:
        ours, plain = (RECURRENT_LAYERS[kind, norm](3, 4) for norm in ("weight", "none"))
        assert isinstance(ours, WNModule) and ours.kind == kind and not isinstance(plain, WNModule)
        x = torch.randn(5, 2, 3)
        converted = weight_normalize(torch.nn.Sequential(plain))[0]
        assert type(converted) is type(ours)
        torch.testing.assert_close(converted(x)[0], plain(x)[0])
