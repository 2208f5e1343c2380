"""The multiplicative LSTM against a loop of the paper's equations, and in the ways a module is used."""

import copy
import pickle

import pytest
import reference
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

import wnseq
from wnseq import (
    MLSTM,
    WNMLSTM,
    MLSTMCell,
    ShapeError,
    WNMLSTMCell,
    remove_weight_norm,
    state_dict_as,
    weight_normalize,
)

FORMS = [{}, {"bias": False, "batch_first": True}, {"num_layers": 2, "bidirectional": True}]


def recur(rnn, x, h, c):
    """Run one sequence ``(T, I)`` through all layers, gate by gate of the checkpoint's v, g and bias."""
    parameters, final = dict(rnn.named_parameters()), []
    for layer in range(rnn.num_layers):
        outputs = []
        for direction in range(1 + rnn.bidirectional):
            end = f"_l{layer}" + ("_reverse" if direction else "")
            w_ih, w_hh, w_im, w_hm = (
                reference.weight_norm(parameters[f"weight_{part}{end}_v"], parameters[f"weight_{part}{end}_g"])
                for part in ("ih", "hh", "im", "hm")
            )
            b = parameters.get(f"bias_ih{end}", torch.zeros(16, dtype=x.dtype))
            state, steps = (h[len(final)], c[len(final)]), []
            for x_t in x.flip(0) if direction else x:
                m = (w_im @ x_t) * (w_hm @ state[0])
                i, f, u, o = (w_ih[k : k + 4] @ x_t + w_hh[k : k + 4] @ m + b[k : k + 4] for k in (0, 4, 8, 12))
                new = reference.sigmoid(f) * state[1] + reference.sigmoid(i) * reference.tanh(u)
                state = reference.sigmoid(o) * reference.tanh(new), new
                steps.append(state[0])
            outputs.append(torch.stack(steps[::-1] if direction else steps))
            final.append(state)
        x = torch.cat(outputs, 1)
    return x, *(torch.stack(parts) for parts in zip(*final, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_equations_with_every_gradient(form):
    rnn = WNMLSTM(3, 4, **form, dtype=torch.float64)
    x, layers = torch.randn(6, 2, 3, dtype=torch.float64), rnn.num_layers * (1 + rnn.bidirectional)
    h, c = torch.randn(2, layers, 2, 4, dtype=torch.float64)
    leaves = [each.requires_grad_() for each in (x, h, c, *rnn.parameters())]
    output, final = rnn(x.transpose(0, 1) if rnn.batch_first else x, (h, c))
    results = [output.transpose(0, 1) if rnn.batch_first else output, *final]
    columns = [recur(rnn, x[:, n], h[:, n], c[:, n]) for n in range(2)]
    expected = [torch.stack(parts, 1) for parts in zip(*columns, strict=True)]
    torch.testing.assert_close(results, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(sum(part.sin().sum() for part in each), leaves) for each in (results, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_loop_of_cells_is_the_layer_and_a_state_goes_on():
    rnn, cell = WNMLSTM(3, 4, dtype=torch.float64), WNMLSTMCell(3, 4, dtype=torch.float64)
    cell.load_state_dict({name.replace("_l0", ""): value for name, value in rnn.state_dict().items()})
    x, state, outputs = torch.randn(5, 2, 3, dtype=torch.float64), None, []
    step = cell.bind()
    for x_t in x:
        state = step(x_t, state)
        outputs.append(state[0])
    output, final = rnn(x)
    torch.testing.assert_close(output, torch.stack(outputs), rtol=0, atol=1e-12)
    torch.testing.assert_close([each[0] for each in final], list(state), rtol=0, atol=1e-12)
    half, middle = rnn(x[:2])
    torch.testing.assert_close(torch.cat([half, rnn(x[2:], middle)[0]]), output, rtol=0, atol=1e-12)
    torch.testing.assert_close(cell(x[0, 0])[0], output[0, 0], rtol=0, atol=1e-12)


def test_unbatched_packed_and_reset_inputs_are_each_sequence_alone():
    rnn, sequences = WNMLSTM(3, 4, 2, bidirectional=True), [torch.randn(t, 3) for t in (2, 5, 3)]
    h, c = torch.randn(2, 4, 3, 4)
    output, final = rnn(pack_sequence(sequences, enforce_sorted=False), (h, c))
    for n, (sequence, found) in enumerate(zip(sequences, unpack_sequence(output), strict=True)):
        expected, state = rnn(sequence, (h[:, n], c[:, n]))
        torch.testing.assert_close([found, *(part[:, n] for part in final)], [expected, *state])
    one, x, mask = WNMLSTM(3, 4, bidirectional=True), torch.randn(6, 3), torch.zeros(6, dtype=torch.bool)
    mask[2] = True
    torch.testing.assert_close(one(x, reset=mask)[0], torch.cat([one(x[:2])[0], one(x[2:])[0]]))


@pytest.mark.parametrize(
    ("kind", "plain", "arguments"), [(WNMLSTM, MLSTM, (3, 4, 2)), (WNMLSTMCell, MLSTMCell, (3, 4))]
)
def test_it_has_the_function_of_the_plain_module_of_the_same_seed_and_converts_both_ways(kind, plain, arguments):
    modules = []
    for cls in (kind, plain):
        torch.manual_seed(0)
        modules.append(cls(*arguments))
    ours, other = modules
    x = torch.randn(5, 2, 3) if kind is WNMLSTM else torch.randn(2, 3)
    expected = other(x)
    torch.testing.assert_close(ours(x), expected)
    folded, back = remove_weight_norm(ours), weight_normalize(other)
    assert type(folded) is plain and type(back) is kind
    torch.testing.assert_close((folded(x), back(x)), (expected, expected))
    plain(*arguments).load_state_dict(state_dict_as(ours, "plain"))
    for twice in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(twice(x), ours(x))


def test_each_gate_and_both_factors_have_scales_of_their_own():
    rnn, x = WNMLSTM(3, 4), torch.randn(5, 2, 3)
    assert rnn.weight_im_l0_g.shape == rnn.weight_hm_l0_g.shape == (4,)
    for k, gate in enumerate(("input", "forget", "cell", "output")):
        for weight in ("ih", "hh"):
            assert torch.equal(
                rnn.gate_g(gate, weight=weight), getattr(rnn, f"weight_{weight}_l0_g")[4 * k : 4 * k + 4]
            )
    assert WNMLSTMCell(3, 4).gate_g("cell", "ih").shape == (4,)
    with torch.no_grad():
        before = rnn(x)[0]
        rnn.weight_hm_l0_g.zero_()  # m is 0, and the gates see the input alone
        alone = wnseq.functional.weight_norm(rnn.weight_ih_l0_v, rnn.weight_ih_l0_g) @ x[-1, 0] + rnn.bias_ih_l0
    assert not torch.allclose(rnn(x)[0][1:], before[1:]) and torch.allclose(rnn(x)[0][0], before[0])
    c = rnn(x[:-1])[1][1][0, 0]
    i, f, g, o = alone.chunk(4)
    new = f.sigmoid() * c + i.sigmoid() * g.tanh()
    torch.testing.assert_close(rnn(x)[0][-1, 0], o.sigmoid() * new.tanh())
    with pytest.raises(ValueError, match="WNMLSTM: weight must be 'ih' or 'hh', got 'hm'"):
        rnn.gate_g("input", weight="hm")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
def test_graphs_and_transforms_hold_it():
    rnn, x = WNMLSTM(3, 4, dtype=torch.float64), torch.randn(2, 2, 3, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), rnn(x), rtol=0, atol=1e-12)
    parameters = dict(rnn.named_parameters())

    def loss(parameters, x):
        return functional_call(rnn, parameters, (x,))[0].sin().sum()

    expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
    each = vmap(grad(loss), (None, 1))(parameters, x)
    torch.testing.assert_close([part.sum(0) for part in each.values()], list(expected), rtol=0, atol=1e-12)
    recorded = torch.fx.symbolic_trace(nn.Sequential(WNMLSTM(3, 4)))
    assert [node.op for node in recorded.graph.nodes] == ["placeholder", "call_module", "output"]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: WNMLSTM(3, 4)(torch.zeros(2, 2, 5)), ShapeError, "Expected 3, got 5 in WNMLSTM"),
        (lambda: MLSTM(3, 4)(torch.zeros(2, 3), torch.zeros(1, 4)), TypeError, r"must be a pair \(h, c\), got Tensor"),
        (lambda: MLSTM(3, 4)(torch.zeros(2, 3), (torch.zeros(1, 4),)), ShapeError, r"a pair \(h, c\), got 1 tensors"),
        (lambda: MLSTMCell(3, 4)(torch.zeros(3), torch.zeros(4)), TypeError, r"must be a pair \(h, c\), got Tensor"),
        (lambda: MLSTMCell(3, 4)(torch.zeros(3), (torch.zeros(4),)), ShapeError, "got 1 tensors"),
        (
            lambda: WNMLSTMCell(3, 4)(torch.zeros(3), (torch.zeros(4), torch.zeros(5))),
            ShapeError,
            r"the state must have shape \(4,\) with this input, got \(5,\)",
        ),
    ],
)
def test_what_is_wrong_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()
