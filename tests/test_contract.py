"""The contract of torch's modules: the attributes, arguments and errors that code written for them relies on."""

import inspect
import typing
import warnings

import numpy as np
import pytest
import torch
from cases import (
    CELL,
    LAYER,
    SEQUENCE,
    Case,
    cell_cases,
    count_calls,
    covering_cases,
    each,
    each_cell,
    each_form,
    each_loop,
    each_module,
    each_sequence,
    loop_cases,
    tensors,
)
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import WNGRU, WNLSTM, WNRNN, ShapeError, WNGRUCell, WNLSTMCell
from wnseq._recurrence import cpu_gru
from wnseq._recurrence.matmul import onednn_supports
from wnseq.nn._composed_weight import ComposedWeight

SIMPLE_SEQUENCES = [Case(kind, *SEQUENCE[kind]) for kind in SEQUENCE]
SIMPLE_CELLS = [Case(kind, *CELL[kind]) for kind in CELL]
SIMPLE_LAYERS = [
    Case("layer", *LAYER[name], (4, 6, 3)[: 2 + len(shape)], shape=(4, *shape))
    for name, shape in [
        ("linear", ()),
        ("conv1d", (5,)),
        ("conv2d", (5, 5)),
        ("transpose1d", (5,)),
        ("transpose2d", (5, 5)),
        ("conv3d", (5, 5, 5)),
        ("transpose3d", (5, 5, 5)),
    ]
]
PROJECTED = Case("lstm", *SEQUENCE["lstm"], kwargs={"proj_size": 3})


