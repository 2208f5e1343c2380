"""Resets inside a sequence: each piece between two borders runs as if it were alone, in every form and back end."""

import itertools
import warnings

import pytest
import torch
from cases import each, each_sequence, every_sequence, sequence_case, tensors
from torch.export import Dim
from torch.func import vmap
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wnseq import GRU, LSTM, RNN, WNGRU, WNLSTM, WNRNN, WNMinGRU, WNMinLSTM
from wnseq._recurrence.resets import find_resets, mask_state, split_mask, zero, zero_
from wnseq.errors import ShapeError
from wnseq.nn import backend

STEPS, LENGTHS = 7, [3, 7, 5, 1]
RESET = torch.zeros(STEPS, 4, dtype=torch.bool)
for t, n in [(0, 1), (1, 0), (2, 0), (3, 1), (6, 1), (4, 2), (0, 3), (5, 3), (6, 3)]:
    RESET[t, n] = True  # at the ends, next to each other, of every sequence and of several at one step
BOTH_WAYS = [  # one layer, which compiles in half the time; the registry has more
    sequence_case(form, num_layers=1, bidirectional=True)
    for form in (("lstm", {}), ("lstm", {"proj_size": 3}), ("gru", {}), ("rnn", {}))
]


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def split_and_run(module, x, states, reset, lengths):
    """Run every piece of every sequence of a time-first batch by itself; return outputs and final states."""
    directions = 1 + module.bidirectional
    outputs, finals = [], []
    for n, length in enumerate(lengths):
        borders = [0, *(t for t in range(1, length) if reset[t, n]), length]
        pieces = []
        for start, end in itertools.pairwise(borders):
            given = [state[:, n].clone() for state in states]
            for state in given:
                by_direction = state.view(-1, directions, state.shape[-1])
                if start > 0 or reset[0, n]:
                    by_direction[:, 0] = 0
                if directions > 1 and end < length:
                    by_direction[:, 1] = 0
            output, final = module(x[start:end, n], tuple(given) if len(given) > 1 else given[0])
            pieces.append((output, as_tuple(final)))
        outputs.append(torch.cat([output for output, _ in pieces]))
        ahead, back = pieces[-1][1], pieces[0][1]
        finals.append(
            [
                torch.stack([(back if k % directions else ahead)[s][k] for k in range(len(state))])
                for s, state in enumerate(states)
            ]
        )
    return outputs, [torch.stack(parts, 1) for parts in zip(*finals, strict=True)]


class Problem:
    """A module, what goes into it, and the results and gradients of splitting and running."""

    def __init__(self, case, form="batched", dtype=torch.float64, module=None):
        self.module = case.make(dtype=dtype) if module is None else module
        self.case, self.form = case, form
        self.x = torch.randn(STEPS, len(LENGTHS), 5, dtype=dtype, requires_grad=True)
        self.states = [state.requires_grad_() for state in as_tuple(case.states(len(LENGTHS), dtype))]
        self.lengths = LENGTHS if form == "packed" else [STEPS] * len(LENGTHS)
        self.batch_first = case.kwargs.get("batch_first", False)

    def arguments(self):
        x, states, reset = self.x, self.states, RESET
        if self.form == "unbatched":
            x, reset, states = x[:, 1], reset[:, 1], [state[:, 1] for state in states]
        else:
            x, reset = self.case.lay_out(x), self.case.lay_out(reset)
        if self.form == "packed":
            x, reset = (
                pack_padded_sequence(each, self.lengths, self.batch_first, enforce_sorted=False) for each in (x, reset)
            )
        return x, tuple(states) if len(states) > 1 else states[0], reset

    def run(self, function=None):
        output, state = (self.module if function is None else function)(*self.arguments())
        if self.form == "unbatched":
            return [output, *as_tuple(state)]
        output = pad_packed_sequence(output)[0] if self.form == "packed" else self.case.lay_out(output)
        return [*(output[:length, n] for n, length in enumerate(self.lengths)), *as_tuple(state)]

    def expect(self):
        self.module.batch_first, before = False, self.module.batch_first
        if self.form == "unbatched":
            outputs, finals = split_and_run(
                self.module, self.x[:, 1:2], [s[:, 1:2] for s in self.states], RESET[:, 1:2], [STEPS]
            )
            finals = [state[:, 0] for state in finals]
        else:
            outputs, finals = split_and_run(self.module, self.x, self.states, RESET, self.lengths)
        self.module.batch_first = before
        return [*outputs, *finals]

    def gradients(self, results, probes):
        leaves = [leaf for leaf in (self.x, *self.states, *self.module.parameters()) if leaf.requires_grad]
        return torch.autograd.grad(results, leaves, probes)

    def without_gradient_of_x(self):
        """Return the problem as torch.compile takes it: it warns of an input that has a gradient and is no leaf."""
        self.x.requires_grad_(False)
        return self

    def check(self, function=None, **tolerance):
        """Compare results and all gradients with those of the pieces."""
        found, expected = self.run(function), self.expect()
        probes = [torch.randn_like(part) for part in expected]
        torch.testing.assert_close(found, expected, **tolerance)
        torch.testing.assert_close(self.gradients(found, probes), self.gradients(expected, probes), **tolerance)


