"""LSTM, GRU and RNN of torch by the kernels of this library: torch's in all but who runs them."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from cases import count_calls, covering_cases, each, tensors
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import GRU, LSTM, RNN, WNGRU, WNLSTM, WNRNN, remove_weight_norm, weight_normalize
from wnseq._recurrence import cpu_gru
from wnseq._recurrence.backend import backend

PLAIN = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
each_plain = each([replace(case, module=PLAIN[case.kind]) for case in covering_cases() if case.kind in PLAIN])
each_kind = pytest.mark.parametrize(
    ("plain", "theirs", "ours"), [(LSTM, nn.LSTM, WNLSTM), (GRU, nn.GRU, WNGRU), (RNN, nn.RNN, WNRNN)]
)


def run(module, x, state):
    outputs = tensors(module(x, state))
    return outputs, torch.autograd.grad(sum(part.sin().sum() for part in outputs), [*module.parameters()])


@each_plain
@pytest.mark.parametrize("form", ["batched", "packed", "unbatched", "single step"])
@pytest.mark.parametrize("choice", ["auto", "cpu_loop"])
def test_it_computes_what_torch_does(case, form, choice):
    ours, theirs = case.make(), case.make_twin()
    x, state = case.input(steps=1 if form == "single step" else 4), case.states(3)
    if form == "packed":
        x = pack_padded_sequence(x, [2, 4, 3], case.kwargs["batch_first"], enforce_sorted=False)
    if form == "unbatched":
        x = x.select(0 if case.kwargs["batch_first"] else 1, 0)
        state = tuple(each[:, 0] for each in state) if case.has_cell_state else state[:, 0]
    with backend(choice):
        found = run(ours, x, state)
    torch.testing.assert_close(found, run(theirs, x, state))
    torch.testing.assert_close(tensors(ours(x)), tensors(theirs(x)))


@each_kind
def test_it_is_torchs_module(plain, theirs, ours):
    module = plain(4, 6, num_layers=2, bidirectional=True)
    assert isinstance(module, theirs) and str(module) == str(theirs(4, 6, num_layers=2, bidirectional=True))
    twin = theirs(4, 6, num_layers=2, bidirectional=True)
    twin.load_state_dict(module.state_dict())
    x = torch.randn(3, 2, 4)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), twin):
        torch.testing.assert_close(copied(x), module(x))
    zeros = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
    assert not functional_call(module, zeros, (x,))[0].any() and module(x)[0].all()


@each_kind
def test_it_is_weight_normalised_as_torchs_is(plain, theirs, ours):
    module, x = plain(4, 6), torch.randn(3, 2, 4)
    for converted in (weight_normalize(module), weight_normalize(nn.ModuleList([module]), target_modules=plain)[0]):
        assert type(converted) is ours
        torch.testing.assert_close(converted(x), module(x))
    assert type(remove_weight_norm(converted)) is theirs


def test_a_gru_of_some_size_runs_by_the_loop(monkeypatch):
    calls = count_calls(monkeypatch, cpu_gru.CPUGRU, "layer")
    GRU(32, 64)(torch.randn(35, 20, 32))
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
@each_kind
def test_graphs_go_around_it_or_through_it(plain, theirs, ours):
    model, x = nn.Sequential(plain(4, 6, num_layers=2)), torch.randn(3, 2, 4)
    around = torch.compile(model, backend="aot_eager")
    exported = torch.export.export(model, (x,)).module()
    traced = torch.jit.trace(model, (x,))
    for graph in (around, exported, traced):
        torch.testing.assert_close(tensors(graph(x)), tensors(model(x)))
