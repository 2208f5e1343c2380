from collections import Counter

import pytest
import reference
import torch
from cases import count_calls, covering_cases, each_sequence, every_sequence, tensors
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from wnseq import WNGRU, WNLSTM, WNRNN
from wnseq._recurrence import single_step
from wnseq._recurrence.backend import backend

LENGTHS = [2, 4, 3]


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def expect(case, module, x, states, lengths):
    """Run every sequence of a time-first batch by the reference loops."""
    options = {"num_layers": case.kwargs["num_layers"], "bidirectional": case.kwargs["bidirectional"]}
    if case.kind == "rnn":
        options["nonlinearity"] = case.kwargs["nonlinearity"]
    parameters = dict(module.named_parameters())
    rows = [
        reference.recur(case.kind, parameters, x[:length, n], tuple(s[:, n] for s in states), **options)
        for n, length in enumerate(lengths)
    ]
    return [row[0] for row in rows], [torch.stack(parts, 1) for parts in zip(*(row[1] for row in rows), strict=True)]


@each_sequence
def test_a_single_step_in_inference_is_that_of_torch(case, monkeypatch):
    monkeypatch.setattr(single_step, "MIN_FLOPS_ONEDNN", 0)  # by the cells, whatever the size and the processor
    monkeypatch.setattr(single_step, "IS_MKL_FAST", False)
    if case.kind != "rnn":
        monkeypatch.setattr(f"torch.{case.kind}", None)
    ours = case.make().eval()
    x, state = case.input(steps=1), case.states(3)
    with torch.inference_mode():
        found = ours(x, state)
    monkeypatch.undo()
    torch.testing.assert_close(found, case.make_twin().eval()(x, state))


