"""Graphs of whole modules: compiled, exported, traced, scripted, and the operators that are in them."""

import io
import shutil
from dataclasses import replace

import pytest
import torch
from cases import (
    FORMS,
    SEQUENCE,
    SWITCHES,
    Case,
    all_pairs,
    cell_cases,
    each,
    each_sequence,
    sequence_case,
    tensors,
)
from torch import nn
from torch._dynamo import lookup_backend
from torch.export import Dim
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import wnseq

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inside torch, and asked for below
ONE_WAY = [  # a graph takes as long to compile as it has layers and directions, and each_sequence has both
    Case(kind, *SEQUENCE[kind], kwargs=form)
    for kind, form in (("lstm", {}), ("lstm", {"proj_size": 3}), ("gru", {}), ("rnn", {}))
]
BOTH_WAYS = [replace(case, kwargs={"bidirectional": True, **case.kwargs}) for case in ONE_WAY]
both_ways = each(BOTH_WAYS)
FORMS_OF_GRAPHS = [form for form in FORMS if form != ("rnn", {"nonlinearity": "relu"})]  # a flag of the operator
in_a_graph = each([sequence_case(**row) for row in all_pairs({"form": FORMS_OF_GRAPHS, **SWITCHES})])


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


def total(result):
    return sum((k + 1) * tensor.sin().sum() for k, tensor in enumerate(tensors(result)))


def assert_same(case, function, twin, module, x, *states, **tolerance):
    """Compare results and all gradients."""
    results = function(x, *states), twin(x, *states)
    leaves = [leaf for leaf in [x, *tensors(states), *module.parameters()] if leaf.requires_grad]
    gradients = [torch.autograd.grad(total(result), leaves) for result in results]
    torch.testing.assert_close(tensors(results[0]), tensors(results[1]), **tolerance)
    torch.testing.assert_close(*gradients, **tolerance)


def nodes(graph):
    """Name the operators of ours in a graph."""
    return [str(node.target).split(".")[1] for node in graph.nodes if str(node.target).startswith("wnseq.")]


def one_for_each_layer_and_direction(case):
    return [case.kind] * case.kwargs["num_layers"] * (1 + case.kwargs["bidirectional"])


# ---- torch.compile


@in_a_graph
def test_compiled_between_layers(case):
    module, x = case.make(dtype=torch.float64), case.input(dtype=torch.float64).requires_grad_()
    states = tuple(state.requires_grad_() for state in tensors(case.states(3, torch.float64)))
    states = states if case.has_cell_state else states[0]
    graphs = []

    def look(graph, example):
        graphs.append(nodes(graph.graph))
        return lookup_backend("aot_eager")(graph, example)

    run = torch.compile(module, fullgraph=True, backend=look)
    assert_same(case, run, module, module, x, states, rtol=0, atol=1e-12)
    assert graphs == [one_for_each_layer_and_direction(case)]