EXACT = {"rtol": 0, "atol": 1e-12}


# ---- every form, in float64


@every_sequence
def test_equals_split_and_run_with_every_gradient(case):
    for form in ("batched", "packed"):
        Problem(case, form).check(**EXACT)


@each_sequence
def test_equals_split_and_run_unbatched(case):
    Problem(case, "unbatched").check(**EXACT)


@each_sequence
@pytest.mark.parametrize("form", ["batched", "packed"])
def test_unrolled_steps_reset_too(case, form):
    with backend("unrolled"):
        Problem(case, form).check(**EXACT)


@pytest.mark.parametrize(
    ("plain", "case"),
    [(LSTM, BOTH_WAYS[0]), (LSTM, BOTH_WAYS[1]), (GRU, BOTH_WAYS[2]), (RNN, BOTH_WAYS[3])],
    ids=["lstm", "projected", "gru", "rnn"],
)
def test_torchs_layers_reset_too(plain, case):
    module = plain(*case.args, **case.kwargs, dtype=torch.float64)
    Problem(case, module=module).check(**EXACT)
    Problem(case, "packed", module=module).check(**EXACT)


# ---- the loops' other precisions


@each(BOTH_WAYS)
def test_in_float32(case):
    Problem(case, dtype=torch.float32).check(rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["batched", "packed"])
@each(BOTH_WAYS)
def test_under_autocast_the_dtypes_are_those_without_resets(case, form):
    problem = Problem(case, form, dtype=torch.float32)
    expected = problem.expect()
    x, states, _ = problem.arguments()
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = problem.run(), problem.module(x, states)
    dtypes = [part.dtype for part in [plain[0].data, *as_tuple(plain[1])]]
    assert [part.dtype for part in found[-len(dtypes) :]] == dtypes
    probes = [torch.randn_like(part) for part in expected]
    for ours, exact in [
        *zip(found, expected, strict=True),
        *zip(
            problem.gradients(found, [probe.to(part.dtype) for probe, part in zip(probes, found, strict=True)]),
            problem.gradients(expected, probes),
            strict=True,
        ),
    ]:
        assert (ours.float() - exact).norm() <= 0.03 * exact.norm() + 1e-2


@each(BOTH_WAYS)
def test_second_derivatives(case):
    problem = Problem(case)
    seconds = []
    for results in (problem.run(), problem.expect()):
        leaves = [problem.x, *problem.module.parameters()]
        first = torch.autograd.grad(sum(part.sin().sum() for part in results), leaves, create_graph=True)
        seconds.append(torch.autograd.grad(sum(part.square().sum() for part in first), leaves))
    torch.testing.assert_close(*seconds, rtol=0, atol=1e-10)