@pytest.mark.parametrize("case", [case for case in covering_cases() if case.kind == "lstm"], ids=lambda case: case.name)
@pytest.mark.parametrize("lowered", [False, True], ids=["float32", "bfloat16"])
def test_a_single_step_of_an_lstm_in_training_is_that_of_torch(case, lowered, monkeypatch):
    monkeypatch.setattr(single_step, "LSTM_LIMITS", {**single_step.LSTM_LIMITS, (torch.bfloat16, True): (64, 0)})
    calls = count_calls(monkeypatch, torch, "lstm")
    results, dtypes = [], []
    for by_kernel in (False, True):
        if by_kernel:
            assert bool(calls) == (lowered and "proj_size" in case.kwargs)  # a projection is lowered in another way
            monkeypatch.setattr(single_step, "LSTM_LIMITS", {})
        module = case.make()
        x, state = case.input(steps=1).requires_grad_(), case.states(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            outputs = tensors(module(x, state))
        gradients = torch.autograd.grad(sum(part.float().sin().sum() for part in outputs), [x, *module.parameters()])
        results.append([each.float() for each in (*outputs, *gradients)])
        dtypes.append([each.dtype for each in outputs])
    assert dtypes[0] == dtypes[1]
    for by_cells, by_kernel in zip(*results, strict=True):
        assert (by_cells - by_kernel).norm() <= (0.03 if lowered else 1e-6) * by_kernel.norm()


def test_a_single_step_of_many_rows_or_on_demand_is_torchs(monkeypatch):
    calls = count_calls(monkeypatch, torch, "lstm")
    module = WNLSTM(4, 6)
    for rows, steps, choice in ((32, 1, "auto"), (33, 1, "auto"), (32, 2, "auto"), (32, 1, "torch")):
        with backend(choice):
            module(torch.randn(steps, rows, 4))
    assert len(calls) == 3
    module.double()
    with torch.autocast("cpu", torch.bfloat16):
        assert module(torch.randn(1, 2, 4, dtype=torch.float64))[0].dtype == torch.float64
    assert len(calls) == 4


@every_sequence
@pytest.mark.parametrize("form", ["batched", "packed"])
def test_equals_the_equations_with_every_gradient(case, form):
    module = case.make(dtype=torch.float64)
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    given = case.states(2, torch.float64)
    lengths = [2, 3] if form == "packed" else [3, 3]
    if form == "packed":
        packed = pack_padded_sequence(case.lay_out(x), lengths, case.kwargs["batch_first"], enforce_sorted=False)
        output, state = module(packed, given)
        output, _ = pad_packed_sequence(output)
    else:
        output, state = module(case.lay_out(x), given)
        output = case.lay_out(output)
    outputs = [output[:length, n] for n, length in enumerate(lengths)]
    expected, expected_state = expect(case, module, x, as_tuple(given), lengths)
    ours, theirs = [*outputs, *as_tuple(state)], [*expected, *expected_state]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    probes = [torch.randn_like(t) for t in ours]
    leaves = [x, *module.parameters()]
    grads = torch.autograd.grad(ours, leaves, probes)
    expected_grads = torch.autograd.grad(theirs, leaves, probes)
    names = ["x", *dict(module.named_parameters())]
    for name, a, b in zip(names, grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@every_sequence
def test_equals_the_torch_module_of_the_same_seed(case):
    ours, theirs = case.make(), case.make_twin()
    whole, states, batch_first = torch.randn(4, 3, 5), case.states(3), case.kwargs["batch_first"]
    one = tuple(state[:, 0] for state in states) if case.has_cell_state else states[:, 0]
    x = case.lay_out(whole)
    inputs = {
        "batched": (x, states),
        "unbatched": (whole[:, 0], one),
        "sorted": (pack_padded_sequence(x, sorted(LENGTHS, reverse=True), batch_first), states),
        "unsorted": (pack_padded_sequence(x, LENGTHS, batch_first, enforce_sorted=False), states),
    }
    for form, (x, state) in inputs.items():
        for given in (None, state):
            (out, final), (out_twin, final_twin) = ours(x, given), theirs(x, given)
            assert type(out) is type(out_twin), form
            if isinstance(out, PackedSequence):
                out, out_twin = pad_packed_sequence(out)[0], pad_packed_sequence(out_twin)[0]
            torch.testing.assert_close([out, *as_tuple(final)], [out_twin, *as_tuple(final_twin)])


@each_sequence
def test_loads_a_torch_checkpoint_and_keeps_its_function(case):
    twin, module, x = case.make_twin(1), case.make(2), case.lay_out(torch.randn(4, 3, 5))
    assert not torch.allclose(module(x)[0], twin(x)[0])
    module.load_state_dict(twin.state_dict())
    torch.testing.assert_close(module(x)[0], twin(x)[0])


@each_sequence
def test_prints_as_torch_does(case):
    assert case.make().extra_repr() == case.make_twin().extra_repr()


@each_sequence
def test_composes_once_a_forward_and_once_a_loop(case, monkeypatch):
    module = case.make()
    calls = []
    compose = module.compose_weights
    monkeypatch.setattr(module, "compose_weights", lambda: calls.append(1) or compose())
    x = case.lay_out(torch.randn(4, 3, 5))
    output, _ = module(x)
    assert len(calls) == 1
    run, carried = module.bind(), None
    for _ in range(3):
        _, carried = run(x, carried)
    assert len(calls) == 2
    torch.testing.assert_close(run(x)[0], output)


@pytest.mark.parametrize("module", [WNRNN, WNLSTM, WNGRU])
def test_windows_with_a_carried_state_equal_one_long_sequence(module):
    rnn = module(5, 6, num_layers=2)
    x = torch.randn(9, 3, 5)
    whole, final = rnn(x)
    parts, state = [], None
    for window in x.split(4):
        output, state = rnn(window, state)
        parts.append(output)
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(state, final)


def test_dropout_between_layers_is_torch_s():
    ours, theirs = WNLSTM(5, 6, 2, dropout=0.5), torch.nn.LSTM(5, 6, 2, dropout=0.5)
    theirs.load_state_dict({name: getattr(ours, name).detach() for name in theirs.state_dict()})
    x = torch.randn(4, 3, 5)
    outputs = []
    for module in (ours, theirs):
        torch.manual_seed(3)
        outputs.append(module(x)[0])
    torch.testing.assert_close(*outputs)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])


