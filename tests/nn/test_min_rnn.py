"""minGRU and minLSTM against a loop of the paper's equations, and in all the ways a module is used."""

import copy
import pickle

import pytest
import reference
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

import wnseq
from wnseq import MinGRU, ShapeError, WNMinGRU, WNMinLSTM, remove_weight_norm, state_dict_as, weight_normalize
from wnseq._recurrence.steps import GATES
from wnseq.nn import backend

LAYERS = [(WNMinGRU, MinGRU, wnseq.WNMinGRUCell), (WNMinLSTM, wnseq.MinLSTM, wnseq.WNMinLSTMCell)]
# inside torch: its rules for jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
each_kind = pytest.mark.parametrize(("kind", "plain", "cell"), LAYERS, ids=["mingru", "minlstm"])
each_class = pytest.mark.parametrize("cls", [cls for row in LAYERS for cls in (row[0], row[2])])
FORMS = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
]


def step(kind, a, h):
    """One step of section 3 of the paper, from the products with the input."""
    if kind == "mingru":
        z, n = reference.sigmoid(a[:4]), a[4:]
        return (1 - z) * h + z * n
    i, f, n = reference.sigmoid(a[:4]), reference.sigmoid(a[4:8]), a[8:]
    return f / (f + i) * h + i / (f + i) * n


def recur(rnn, x, states):
    """Run one sequence ``(T, I)`` through all layers, unit by unit of the checkpoint's v, g and bias."""
    parameters, final = dict(rnn.named_parameters()), []
    for layer in range(rnn.num_layers):
        outputs = []
        for direction in range(1 + rnn.bidirectional):
            name = f"ih_l{layer}" + ("_reverse" if direction else "")
            w = reference.weight_norm(parameters[f"weight_{name}_v"], parameters[f"weight_{name}_g"])
            b = parameters.get(f"bias_{name}", torch.zeros(len(w), dtype=w.dtype))
            h, steps = states[len(final)], []
            for x_t in x.flip(0) if direction else x:
                h = step(rnn.kind, w @ x_t + b, h)
                steps.append(h)
            outputs.append(torch.stack(steps[::-1] if direction else steps))
            final.append(h)
        x = torch.cat(outputs, 1)
    return x, torch.stack(final)


@each_kind
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["cpu_loop", "parallel_scan"], ids=["loop", "scan"])
def test_both_forms_are_the_equations_with_every_gradient(kind, plain, cell, form, name):
    rnn = kind(3, 4, **form, dtype=torch.float64)
    x, layers = torch.randn(6, 2, 3, dtype=torch.float64), rnn.num_layers * (1 + rnn.bidirectional)
    h = torch.randn(layers, 2, 4, dtype=torch.float64)
    leaves = [each.requires_grad_() for each in (x, h, *rnn.parameters())]
    with backend(name):
        output, final = rnn(x.transpose(0, 1) if rnn.batch_first else x, h)
        results = [output.transpose(0, 1) if rnn.batch_first else output, final]
        gradients = torch.autograd.grad(sum(part.sin().sum() for part in results), leaves)
    columns = [recur(rnn, x[:, n], h[:, n]) for n in range(2)]
    expected = [torch.stack(parts, 1) for parts in zip(*columns, strict=True)]
    torch.testing.assert_close(results, expected, rtol=0, atol=1e-12)
    expected_gradients = torch.autograd.grad(sum(part.sin().sum() for part in expected), leaves)
    torch.testing.assert_close(gradients, expected_gradients, rtol=0, atol=1e-12)


@each_kind
@pytest.mark.parametrize("name", ["cpu_loop", "parallel_scan"], ids=["loop", "scan"])
def test_second_derivatives(kind, plain, cell, name):
    rnn, x = kind(2, 2, dtype=torch.float64), torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    names, values = zip(*rnn.named_parameters(), strict=True)

    def run(x, *values):
        return functional_call(rnn, dict(zip(names, values, strict=True)), (x,))

    with backend(name):
        assert torch.autograd.gradcheck(run, (x, *values)) and torch.autograd.gradgradcheck(run, (x, *values))


