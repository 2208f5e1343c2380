"""The scan over time against the steps it stands for, in the operators that torch's transforms and graphs take."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from wnseq import MinGRU, ShapeError, WNMinGRU
from wnseq._recurrence.parallel_scan import linear_scan
from wnseq.nn import backend


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 8, 13, 64])
def test_the_scan_is_the_recurrence(steps):
    keep, drive = torch.rand(steps, 2, 3, dtype=torch.float64), torch.randn(steps, 2, 3, dtype=torch.float64)
    h, expected = torch.zeros(2, 3, dtype=torch.float64), []
    for a, b in zip(keep, drive, strict=True):
        h = a * h + b
        expected.append(h)
    torch.testing.assert_close(linear_scan(keep, drive), torch.stack(expected), rtol=0, atol=1e-14)


def test_a_gate_that_forgets_all_stops_what_came_before():
    keep, drive = torch.ones(9, 1), torch.ones(9, 1)
    keep[4] = 0
    assert linear_scan(keep, drive).squeeze(1).tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 5]


def test_no_step_is_refused():
    with pytest.raises(ShapeError, match="Expected sequence length to be larger than 0 in RNN; this mingru got no"):
        MinGRU(3, 4)(torch.zeros(0, 2, 3))


def test_no_sequence_gives_no_rows():
    output, h = WNMinGRU(3, 4)(torch.zeros(5, 0, 3))
    assert output.shape == (5, 0, 4) and h.shape == (1, 0, 4)


def test_a_packed_input_is_refused_in_a_graph():
    packed = pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    module = torch.compile(WNMinGRU(3, 4), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="takes no PackedSequence in a graph"):
        module(packed)


def test_half_precision_keeps_its_state_in_float32():
    rnn = MinGRU(8, 8).bfloat16()
    x = torch.randn(200, 1, 8)
    with backend("parallel_scan"):
        output, h = rnn(x.bfloat16())
    expected, _ = rnn.float()(x.bfloat16().float())
    assert output.dtype == h.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=0.02)