@each(cell_cases()[:6:2])  # one of each class
def test_compiled_cells(case):
    module, x = case.make(), case.input()

    def call_and_loop(x):
        step, state = module.bind(), None
        for _ in range(2):
            state = step(x, state)
        return module(x), state

    assert_same(case, compiled(call_and_loop), call_and_loop, module, x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("case", [Case(kind, *SEQUENCE[kind]) for kind in ("lstm", "gru")], ids=lambda case: case.name)
def test_compiled_for_inference(case, mode):
    module, x = case.make().eval(), case.input()
    with mode():
        torch.testing.assert_close(tensors(compiled(module)(x)), tensors(module(x)))


@each([case for case in ONE_WAY if "proj_size" not in case.kwargs])
def test_one_graph_for_every_length_and_batch_size(case):
    module = case.make()
    run = compiled(module, dynamic=True)
    run(case.input(batch=3, steps=4))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for steps, batch in ((7, 2), (9, 5)):
            x = case.input(batch=batch, steps=steps)
            assert_same(case, run, module, module, x)


@each(BOTH_WAYS[::2])  # the others with resets, in test_resets.py
def test_compiled_packed(case):
    module = case.make(dtype=torch.float64)
    packed = pack_padded_sequence(case.input(dtype=torch.float64), [2, 4, 3], enforce_sorted=False)
    run = compiled(module)
    states = case.states(3, torch.float64)  # test_exported_packed has none
    ours, expected = ([output.data, *tensors(state)] for output, state in (run(packed, states), module(packed, states)))
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(total(result), list(module.parameters())) for result in (ours, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("form", ["batched", "packed"])
@each(ONE_WAY[::2])
def test_compiled_under_autocast(case, form):
    module, x = case.make(), case.input()
    given = x if form == "batched" else pack_padded_sequence(x, [4, 3, 2])
    with torch.autocast("cpu", torch.bfloat16):
        results = [tensors(list(function(given))) for function in (compiled(module), module)]
    assert [part.dtype for part in results[0]] == [part.dtype for part in results[1]]
    torch.testing.assert_close(*results, rtol=0.05, atol=0.03)
    for ours, expected in zip(
        *(torch.autograd.grad(total(r), list(module.parameters())) for r in results), strict=True
    ):
        assert ours.dtype == expected.dtype
        assert (ours - expected).norm() <= 0.05 * expected.norm() + 1e-3


@pytest.mark.parametrize(("kind", "transform"), [("lstm", "vmap of grad"), ("gru", "vmap of grad"), ("rnn", "jvp")])
def test_transforms_of_functions_compile(kind, transform):
    module, x = SEQUENCE[kind][0](5, 6, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def loss(parameters, x):
        return total(functional_call(module, parameters, (x,)))

    def directional(x):
        return jvp(lambda x: loss(parameters, x), (x,), (x.cos(),))

    if transform == "jvp":
        function, arguments = directional, [x]
    else:
        function, arguments = vmap(grad(loss), (None, 0)), [parameters, torch.stack([x, x.sin()])]
    torch.testing.assert_close(compiled(function)(*arguments), function(*arguments))


def test_dropout_between_layers_compiles():
    module, x = wnseq.WNRNN(5, 6, num_layers=2, dropout=0.5), torch.randn(4, 3, 5)
    run = compiled(module)
    torch.manual_seed(1)
    first, second = tensors(run(x))[0], tensors(run(x))[0]
    assert not torch.equal(first, second)
    module.eval()
    torch.testing.assert_close(tensors(run(x)), tensors(module(x)))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, and there is no g++")
@each(BOTH_WAYS[::2])
def test_compiled_by_inductor(case):
    module, x = case.make(), case.input()
    assert_same(case, torch.compile(module, fullgraph=True), module, module, x)


def test_torch_says_that_it_compiles_no_second_derivative():
    module, x = wnseq.WNLSTM(5, 6), torch.randn(4, 3, 5, requires_grad=True)
    (first,) = torch.autograd.grad(total(compiled(module)(x)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        first.sum().backward()


# ---- torch.export


def lengths_and_batch(case):
    steps, batch = Dim("steps"), Dim("batch")
    states = {1: batch}
    x = {0: batch, 1: steps} if case.kwargs.get("batch_first") else {0: steps, 1: batch}
    return x, (states, states) if case.has_cell_state else states


@in_a_graph
def test_exported_saved_and_loaded_for_other_lengths_and_batch_sizes(case):
    module = case.make().eval()
    program = torch.export.export(module, (case.input(), case.states(3)), dynamic_shapes=lengths_and_batch(case))
    assert nodes(program.graph) == one_for_each_layer_and_direction(case)
    if case.kwargs["num_layers"] == 1:  # a file takes as long as the export; every form is here with one layer
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        program = torch.export.load(file)
    found = program.module()
    for steps, batch in ((9, 2), (1, 1), (4, 3)):
        x, states = case.input(batch=batch, steps=steps), case.states(batch)
        torch.testing.assert_close(tensors(found(x, states)), tensors(module(x, states)))


@both_ways
def test_an_exported_program_trains(case):
    module, x, states = case.make(), case.input(), case.states(3)
    program = torch.export.export(module, (x, states), dynamic_shapes=lengths_and_batch(case)).module()
    gradients = [
        dict(zip(names, torch.autograd.grad(total(each(x, states)), list(parameters)), strict=True))
        for each in (program, module)
        for names, parameters in [zip(*each.named_parameters(), strict=True)]
    ]
    torch.testing.assert_close(*gradients)


@both_ways
def test_exported_packed(case):
    module = case.make().eval()

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, data, batch_sizes):
            output, state = self.inner(PackedSequence(data, batch_sizes))
            return output.data, state

    first, second = (
        pack_padded_sequence(case.input(batch=len(lengths), steps=max(lengths)), lengths)
        for lengths in ([4, 3, 3], [7, 2, 2, 1])
    )
    shapes = ({0: Dim("rows")}, {0: Dim("steps")})
    program = torch.export.export(Packed(), (first.data, first.batch_sizes), dynamic_shapes=shapes).module()
    output, state = module(second)
    torch.testing.assert_close(tensors(program(*second[:2])), tensors((output.data, state)))


# ---- TorchScript and quantisation


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the checks of shapes, which a trace leaves out
@each_sequence
def test_traced_for_other_lengths_and_batch_sizes(case):
    module = case.make().eval()
    traced = torch.jit.trace(module, (case.input(),))
    for steps, batch in ((9, 2), (4, 3)):
        x = case.input(batch=batch, steps=steps)
        torch.testing.assert_close(tensors(traced(x)), tensors(module(x)))


@each_sequence
def test_scripted_without_weight_norm(case):
    module, x = case.make().eval(), case.input()
    scripted = torch.jit.script(
        nn.Sequential(wnseq.remove_weight_norm(module))
    )  # torch scripts a recurrence inside a module
    torch.testing.assert_close(tensors(scripted(x)), tensors(module(x)))


@pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",  # said once a process, and so by whichever test comes first
)
@each(BOTH_WAYS[::2])
def test_quantised_without_weight_norm(case):
    module, x = case.make().eval(), case.input()
    folded = nn.Sequential(wnseq.remove_weight_norm(module))  # torch replaces what is inside
    quantised = torch.ao.quantization.quantize_dynamic(folded, {nn.LSTM, nn.GRU})
    assert type(quantised[0]) not in (nn.LSTM, nn.GRU)
    torch.testing.assert_close(tensors(quantised(x)), tensors(module(x)), rtol=0, atol=0.03)
