"""Input that torch's modules refuse is refused with the same type, in torch's words first."""

import pytest
import torch
from error_texts import CELLS, CONVS, LAYERS, TRANSPOSED, assert_torch_s_words_first, caught
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import wnseq

R = torch.ones


def packed(data):
    return PackedSequence(data, torch.tensor([2, 1]))


CALLS = [
    *(
        (classes, kwargs, args)
        for classes in LAYERS
        for kwargs, args in (
            ({}, (R(5),)),
            ({}, (R(2, 3, 4, 5),)),
            ({}, (R(7, 3, 6),)),
            ({}, (R(7, 6),)),
            ({}, (R(7, 3, 5, dtype=torch.float64),)),
            *(
                [({}, (packed(R(3, 6)),)), ({}, (packed(R(3, 1, 5)),))] if classes[0] is not nn.LSTM else []
            ),  # unchecked
            ({"batch_first": True}, (R(3, 7, 4),)),
        )
    ),
    *(
        (classes, kwargs, (x, h if classes[0] is not nn.LSTM else (h, R(c))))
        for classes in LAYERS
        for kwargs, x, h, c in (
            ({}, R(7, 3, 5), R(1, 6), (1, 6)),
            ({}, R(7, 5), R(1, 3, 6), (1, 3, 6)),
            ({}, R(7, 3, 5), R(1, 2, 6), (1, 3, 6)),
            ({}, R(7, 3, 5), R(1, 3, 7), (1, 3, 6)),
            ({}, R(7, 3, 5), R(2, 3, 6), (2, 3, 6)),
            ({"num_layers": 2, "bidirectional": True}, R(7, 3, 5), R(2, 3, 6), (4, 3, 6)),
            *([({}, packed(R(3, 5)), R(1, 3, 6), (1, 3, 6))] if classes[0] is not nn.LSTM else []),
            ({}, R(7, 5), R(1, 7), (1, 6)),
        )
    ),
    (LAYERS[2], {}, (R(7, 3, 5), (R(1, 3, 6), R(1, 2, 6)))),
    (LAYERS[2], {"proj_size": 2}, (R(7, 3, 5), (R(1, 3, 6), R(1, 3, 6)))),
    *(
        (classes, {}, args)
        for classes in CELLS
        for args in (
            (R(3, 6),),
            (R(6),),
            (R(()),),
            (R(3, 4, 5),),
            (R(3, 5, dtype=torch.float64),),
            (R(3, 5, dtype=torch.bfloat16),),
            (R(3, 5, dtype=torch.int64),),
        )
    ),
    *(
        (classes, {}, (x, h if classes[0] is not nn.LSTMCell else (h, c)))
        for classes in CELLS
        for x, h, c in (
            (R(3, 5), R(3, 7), R(3, 7)),
            (R(3, 5), R(2, 6), R(2, 6)),
            (R(3, 5), R(3, 1, 1, 6), R(3, 1, 1, 6)),
            (R(5), R(7), R(7)),
            (R(3, 5), R(3, 6, dtype=torch.float64), R(3, 6)),
            (R(3, 5), R(3, 6, dtype=torch.bfloat16), R(3, 6, dtype=torch.bfloat16)),
        )
    ),
    (CELLS[2], {}, (R(3, 5), (R(3, 6), R(3, 7)))),
    (CELLS[2], {}, (R(3, 5), (R(3, 6), R(2, 6)))),
    *(
        ((nn.Linear, wnseq.WNLinear), kwargs, (x,))
        for kwargs in ({}, {"bias": False})
        for x in (R(3), R(2, 3), R(2, 3, 4), R(2, 3, 4, 3), R(()), R(2, 5).double(), R(2, 5).long(), [1.0])
    ),
    *(
        (classes, kwargs, (R(shape),))
        for classes in CONVS + TRANSPOSED
        for kwargs in ({}, {"bias": False}, *([{"padding_mode": "reflect", "padding": 1}] if classes in CONVS else []))
        for shape in ((5,), (2, 5, 8), (2, 5, 8, 8), (2, 5, 8, 8, 8), (2, 3, 2, 8, 8, 8))
    ),
    *(
        (classes, {}, (R(2, 5, *spatial).double(),))
        for classes, spatial in zip(CONVS, ((8,), (8, 8), (8, 8, 8)), strict=True)
    ),
    *((classes, {}, (R(2, 5, *spatial),)) for classes, spatial in zip(CONVS, ((2,), (2, 2), (2, 2, 2)), strict=True)),
    *(
        (classes, {"stride": 2}, (R(2, 5, *spatial), size))
        for classes, spatial in zip(TRANSPOSED, ((8,), (8, 8), (8, 8, 8)), strict=True)
        for size in ([1] * len(spatial), [100] * len(spatial), (17,) * 5)
    ),
]


@pytest.mark.parametrize(("classes", "kwargs", "args"), CALLS)
def test_a_forward_refuses_in_torch_s_words(classes, kwargs, args):
    sizes = (5, 6) if classes in LAYERS + CELLS or classes[0] is nn.Linear else (5, 6, 3)
    theirs, ours = (caught(lambda cls=cls: cls(*sizes, **kwargs)(*args)) for cls in classes)
    assert (theirs is None) == (ours is None), (theirs, ours)
    if theirs is not None:
        assert_torch_s_words_first(theirs, ours)
