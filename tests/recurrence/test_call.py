"""What a recurrent layer of ours, weight-normalised or plain, says to what it cannot take."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from wnseq import GRU, LSTM, WNGRU, WNLSTM
from wnseq.errors import ShapeError

X = torch.zeros(2, 1, 4)


@pytest.mark.parametrize(
    ("kinds", "args", "error", "text"),
    [
        ((WNLSTM, LSTM), ([1.0],), TypeError, "input must be a tensor or a PackedSequence, got list"),
        ((WNLSTM, LSTM), (X[0, 0],), ShapeError, "Expected input to be 2D or 3D, got 1D"),
        (
            (WNLSTM, LSTM),
            (PackedSequence(X, torch.tensor([1, 1])),),
            ShapeError,
            "must have 2 dimensions, got 3",
        ),
        ((WNLSTM, LSTM), (X[..., :3],), RuntimeError, r"equal to input_size. Expected 4, got 3"),
        ((WNLSTM, LSTM), (X.double(),), ValueError, "input dtype .* does not match weight dtype"),
        ((WNLSTM, LSTM), (X, X[:1]), TypeError, r"the state must be a pair \(h, c\), got Tensor"),
        ((WNLSTM, LSTM), (X, (X[:1],)), ShapeError, r"the state must be a pair \(h, c\), got 1 tensors"),
        ((WNLSTM, LSTM), (X, (X[:1], None)), TypeError, "each state must be a tensor, got NoneType"),
        ((WNLSTM, LSTM), (X, (X[:1], X[:1, :, :3])), RuntimeError, r"hidden\[1\] size \(1, 1, 4\), got \[1, 1, 3\]"),
        ((WNGRU, GRU), (X, (X[:1], X[:1])), TypeError, "each state must be a tensor, got tuple"),
        ((WNGRU, GRU), (X, X[0]), RuntimeError, "batched 3-D input.*got 2-D"),
        ((WNGRU, GRU), (X[:, 0], X[:1]), RuntimeError, "unbatched 2-D input.*got 3-D"),
        ((WNGRU, GRU), (X, X.transpose(0, 1)), RuntimeError, r"hidden size \(1, 1, 4\), got \[1, 2, 4\]"),
        ((WNGRU, GRU), (X, X), RuntimeError, r"Expected hidden size \(1, 1, 4\), got \[2, 1, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused(kinds, args, error, text):
    for kind in kinds:
        with pytest.raises(error, match=text) as caught:
            kind(4, 4)(*args)
        assert kind.__name__ in str(caught.value)