def raised(call):
    """Return what a call raises, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except Exception as error:
        return error
    return None


def arguments(function):
    found = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return [(p.name, p.kind, p.default) for p in found]


@each(SIMPLE_SEQUENCES + SIMPLE_CELLS + SIMPLE_LAYERS)
def test_the_constructor_and_forward_take_torch_s_arguments(case):
    overloads = typing.get_overloads(case.twin.__init__)
    expected = arguments(overloads[0] if overloads else case.twin.__init__)
    if case in SIMPLE_SEQUENCES:
        own = {"rnn": ["zoneout"], "gru": ["zoneout", "recurrent_dropout"]}
        names = ["weight_drop", *own.get(case.kind, ["zoneout", "zoneout_cell", "recurrent_dropout"])]
        expected += [(name, inspect.Parameter.KEYWORD_ONLY, 0.0) for name in names]
    if case in SIMPLE_LAYERS:
        axis = "out" if "Transpose" in case.module.__name__ else 0
        expected += [("dim", inspect.Parameter.KEYWORD_ONLY, axis)]
    assert arguments(case.module.__init__) == expected
    own = (
        [("reset", inspect.Parameter.POSITIONAL_OR_KEYWORD, None)] if case in SIMPLE_SEQUENCES else []
    )  # after torch's
    assert arguments(case.module.forward) == arguments(case.twin.forward) + own


@each_form
def test_the_attributes_are_torch_s(case):
    module, reference = case.make(), case.make_twin()
    for name, value in vars(reference).items():
        if not name.startswith("_"):
            assert getattr(module, name) == value, name
    assert module.extra_repr() == reference.extra_repr()
    assert str(module) == f"WN{reference}"


@each_sequence
def test_all_weights_reads_and_flatten_parameters_does_nothing(case):
    module, reference = case.make(), case.make_twin()
    module.flatten_parameters()
    assert module._flat_weights_names == reference._flat_weights_names and module._all_weights == reference._all_weights
    for row, twin_row in zip(module.all_weights, reference.all_weights, strict=True):
        for weight, twin in zip(row, twin_row, strict=True):
            torch.testing.assert_close(weight.detach().as_subclass(torch.Tensor), twin.detach())
    assert isinstance(module.all_weights[0][0], ComposedWeight)  # so that a write into it raises
    assert module.mode == reference.mode


@each([*covering_cases(), *loop_cases(), *cell_cases()])
def test_arguments_go_by_keyword(case):
    module, reference, x, state = case.make(), case.make_twin(), case.input(), case.states(3)
    for a, b in zip(tensors(module(input=x, hx=state)), tensors(reference(input=x, hx=state)), strict=True):
        torch.testing.assert_close(a, b)


@each_module
def test_a_batch_may_be_empty(case):
    for a, b in zip(tensors(case.make()(case.input(0))), tensors(case.make_twin()(case.input(0))), strict=True):
        assert a.shape == b.shape


@each_module
def test_the_output_for_an_example_does_not_depend_on_the_others(case):
    module, x = case.make(), case.input()
    axis = 0 if case.is_layer or case.is_cell or case.kwargs.get("batch_first") else 1
    others = x.clone().transpose(0, axis)
    others[1:] = 5 * torch.randn_like(others[1:])
    whole, changed = tensors(module(x))[0], tensors(module(others.transpose(0, axis)))[0]
    torch.testing.assert_close(whole.select(axis, 0), changed.select(axis, 0))
    torch.testing.assert_close(whole.select(axis, 0), tensors(module(x.narrow(axis, 0, 1)))[0].select(axis, 0))
    assert not torch.allclose(whole.select(axis, 1), changed.select(axis, 1))


@pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")
@each_loop
def test_a_case_of_the_cpu_loop_runs_it(case, monkeypatch):
    calls = count_calls(monkeypatch, cpu_gru.CPUGRU, "layer")
    case.make()(case.input())
    assert len(calls) == case.kwargs["num_layers"] * (1 + case.kwargs["bidirectional"])


@each([case for case in covering_cases() + cell_cases() if case.has_cell_state])
def test_a_pair_may_be_a_list(case):
    x, state = case.input(), case.states(3)
    for a, b in zip(tensors(case.make()(x, list(state))), tensors(case.make_twin()(x, list(state))), strict=True):
        torch.testing.assert_close(a, b)


CONSTRUCTORS = {
    "no input": ((0, 4), {}),
    "no hidden": ((4, 0), {}),
    "negative input": ((-1, 4), {}),
    "negative hidden": ((4, -1), {}),
    "float input": ((4.0, 4), {}),
    "float hidden": ((4, 4.0), {}),
    "numpy input": ((np.int64(4), 4), {}),
    "int bias": ((4, 4), {"bias": 1}),
    "integer dtype": ((4, 4), {"dtype": torch.int64}),
    "no dtype": ((4, 4), {"dtype": "float"}),
    "no device": ((4, 4), {"device": "nowhere"}),
}
SEQUENCE_CONSTRUCTORS = {  # of a cell such keywords are Python's own errors
    "no layers": {"num_layers": 0},
    "negative layers": {"num_layers": -1},
    "float layers": {"num_layers": 1.5},
    "text layers": {"num_layers": "2"},
    "None layers": {"num_layers": None},
    "numpy layers": {"num_layers": np.int64(2)},
    "text batch_first": {"batch_first": "yes"},
    "large dropout": {"num_layers": 2, "dropout": 1.5},
    "negative dropout": {"num_layers": 2, "dropout": -0.5},
    "bool dropout": {"num_layers": 2, "dropout": True},
    "nan dropout": {"num_layers": 2, "dropout": float("nan")},
    "text dropout": {"num_layers": 2, "dropout": "0.5"},
    "numpy dropout": {"num_layers": 2, "dropout": np.float32(0.5)},
    "large projection": {"proj_size": 4},
    "negative projection": {"proj_size": -1},
    "float projection": {"proj_size": 1.5},
    "projection": {"proj_size": 2},
}
BAD_CONSTRUCTIONS = {
    f"{case.name}-{name}": (case, *given)
    for case in SIMPLE_SEQUENCES + SIMPLE_CELLS
    for name, given in {
        **CONSTRUCTORS,
        **({} if case.is_cell else {name: ((4, 4), kwargs) for name, kwargs in SEQUENCE_CONSTRUCTORS.items()}),
    }.items()
}


@pytest.mark.parametrize(("case", "args", "kwargs"), BAD_CONSTRUCTIONS.values(), ids=BAD_CONSTRUCTIONS)
def test_a_bad_construction_raises_as_torch_s_does(case, args, kwargs):
    expected = raised(lambda: case.twin(*args, **kwargs))
    error = raised(lambda: case.module(*args, **kwargs))
    assert isinstance(error, type(expected)), (error, expected)  # both None where torch takes it


def pack(x, lengths=(2, 4, 3)):
    return pack_padded_sequence(x, lengths, enforce_sorted=False)


def changed(state, change):
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def cast(dtype):
    return lambda state: state.to(dtype)


FORWARDS = {
    "one axis": lambda x, s: (x[0, 0],),
    "four axes": lambda x, s: (x[None],),
    "features": lambda x, s: (x[..., 1:],),
    "double": lambda x, s: (x.double(),),
    "integers": lambda x, s: (x.long(),),
    "no steps": lambda x, s: (x[:0], s),
    "no steps unbatched": lambda x, s: (x[:0, 0],),
    "state of two layers": lambda x, s: (x, changed(s, lambda t: torch.cat([t, t]))),
    "state of a smaller batch": lambda x, s: (x, changed(s, lambda t: t[:, 1:])),
    "state of a larger batch": lambda x, s: (x[:, 1:], s),
    "state with features missing": lambda x, s: (x, changed(s, lambda t: t[..., 1:])),
    "unbatched state": lambda x, s: (x, changed(s, lambda t: t[:, 0])),
    "batched state": lambda x, s: (x[:, 0], s),
    "unbatched state of two layers": lambda x, s: (x[:, 0], changed(s, lambda t: torch.cat([t, t])[:, 0])),
    "double state": lambda x, s: (x, changed(s, cast(torch.float64))),
    "state elsewhere": lambda x, s: (x, changed(s, lambda t: t.to("meta"))),
    "input elsewhere": lambda x, s: (x.to("meta"), s),
    "packed features": lambda x, s: (pack(x[..., 1:]),),
    "packed, state of a smaller batch": lambda x, s: (pack(x), changed(s, lambda t: t[:, 1:])),
    "packed, state of two layers": lambda x, s: (pack(x), changed(s, lambda t: torch.cat([t, t]))),
}
PAIR_FORWARDS = {
    "three states": lambda x, s: (x, (s[0], s[1], s[1])),
    "states of two sizes": lambda x, s: (x, (s[0], s[1][..., 1:])),
    "states of two forms": lambda x, s: (x, (s[0], s[1][:, 0])),
}


def rows(cases, changes, of_pairs):
    """Return what to call each case with, wrongly: the changes, and those of a pair of states where there is one."""
    return {
        f"{case.name}-{name}": (case, change)
        for case in cases
        for name, change in {**changes, **(of_pairs if case.has_cell_state else {})}.items()
    }


BAD_FORWARDS = rows([*SIMPLE_SEQUENCES, PROJECTED, *loop_cases()[:1]], FORWARDS, PAIR_FORWARDS)


@pytest.mark.parametrize(("case", "change"), BAD_FORWARDS.values(), ids=BAD_FORWARDS)
def test_a_bad_forward_raises_as_torch_s_does(case, change):
    args = change(torch.randn(4, 3, 5), case.states(3))
    expected, error = raised(lambda: case.make_twin()(*args)), raised(lambda: case.make()(*args))
    assert expected is not None and isinstance(error, type(expected)), (error, expected)


STEPS = {
    "no axis": lambda x, s: (x[0, 0],),
    "three axes": lambda x, s: (x[None],),
    "features": lambda x, s: (x[:, 1:],),
    "double": lambda x, s: (x.double(),),
    "integers": lambda x, s: (x.long(),),
    "state of a smaller batch": lambda x, s: (x, changed(s, lambda t: t[1:])),
    "state of three axes": lambda x, s: (x, changed(s, lambda t: t[None])),
    "state with features missing": lambda x, s: (x, changed(s, lambda t: t[:, 1:])),
    "unbatched state": lambda x, s: (x, changed(s, lambda t: t[0])),
    "batched state": lambda x, s: (x[0], s),
    "double state": lambda x, s: (x, changed(s, cast(torch.float64))),
}
PAIR_STEPS = {
    "three states": lambda x, s: (x, (s[0], s[1], s[1])),
    "one state": lambda x, s: (x, s[0]),
    "states of two sizes": lambda x, s: (x, (s[0], s[1][:, 1:])),
}
BAD_STEPS = rows(SIMPLE_CELLS, STEPS, PAIR_STEPS)


@pytest.mark.parametrize(("case", "change"), BAD_STEPS.values(), ids=BAD_STEPS)
def test_a_bad_step_raises_as_torch_s_does(case, change):
    args = change(torch.randn(3, 5), case.states(3))
    expected, error = raised(lambda: case.make_twin()(*args)), raised(lambda: case.make()(*args))
    assert expected is not None and isinstance(error, type(expected)), (error, expected)


@pytest.mark.parametrize(
    ("call", "error", "text"),  # where torch stumbles over an attribute or an index, we name the thing
    [
        (lambda: WNGRU(4, 4)(torch.randn(2, 1, 4), (torch.randn(1, 1, 4),)), TypeError, "be a tensor, got tuple"),
        (lambda: WNLSTM(4, 4)(torch.randn(2, 1, 4), (None, None)), TypeError, "be a tensor, got NoneType"),
        (lambda: WNLSTM(4, 4)(torch.randn(2, 1, 4), (torch.randn(1, 1, 4),)), ShapeError, r"\(h, c\), got 1 tensors"),
        (lambda: WNLSTM(5, 6)(pack(torch.randn(4, 3, 5).double())), ValueError, "input dtype .* does not match weight"),
        (
            lambda: WNLSTM(5, 6)(pack(torch.randn(4, 3, 5)), (torch.randn(1, 6), torch.randn(1, 6))),
            ShapeError,
            r"Expected hidden\[0\] size \(1, 3, 6\), got \[1, 6\]",
        ),
        (lambda: WNGRUCell(4, 4)(np.ones((2, 4))), TypeError, "input must be a tensor, got ndarray"),
        (lambda: WNGRUCell(4, 4)(torch.randn(2, 4), 3), TypeError, "each state must be a tensor, got int"),
        (lambda: WNLSTMCell(4, 4)(torch.randn(2, 4), [torch.randn(2, 4)]), ShapeError, r"\(h, c\), got 1 tensors"),
        (lambda: WNGRU(4, 4, proj_size=2), ValueError, "only supported for LSTM, not RNN or GRU: WNGRU"),
        (
            lambda: WNRNN(4, 4, bidirectional=1),
            TypeError,
            "should be of type bool, got: int",
        ),  # torch: at forward
    ],
)
def test_a_stumble_of_torch_s_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


@each_sequence
@pytest.mark.filterwarnings("default")
def test_warns_where_torch_does(case):
    caught = []
    for make in (case.make, case.make_twin):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            make(dropout=0.5)
        caught.append([each.category for each in found])
    assert caught[0] == caught[1] and (case.kwargs["num_layers"] == 1) == bool(caught[0])


@each_cell
def test_a_cell_takes_numpy_s_integers(case):
    assert Case(case.kind, case.module, case.twin, (np.int64(5), np.int64(6)), case.kwargs).make().hidden_size == 6