@each_kind
def test_a_loop_of_cells_is_the_layer(kind, plain, cell):
    rnn, one = kind(3, 4, dtype=torch.float64), cell(3, 4, dtype=torch.float64)
    one.load_state_dict({name.replace("_l0", ""): value for name, value in rnn.state_dict().items()})
    x, h = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    bound, outputs = one.bind(), []
    for x_t in x:
        h = bound(x_t, h)
        outputs.append(h)
    start = rnn(x)[0][0]
    torch.testing.assert_close(rnn(x[:1])[0][0], one(x[0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(one(x[0, 0]), start[0], rtol=0, atol=1e-12)
    first = bound(x[0], torch.zeros_like(h))
    assert torch.equal(first, one(x[0]))
    again, final = rnn(x[1:], outputs[0].unsqueeze(0))
    torch.testing.assert_close(again, torch.stack(outputs[1:]), rtol=0, atol=1e-12)
    torch.testing.assert_close(final[0], h, rtol=0, atol=1e-12)


@each_kind
def test_unbatched_and_packed_inputs_are_each_sequence_alone(kind, plain, cell):
    rnn, sequences = kind(3, 4, 2, bidirectional=True, dtype=torch.float64), [torch.randn(t, 3) for t in (2, 5, 3)]
    sequences, h = [each.double() for each in sequences], torch.randn(4, 3, 4, dtype=torch.float64)
    output, final = rnn(pack_sequence(sequences, enforce_sorted=False), h)
    for n, (sequence, found) in enumerate(zip(sequences, unpack_sequence(output), strict=True)):
        expected, state = rnn(sequence, h[:, n])
        torch.testing.assert_close([found, final[:, n]], [expected, state], rtol=0, atol=1e-12)


@each_kind
def test_a_reset_is_two_sequences(kind, plain, cell):
    rnn, x, mask = kind(3, 4, bidirectional=True), torch.randn(6, 3), torch.zeros(6, dtype=torch.bool)
    mask[2] = True
    output, _ = rnn(x, reset=mask)
    torch.testing.assert_close(output, torch.cat([rnn(x[:2])[0], rnn(x[2:])[0]]))


@each_kind
def test_it_has_the_function_of_the_plain_layer_of_the_same_seed_and_converts_both_ways(kind, plain, cell):
    modules = []
    for cls in (kind, plain):
        torch.manual_seed(0)
        modules.append(cls(3, 4, 2, bidirectional=True))
    ours, other = modules
    x = torch.randn(5, 2, 3)
    expected = other(x)
    torch.testing.assert_close(ours(x), expected)
    folded, back = remove_weight_norm(ours), weight_normalize(other)
    assert type(folded) is plain and type(back) is kind
    torch.testing.assert_close((folded(x), back(x)), (expected, expected))
    kind(3, 4, 2, bidirectional=True).load_state_dict(other.state_dict())
    plain(3, 4, 2, bidirectional=True).load_state_dict(state_dict_as(ours, "plain"))
    one = cell(3, 4)
    assert type(weight_normalize(remove_weight_norm(one))) is cell
    torch.testing.assert_close(remove_weight_norm(one)(x[0]), one(x[0]))


@each_kind
def test_one_scale_for_each_unit_of_each_gate(kind, plain, cell):
    rnn, x = kind(3, 4, 2, bidirectional=True), torch.randn(5, 2, 3)
    for k, gate in enumerate(GATES[rnn.kind]):
        view = rnn.gate_g(gate, layer=1, reverse=True)
        assert torch.equal(view, rnn.weight_ih_l1_reverse_g[4 * k : 4 * k + 4])
    before = rnn(x)[0]
    with torch.no_grad():
        rnn.gate_g("new", layer=1).zero_()
        rnn.bias_ih_l1[-4:] = 0
    assert not rnn(x)[0][..., :4].any() and torch.equal(rnn(x)[0][..., 4:], before[..., 4:])
    assert cell(3, 4).gate_g("new").shape == (4,)
    with pytest.raises(ValueError, match=f"gate must be one of {', '.join(GATES[rnn.kind])}"):
        rnn.gate_g("reset")
    with pytest.raises(ValueError, match=r"layer must be in 0…1, got 2"):
        rnn.gate_g("new", layer=2)
    with pytest.raises(ValueError, match="no reverse direction"):
        kind(3, 4).gate_g("new", reverse=True)


@each_kind
def test_dropout_lies_between_layers_and_in_training_alone(kind, plain, cell):
    rnn, x = kind(3, 4, 2, dropout=1.0), torch.randn(5, 2, 3)
    with torch.no_grad():
        for name, bias in rnn.named_parameters():
            if name.startswith("bias"):
                bias.zero_()
    assert not rnn(x)[0].any() and rnn.eval()(x)[0].all()


@each_class
def test_copies_and_pickles(cls):
    module, x = cls(3, 4), torch.randn(5, 3)
    expected = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(other(x), expected)
    assert repr(module) == f"{cls.__name__}(3, 4)"
    assert cls(3, 4, device="meta")(x.to("meta"))[0].is_meta


@each_kind
def test_graphs_hold_it_whole(kind, plain, cell):
    rnn, x = kind(3, 4, bidirectional=True, dtype=torch.float64), torch.randn(3, 2, 3, dtype=torch.float64)
    h = torch.randn(2, 2, 4, dtype=torch.float64)
    leaves = [x.requires_grad_(), *rnn.parameters()]
    torch._dynamo.reset()
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    results = [compiled(x, h), rnn(x, h)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(output.sin().sum(), leaves) for output, _ in results]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(rnn, (x.detach(), h), dynamic_shapes=({1: batch}, {1: batch}))
    wider = torch.randn(3, 5, 3, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(program.module()(*wider), rnn(*wider), rtol=0, atol=1e-12)
    recorded = torch.fx.symbolic_trace(nn.Sequential(kind(3, 4)))
    assert [node.op for node in recorded.graph.nodes] == ["placeholder", "call_module", "output"]


@each_kind
def test_the_transforms_of_torch_func(kind, plain, cell):
    rnn, x = kind(3, 4, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    parameters = dict(rnn.named_parameters())

    def loss(parameters, x):
        return functional_call(rnn, parameters, (x,))[0].sin().sum()

    expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
    found = grad(loss)(parameters, x)
    torch.testing.assert_close(list(found.values()), list(expected), rtol=0, atol=1e-12)
    each = vmap(grad(loss), (None, 1))(parameters, x)  # of each sequence alone
    torch.testing.assert_close([part.sum(0) for part in each.values()], list(expected), rtol=0, atol=1e-12)
    tangent = torch.randn_like(x)
    _, forward = jvp(lambda x: loss(parameters, x), (x,), (tangent,))
    (slope,) = torch.autograd.grad(loss(parameters, x.requires_grad_()), x)
    torch.testing.assert_close(forward, (slope * tangent).sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: WNMinGRU(0, 4), ValueError, "input_size must be greater than zero, got 0 in WNMinGRU"),
        (lambda: WNMinGRU(3, 4.0), TypeError, "hidden_size should be of type int, got: float in WNMinGRU"),
        (lambda: MinGRU(3, 4, bias=1), TypeError, "bias should be of type bool, got: int in MinGRU"),
        (lambda: MinGRU(3, 4, 2, dropout=2), ValueError, r"dropout should be a number in range \[0, 1\]"),
        (lambda: WNMinGRU(3, 4)(torch.zeros(2, 2, 5)), ShapeError, "Expected 3, got 5 in WNMinGRU"),
        (lambda: WNMinLSTM(3, 4)(torch.zeros(2, 2, 3), torch.zeros(1, 2, 5)), ShapeError, "Expected hidden size"),
        (lambda: WNMinLSTM(3, 4)(torch.zeros(2, 3), (1, 2)), TypeError, "each state must be a tensor, got tuple"),
        (lambda: MinGRU(3, 4)(torch.zeros(2, 3).double()), ValueError, "does not match weight dtype"),
        (
            lambda: WNMinGRU(3, 4)(torch.zeros(2, 3), torch.zeros(1, 4).double()),
            RuntimeError,
            "different dtypes; WNMinGRU: the state must have the input's dtype torch.float32, got torch.float64",
        ),
        (lambda: wnseq.WNMinGRUCell(3, 4)(torch.zeros(1, 1, 3)), ShapeError, "Expected input to be 1D or 2D, got 3D"),
        (lambda: wnseq.MinGRUCell(3, 4)(torch.zeros(2)), ShapeError, "inconsistent input_size: got 2 expected 3"),
        (lambda: wnseq.MinGRUCell(3, 4)([1, 2, 3]), TypeError, "MinGRUCell: input must be a tensor, got list"),
        (
            lambda: wnseq.MinLSTMCell(3, 4)(torch.zeros(2, 3), torch.zeros(4)),
            ShapeError,
            r"the state must have shape \(2, 4\) with this input, got \(4,\)",
        ),
        (
            lambda: wnseq.MinLSTMCell(3, 4)(torch.zeros(3), torch.zeros(4).double()),
            ValueError,
            "the state must have the weights' dtype torch.float32, got torch.float64",
        ),
    ],
)
def test_what_is_wrong_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_dropout_in_one_layer_warns():
    with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1"):
        WNMinGRU(3, 4, dropout=0.5)


def test_a_start_from_data_skips_it_and_says_so():
    model = nn.Sequential(wnseq.WNLinear(3, 3), WNMinGRU(3, 4))
    assert wnseq.data_free_init(model).skipped == {"1": "WNMinGRU has no pre-activation to set"}