def test_gate_g_is_a_writable_view_of_one_gate():
    rnn = WNLSTM(5, 6, num_layers=2, bidirectional=True)
    before = rnn(torch.ones(2, 1, 5))[0]
    with torch.no_grad():
        rnn.gate_g("output", layer=1, weight="hh", reverse=True).fill_(7.0)
    assert (rnn.weight_hh_l1_reverse_g[18:] == 7).all() and (rnn.weight_hh_l1_reverse_g[:18] != 7).all()
    assert not torch.equal(rnn(torch.ones(2, 1, 5))[0], before)
    assert rnn.gate_g("output").is_leaf is False and rnn.gate_g("output").requires_grad


def test_autocast_runs_and_stays_close():
    rnn, x = WNLSTM(5, 6), torch.randn(4, 3, 5)
    expected = rnn(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = rnn(x)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.02)


@each_sequence
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_under_autocast_it_is_torchs(case, dtype):
    module, twin, x = case.make(), case.make_twin(), case.input().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(tensors(module(x)), tensors(twin(x)), rtol=0, atol=0)


class Casts(TorchDispatchMode):
    """Counts casts to bfloat16 by the shape of what is cast."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.dtype == torch.bfloat16:
            self.seen[tuple(result.shape)] += 1
        return result


@pytest.mark.parametrize("kind", [WNGRU, WNRNN])
def test_autocast_casts_a_weight_once_and_not_at_each_step(kind):
    module, x = kind(5, 6), torch.randn(4, 3, 5)
    with torch.autocast("cpu", torch.bfloat16), Casts() as casts:
        module(x)
    assert [casts.seen[tuple(weight.shape)] for weight in (module.weight_ih_l0, module.weight_hh_l0)] == [1, 1]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: WNLSTM(0, 4), ValueError, "input_size must be greater than zero, got 0 in WNLSTM"),
        (lambda: WNLSTM(4, -4), ValueError, "hidden_size must be greater than zero, got -4"),
        (lambda: WNLSTM(4, 4.0), TypeError, "hidden_size should be of type int, got: float"),
        (lambda: WNLSTM(4, 4, num_layers=1.5), TypeError, "num_layers should be of type int, got: float"),
        (lambda: WNLSTM(4, 4, bias=1), TypeError, "bias should be of type bool, got: int"),
        (lambda: WNGRU(4, 4, batch_first="yes"), TypeError, "batch_first should be of type bool, got: str"),
        (lambda: WNGRU(4, 4, bidirectional="yes"), TypeError, "bidirectional should be of type bool, got: str"),
        (
            lambda: WNGRU(4, 4, 2, dropout=1.5),
            ValueError,
            r"a number in range \[0, 1\].*got dropout=1.5",
        ),
        (
            lambda: WNGRU(4, 4, 2, dropout=True),
            ValueError,
            r"a number in range \[0, 1\].*got dropout=True",
        ),
        (
            lambda: WNGRU(4, 4, 2, dropout=float("nan")),
            ValueError,
            r"a number in range \[0, 1\].*got dropout=nan",
        ),
        (lambda: WNLSTM(4, 4, proj_size=4), ValueError, "proj_size has to be smaller than hidden_size, got 4 and 4"),
        (lambda: WNLSTM(4, 4, proj_size=-1), ValueError, "proj_size should be a positive integer or zero .*, got -1"),
        (
            lambda: WNRNN(4, 4, nonlinearity="gelu"),
            ValueError,
            "Unknown nonlinearity 'gelu'. Select from",
        ),
        (lambda: WNLSTM(4, 4).gate_g("update"), ValueError, "one of input, forget, cell, output .* got 'update'"),
        (lambda: WNLSTM(4, 4).gate_g("input", layer=1), ValueError, "layer must be in 0…0, got 1"),
        (lambda: WNLSTM(4, 4).gate_g("input", weight="hr"), ValueError, "'ih' or 'hh', got 'hr'"),
        (lambda: WNLSTM(4, 4).gate_g("input", reverse=True), ValueError, "no reverse direction"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_dropout_without_a_second_layer_warns_as_torch_does():
    with pytest.warns(UserWarning, match="but got dropout=0.5 and num_layers=1 in WNLSTM"):
        WNLSTM(4, 4, dropout=0.5)
