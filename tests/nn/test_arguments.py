"""Arguments that torch's constructors refuse are refused with the same type, in torch's words first."""

import pytest
import torch
from error_texts import CELLS, CONVS, FEEDFORWARD, LAYERS, TRANSPOSED, assert_torch_s_words_first, caught
from torch import nn

import wnseq

R = torch.ones

ARGUMENTS = [
    *(
        (classes, (10, 20), kwargs)
        for classes in LAYERS
        for kwargs in (
            {"num_layers": 0},
            {"num_layers": -1},
            {"bias": 0},
            {"bias": "no"},
            {"batch_first": 1},
            {"batch_first": "False"},
            {"dropout": 2},
            {"dropout": -0.1},
            {"dropout": float("nan")},
            {"dropout": True},
            {"proj_size": 3} if classes[0] is not nn.LSTM else {"proj_size": 20},
            {"proj_size": -1},
        )
    ),
    *((classes, args, {}) for classes in LAYERS for args in ((0, 5), (-1, 5), (3.0, 5), ("10", 5), (5, 0), (5, 3.0))),
    (LAYERS[0], (10, 20), {"nonlinearity": "sin"}),
    *((classes, args, {}) for classes in CELLS for args in ((-1, 5), (5, -1))),
    (FEEDFORWARD[0], (-1, 5), {}),
    (FEEDFORWARD[0], (5, -1), {}),
    *(
        (classes, (4, 6, 3), kwargs)
        for classes in CONVS
        for kwargs in (
            {"groups": 0},
            {"groups": -2},
            {"groups": 3},
            {"groups": 4},
            {"padding": "full"},
            {"padding": "same", "stride": 2},
            {"padding_mode": "mirror"},
        )
    ),
    *(
        (classes, (4, 6, 3), kwargs)
        for classes in TRANSPOSED
        for kwargs in ({"padding_mode": "circular"}, {"groups": 4})
    ),
]


@pytest.mark.parametrize(("classes", "args", "kwargs"), ARGUMENTS)
def test_a_constructor_refuses_in_torch_s_words(classes, args, kwargs):
    theirs, ours = (caught(lambda cls=cls: cls(*args, **kwargs)) for cls in classes)
    if theirs is None:  # torch takes it
        assert isinstance(ours, TypeError | ValueError)
    else:
        assert_torch_s_words_first(theirs, ours)
        assert classes[1].__name__ in str(ours)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: wnseq.WNLSTM(2, 3, dropout="x"), "representing the probability .* got dropout='x' in WNLSTM"),
        (lambda: wnseq.WNLSTM(2, 3, num_layers=2.0), "num_layers should be of type int, got: float in WNLSTM"),
        (lambda: wnseq.WNLSTM(2, 3, bidirectional="no"), "bidirectional should be of type bool, got: str in WNLSTM"),
        (lambda: wnseq.WNLSTM(True, 3), "input_size should be of type int, got: bool in WNLSTM"),
        (lambda: wnseq.WNLSTMCell(2, 3, bias="no"), "bias should be of type bool, got: str in WNLSTMCell"),
        (lambda: wnseq.WNLSTMCell(2, 3.0), "hidden_size should be of type int, got: float in WNLSTMCell"),
        (lambda: wnseq.WNRNNCell(2, 3, nonlinearity="sin"), "Unknown nonlinearity: sin; WNRNNCell"),
        (lambda: wnseq.WNLinear(2, 3, bias="no"), "bias should be of type bool, got: str in WNLinear"),
        (lambda: wnseq.WNLinear(2.0, 3), "in_features should be of type int, got: float in WNLinear"),
        (lambda: wnseq.WNConv2d(2, 3, 3, bias="no"), "bias should be of type bool, got: str in WNConv2d"),
        (lambda: wnseq.WNConv2d(2, 3, 3.0), "kernel_size should be of type int, got: float in WNConv2d"),
        (lambda: wnseq.WNConv2d(2, 3, (3, 3, 3)), r"kernel_size of WNConv2d must be one number or 2.*got \(3, 3, 3\)"),
        (lambda: wnseq.WNConv2d(2, 3, 3, stride=0), "stride of WNConv2d .* at least 1, got 0; .* non-positive stride"),
        (lambda: wnseq.WNConv2d(2, 3, 3, padding=-1), "padding of WNConv2d .* at least 0, got -1"),
        (lambda: wnseq.WNConvTranspose2d(2, 3, 3, padding="same"), "padding should be of type int, got: str"),
        (lambda: wnseq.WNConv1d(2, 3, 3, groups=1.0), "groups should be of type int, got: float in WNConv1d"),
        (lambda: wnseq.LockedDropout(float("nan")), "dropout probability has to be between 0 and 1, got p=nan"),
        (lambda: wnseq.LockedDropout(1), "dropout probability has to be between 0 and 1, got p=1"),
        (lambda: wnseq.LockedDropout("x"), "dropout probability has to be between 0 and 1, got p='x'"),
        (
            lambda: wnseq.MeanOnlyBatchNorm1d(2, momentum=float("nan")),
            "momentum must be between 0 and 1.* momentum=nan",
        ),
        (lambda: wnseq.MeanOnlyBatchNorm1d(2, affine="no"), "affine should be of type bool, got: str"),
        (lambda: wnseq.MeanOnlyBatchNorm1d(2.5), "num_features should be of type int, got: float"),
        (lambda: wnseq.MeanOnlyBatchNorm1d(2, sync=1), "sync should be of type bool, got: int"),
    ],
)
def test_arguments_that_torch_takes_or_refuses_later_are_refused(make, text):
    with pytest.raises((TypeError, ValueError), match=text):
        make()


@pytest.mark.parametrize("classes", FEEDFORWARD + CELLS)
def test_other_spellings_of_a_bool_are_taken_as_by_torch(classes):
    args = (4, 4, 3)[: 2 + (classes in CONVS + TRANSPOSED)]
    for bias in (0, 1, None, False, True):
        theirs, ours = (cls(*args, bias=bias).state_dict() for cls in classes)
        assert {name for name in theirs if "bias" in name} == {name for name in ours if "bias" in name}
    if classes in CELLS:
        with pytest.warns(UserWarning, match="bias='relu' means True, as in torch"):
            classes[1](4, 4, "relu")


@pytest.mark.parametrize("classes", CONVS + TRANSPOSED)
def test_sizes_are_given_as_to_torch(classes):
    spatial = int(classes[0].__name__[-2])
    for kwargs in ({"stride": [2]}, {"stride": (2,) * spatial, "dilation": [2] * spatial}, {"padding": (1,)}):
        x = R(2, 4, *[9] * spatial)
        theirs, ours = (cls(4, 6, [3] * spatial, **kwargs)(x).shape for cls in classes)
        assert theirs == ours


def test_dropout_in_one_layer_warns_in_torch_s_words():
    texts = []
    for cls in (nn.GRU, wnseq.WNGRU):
        with pytest.warns(UserWarning) as record:
            cls(2, 3, dropout=0.5)
        texts.append(str(record[0].message))
    assert texts[1].startswith(texts[0])