def test_a_state_that_is_not_finite_ends_at_a_border():
    x, reset = torch.randn(5, 2, 5), torch.zeros(5, 2, dtype=torch.bool)
    x[1, 0], reset[3, 0] = torch.inf, True
    for module in (WNLSTM(5, 6), WNGRU(5, 6), WNRNN(5, 6, nonlinearity="relu")):
        with torch.no_grad():
            output, state = module(x, reset=reset)
        assert output[3:].isfinite().all() and all(part.isfinite().all() for part in as_tuple(state))


@pytest.mark.parametrize("way", ["auto", "parallel_scan", "unrolled"])
@pytest.mark.parametrize("steps", [1, 2, 5, 9, 70])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cls", [WNMinGRU, WNMinLSTM])
def test_no_state_of_a_minimal_cell_crosses_a_border_whatever_it_holds(cls, bidirectional, steps, way):
    module = cls(5, 6, bidirectional=bidirectional)
    x, h = torch.randn(steps, 3, 5), torch.randn(1 + bidirectional, 3, 6)
    for border in {0, 1, steps // 2, steps - 1} & {*range(steps)}:
        reset = torch.zeros(steps, 3, dtype=torch.bool)
        reset[border, 0] = True
        with torch.no_grad(), backend(way):
            expected, _ = module(x, h, reset)
            for value in (torch.nan, torch.inf):
                spoilt, state = x.clone(), h.clone()
                spoilt[:border, 0] = value
                state[0, 0] = value
                found, _ = module(spoilt, state, reset)
                torch.testing.assert_close(found[border:, 0], expected[border:, 0], rtol=0, atol=1e-6)
                torch.testing.assert_close(found[:, 1:, :6], expected[:, 1:, :6], rtol=0, atol=1e-6)


# ---- graphs


@pytest.fixture
def nothing_compiled_before():
    torch._dynamo.reset()


@pytest.mark.usefixtures("nothing_compiled_before")
@each(BOTH_WAYS[::2])
def test_compiled(case):
    problem = Problem(case)
    problem.check(torch.compile(problem.module, fullgraph=True, backend="aot_eager"), **EXACT)


@pytest.mark.usefixtures("nothing_compiled_before")
@each(BOTH_WAYS[1::2])  # the others without resets, in test_dispatch.py
def test_compiled_packed(case):
    problem = Problem(case, "packed").without_gradient_of_x()
    problem.check(torch.compile(problem.module, fullgraph=True, backend="aot_eager"), **EXACT)


@pytest.mark.usefixtures("nothing_compiled_before")
@each(BOTH_WAYS[1::2])
def test_exported_and_traced_for_other_lengths_and_batch_sizes(case):
    module, steps, batch = case.make().eval(), Dim("steps"), Dim("batch")
    states = ({1: batch}, {1: batch}) if case.has_cell_state else {1: batch}
    given = case.input(), case.states(3), torch.rand(4, 3) < 0.5
    shapes = ({0: steps, 1: batch}, states, {0: steps, 1: batch})
    exported = torch.export.export(module, given, dynamic_shapes=shapes).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and a trace leaves out the checks of shapes
        traced = torch.jit.trace(module, given)
    for steps, batch in ((9, 2), (1, 1)):
        other = case.input(batch=batch, steps=steps), case.states(batch), torch.rand(steps, batch) < 0.5
        for graph in (exported, traced):
            torch.testing.assert_close(tensors(graph(*other)), tensors(module(*other)))


@each(BOTH_WAYS)
def test_over_a_batch_of_masks_by_vmap(case):
    module, x, masks = case.make(dtype=torch.float64), case.input(dtype=torch.float64), torch.rand(3, 4, 3) < 0.3
    found = vmap(lambda mask: module(x, None, mask))(masks)
    for k, mask in enumerate(masks):
        torch.testing.assert_close([part[k] for part in tensors(found)], tensors(module(x, None, mask)), **EXACT)


def test_torch_fx_records_a_mask_only_where_there_is_one():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = WNGRU(5, 6), GRU(6, 4)

        def forward(self, x, mask):
            return self.second(self.first(x, None, mask)[0])[0]

    model, x, mask = Model(), torch.randn(4, 3, 5), torch.rand(4, 3) < 0.3
    graph = torch.fx.symbolic_trace(model)
    assert [len(node.args) for node in graph.graph.nodes if node.op == "call_module"] == [3, 2]
    torch.testing.assert_close(graph(x, mask), model(x, mask))


# ---- masks


def listed(rows):
    return [None if row is None else row.tolist() for row in rows]


def test_the_rows_of_each_step_in_both_directions():
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    packed = torch.tensor([False, False, True, True])  # two sequences of 3 steps and 1
    for reset, sizes, reverse, by_step, flat in [
        (mask, [2, 2, 2], False, [[0], None, [0, 1]], [0, 4, 5]),
        (mask, [2, 2, 2], True, [None, [0, 1], None], [2, 3]),
        (packed, [2, 1, 1], False, [None, [0], [0]], [2, 3]),
        (packed, [2, 1, 1], True, [[0], [0], None], [0, 2]),
    ]:
        rows, flat_rows = find_resets(reset, sizes, reverse)
        assert (listed(rows), flat_rows.tolist()) == (by_step, flat)
    assert find_resets(None, [2, 2], True) == ([None, None], None)
    assert listed(split_mask(packed, torch.tensor([2, 1, 1]), True)) == [[True], [True], None]
    assert listed(split_mask(mask, None, False)) == mask.tolist()


def test_a_state_is_masked_without_a_change_of_the_given_one():
    state = torch.ones(2, 3)
    assert zero(state, None) is state and mask_state(state, None) is state
    for masked in (zero(state, torch.tensor([1])), mask_state(state, torch.tensor([False, True]))):
        assert masked.tolist() == [[1, 1, 1], [0, 0, 0]] and state.all()
    assert mask_state(state, torch.tensor([True])).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert zero_(state, None) is state and zero_(state, torch.tensor([0])) is state and not state[0].any()


def test_single_steps_of_an_agent_equal_the_sequence():
    module, x, mask, state, outputs = WNLSTM(5, 6, 2), torch.randn(6, 3, 5), torch.rand(6, 3) < 0.3, None, []
    step = module.bind()
    for x_t, mask_t in zip(x.split(1), mask.split(1), strict=True):
        output, state = step(x_t, state, reset=mask_t)
        outputs.append(output)
    whole = module(x, reset=mask)
    torch.testing.assert_close([torch.cat(outputs), *state], [whole[0], *whole[1]])


X = torch.zeros(4, 3, 5)
PACKED = pack_padded_sequence(X, [4, 2, 1])
MASK = torch.zeros(4, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("x", "reset", "error", "text"),
    [
        (X, [True], TypeError, "reset must be a tensor, got list"),
        (X, PACKED, TypeError, "reset must be a tensor, got PackedSequence"),
        (PACKED, MASK, TypeError, "reset must be a PackedSequence, packed as the input is, got Tensor"),
        (
            X,
            MASK.float(),
            TypeError,
            r"reset must have dtype torch.bool, got torch.float32; convert it with reset.bool\(\)",
        ),
        (X, MASK[1:], ShapeError, r"input's shape without its features, \(4, 3\), got \(3, 3\)"),
        (X[:, 0], MASK, ShapeError, r"input's shape without its features, \(4,\), got \(4, 3\)"),
        (X, MASK.to("meta"), ValueError, "reset must be on the input's device, cpu, got meta"),
        (PACKED, pack_padded_sequence(MASK, [3, 3, 1]), ShapeError, "with its lengths in its order"),
        (
            PACKED,
            pack_padded_sequence(MASK, [2, 4, 1], enforce_sorted=False),
            ShapeError,
            "with its lengths in its order",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(x, reset, error, text):
    for kind in (WNLSTM, LSTM, WNRNN):
        with pytest.raises(error, match=text) as caught:
            kind(5, 6)(x, reset=reset)
        assert kind.__name__ in str(caught.value)
