"""A state of another dtype than the input's is taken or refused as by torch, at every size and by every back end."""

import itertools

import pytest
import torch
from error_texts import caught
from torch import nn
from torch.func import vmap
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._pytree import tree_leaves

import wnseq
from wnseq.nn import backend

MODULES = [
    (wnseq.WNRNN, nn.RNN),
    (wnseq.WNGRU, nn.GRU),
    (wnseq.WNLSTM, nn.LSTM),
    (wnseq.GRU, nn.GRU),
    (wnseq.RNN, nn.RNN),
    (wnseq.LSTM, nn.LSTM),
]
CELLS = [(wnseq.WNRNNCell, nn.RNNCell), (wnseq.WNGRUCell, nn.GRUCell), (wnseq.WNLSTMCell, nn.LSTMCell)]
SIZES = {"small": (4, 3, 6), "step": (1, 1, 6), "large step": (1, 4, 512), "long": (33, 20, 64)}  # T, N, H
DTYPES = [torch.float64, torch.bfloat16, torch.float16, torch.int64]


def states(module, h):
    """Return each form of a wrong state, of a pair also one wrong part beside a right one."""
    if "LSTM" not in module.__name__:
        return [h]
    return [(h, h), (h, torch.zeros(h.shape)), (torch.zeros(h.shape), h)]


def dtypes(result):
    return [part.dtype for part in tree_leaves(result) if isinstance(part, torch.Tensor)]


def assert_as_torch(ours, theirs, args, has_remedy=True):
    expected, error = caught(lambda: theirs(*args)), caught(lambda: ours(*args))
    if expected is None:  # torch takes a cell state of another dtype here and there
        assert error is None and dtypes(ours(*args)) == dtypes(theirs(*args))
        return
    assert isinstance(error, type(expected)), (error, expected)
    words = str(expected).rstrip(". ").partition("\n")[0]
    assert str(error).startswith(words), (error, expected)
    assert not has_remedy or ("float32" in str(error).removeprefix(words) and "convert" in str(error))


@pytest.mark.parametrize(
    ("size", "forced"),  # what is forced runs at any size
    [*((size, "auto") for size in SIZES), ("small", "cpu_loop"), ("small", "torch"), ("step", "torch")],
)
@pytest.mark.parametrize("classes", MODULES, ids=lambda classes: classes[0].__module__[:5] + classes[0].__name__)
@pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype:UserWarning")
def test_layers(classes, size, forced):
    steps, batch, hidden = SIZES[size]
    ours, theirs = (cls(8, hidden) for cls in classes)
    x = torch.randn(steps, batch, 8)
    for autocast, training, packed in itertools.product((False, True), repeat=3):
        given = pack_padded_sequence(x, [steps] * batch) if packed else x
        with (
            backend(forced, "auto"),
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            torch.set_grad_enabled(training),
        ):
            for dtype in DTYPES:
                for state in states(theirs.__class__, torch.zeros(1, batch, hidden, dtype=dtype)):
                    assert_as_torch(ours, theirs, (given, state))


@pytest.mark.parametrize("classes", CELLS)
def test_cells(classes):
    ours, theirs = (cls(8, 6) for cls in classes)
    for autocast, dtype in itertools.product((False, True), DTYPES):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for state in states(classes[1], torch.zeros(3, 6, dtype=dtype)):
                assert_as_torch(ours, theirs, (torch.randn(3, 8), state), has_remedy=not autocast)


@pytest.mark.parametrize("module", [wnseq.WNRNN, wnseq.WNGRU, wnseq.WNLSTM])
def test_graphs_and_transforms(module):
    torch.compiler.reset()
    rnn, x = module(8, 6), torch.randn(4, 3, 8)
    for state in states(module, torch.zeros(1, 3, 6, dtype=torch.bfloat16))[:2]:
        with pytest.raises(RuntimeError, match=r"dtype|could not create a primitive descriptor for the LSTM"):
            torch.compile(rnn, backend="eager", fullgraph=True)(x, state)
        with pytest.raises(RuntimeError, match="dtype"):
            vmap(lambda x, state=state: rnn(x, state)[0])(torch.stack([x, x]))
