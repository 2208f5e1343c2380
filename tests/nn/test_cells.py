import pytest
import reference
import torch
from cases import each_cell

from wnseq import WNGRUCell, WNLSTMCell, WNRNNCell
from wnseq._recurrence.steps import gate_slice
from wnseq.errors import ShapeError


@each_cell
def test_equals_the_equations_with_every_gradient(case):
    cell = case.make(dtype=torch.float64)
    x = torch.randn(5, dtype=torch.float64)
    states = tuple(torch.randn(6, dtype=torch.float64) for _ in range(2 if case.has_cell_state else 1))
    out = cell(x, states if case.has_cell_state else states[0])
    out = out if case.has_cell_state else (out,)
    # the reference names its weights by layer
    named = {name.replace("_ih", "_ih_l0").replace("_hh", "_hh_l0"): p for name, p in cell.named_parameters()}
    weights = reference.layer_parameters(named, "l0")
    options = {"nonlinearity": cell.nonlinearity} if case.kind == "rnn" else {}
    expected = reference.STEPS[case.kind](x, states, *weights, **options)
    for ours, theirs in zip(out, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    probes = [torch.randn_like(o) for o in out]
    ours = torch.autograd.grad(out, list(cell.parameters()), probes, allow_unused=True)
    theirs = torch.autograd.grad(expected, list(cell.parameters()), probes, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@each_cell
@pytest.mark.parametrize("batch", [(), (3,)])
def test_equals_the_torch_cell_of_the_same_seed(case, batch):
    x = torch.randn(*batch, 5)
    for ours, theirs in zip(case.make()(x), case.make_twin()(x), strict=True):
        torch.testing.assert_close(ours, theirs)


@each_cell
def test_a_bound_step_composes_once_and_carries_gradients(case, monkeypatch):
    cell = case.make()
    xs = torch.randn(4, 3, 5)
    state = None
    for x in xs:
        state = cell(x, state)
    loss = (state[0] if case.has_cell_state else state).sum()
    expected = torch.autograd.grad(loss, list(cell.parameters()))

    calls = []
    compose = cell.compose_weights
    monkeypatch.setattr(cell, "compose_weights", lambda: calls.append(1) or compose())
    step, state = cell.bind(), None
    for x in xs:
        state = step(x, state)
    assert len(calls) == 1
    loss = (state[0] if case.has_cell_state else state).sum()
    for a, b in zip(torch.autograd.grad(loss, list(cell.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b)


@each_cell
def test_loads_a_torch_checkpoint(case):
    twin, x = case.make_twin(1), torch.randn(3, 5)
    cell = case.make(2)
    cell.load_state_dict(twin.state_dict())
    for ours, theirs in zip(cell(x), twin(x), strict=True):
        torch.testing.assert_close(ours, theirs)


@each_cell
def test_prints_as_torch_does(case):
    arguments = case.make_twin().extra_repr().replace(", nonlinearity=relu", "")
    assert case.make().extra_repr().replace(", nonlinearity=relu", "") == arguments


def test_gate_g_is_a_writable_view_of_one_gate():
    cell = WNLSTMCell(5, 6)
    with torch.no_grad():
        cell.gate_g("forget", weight="ih").fill_(7.0)
    assert (
        (cell.weight_ih_g[6:12] == 7).all() and (cell.weight_ih_g[:6] != 7).all() and (cell.weight_ih_g[12:] != 7).all()
    )


def test_gate_order_is_torch_s():
    assert [gate_slice("lstm", gate, 2).start for gate in ("input", "forget", "cell", "output")] == [0, 2, 4, 6]
    assert [gate_slice("gru", gate, 2).start for gate in ("reset", "update", "new")] == [0, 2, 4]


def test_a_hidden_size_of_zero_is_allowed_as_in_torch():
    assert WNGRUCell(4, 0)(torch.randn(2, 4)).shape == (2, 0)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: WNLSTMCell(-1, 4), ValueError, "negative dimension -1: input_size of WNLSTMCell"),
        (lambda: WNLSTMCell(4, 1.5), TypeError, "hidden_size should be of type int, got: float"),
        (lambda: WNLSTMCell(True, 4), TypeError, "input_size should be of type int, got: bool"),
        (
            lambda: WNRNNCell(4, 4, nonlinearity="gelu"),
            ValueError,
            "gelu; WNRNNCell takes 'tanh' or 'relu'",
        ),
        (lambda: WNGRUCell(4, 4)(torch.randn(2, 3, 4)), ValueError, "Expected input to be 1D or 2D, got 3D"),
        (
            lambda: WNGRUCell(4, 4)(torch.randn(2, 5)),
            RuntimeError,
            r"4; WNGRUCell: .* shape \(N, 4\) or",
        ),
        (lambda: WNGRUCell(4, 4)(torch.randn(2, 4), torch.randn(3, 4)), ShapeError, r"shape \(2, 4\).*got \(3, 4\)"),
        (lambda: WNLSTMCell(4, 4)(torch.randn(2, 4), torch.randn(2, 4)), TypeError, r"pair \(h, c\), got Tensor"),
        (lambda: WNLSTMCell(4, 4).gate_g("update"), ValueError, "one of input, forget, cell, output .* got 'update'"),
        (lambda: WNLSTMCell(4, 4).gate_g("input", weight="hr"), ValueError, "'ih' or 'hh', got 'hr'"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
