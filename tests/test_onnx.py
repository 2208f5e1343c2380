"""What the ONNX exporter makes of our modules, run by another runtime than torch."""

import io
import logging

import pytest
import torch
from cases import SEQUENCE, Case, covering_cases, tensors
from torch import nn
from torch.export import Dim
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import wnseq.onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'wnseq[export]'")
pytest.importorskip("onnxscript", reason="pip install 'wnseq[export]'")
pytestmark = pytest.mark.filterwarnings(  # what the exporter says of itself, and of two inputs with a batch size each
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:# The axis name:UserWarning"
)
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
PROJECTED = Case("lstm", *SEQUENCE["lstm"], kwargs={"proj_size": 3})


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR, "torch.onnx")


def export(module, arguments, shapes):
    return torch.onnx.export(
        module,
        arguments,
        dynamo=True,
        dynamic_shapes=shapes,
        custom_translation_table=wnseq.onnx.translations(),
        verbose=False,
    )


class Each(nn.Module):
    """Many modules side by side, since an export takes seconds however small it is."""

    def __init__(self, modules):
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, *arguments):
        return tuple(module(*given) for module, given in zip(self.each, arguments, strict=True))


class EachWithResets(Each):
    """The same, each with a mask of resets."""

    def forward(self, *arguments):
        return tuple(module(x, reset=reset) for module, (x, reset) in zip(self.each, arguments, strict=True))


def export_cases(cases):
    steps, batch = Dim("steps"), Dim("batch")
    arguments, shapes = [], []
    for case in cases:
        states = ({1: batch}, {1: batch}) if case.has_cell_state else {1: batch}
        shapes.append(({0: batch, 1: steps} if case.kwargs.get("batch_first") else {0: steps, 1: batch}, states))
        arguments.append((case.input(), case.states(3)))
    modules = Each([case.make() for case in cases]).eval()
    return modules, export(modules, tuple(arguments), (tuple(shapes),))


def session(program):
    file = io.BytesIO()
    program.save(file)
    return onnxruntime.InferenceSession(file.getvalue())


def run(session, *arguments):
    names = [each.name for each in session.get_inputs()]
    inputs = [each.numpy() for each in tensors(arguments)]
    return [torch.from_numpy(each) for each in session.run(None, dict(zip(names, inputs, strict=True)))]


@pytest.mark.parametrize("kind", SEQUENCE)
def test_one_node_a_layer_and_direction_right_at_other_lengths(kind):
    cases = [case for case in covering_cases() if case.kind == kind and not case.kwargs.get("proj_size")]
    modules, program = export_cases(cases)
    kinds = [node.op_type for node in program.model.graph]
    nodes = sum(case.kwargs["num_layers"] * (1 + case.kwargs["bidirectional"]) for case in cases)
    assert kinds.count(OPERATORS[kind]) == nodes
    assert not {"Loop", "Scan"} & set(kinds)
    other = session(program)
    for steps, batch in ((9, 2), (1, 1), (4, 3)):
        arguments = [(case.input(batch=batch, steps=steps), case.states(batch)) for case in cases]
        with torch.no_grad():
            expected = modules(*arguments)
        found = iter(run(other, *arguments))
        for case, results in zip(cases, expected, strict=True):
            for result in tensors(results):
                error = (next(found) - result).abs().max()
                assert error <= 1e-5, (case.name, steps, batch)


def test_without_states_and_inside_a_model():
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn, self.out = nn.Embedding(11, 5), wnseq.WNLSTM(5, 6, 2), nn.Linear(6, 11)

        def forward(self, tokens):
            return self.out(self.rnn(self.embed(tokens))[0])

    model = Model().eval()
    program = export(model, (torch.randint(11, (4, 3)),), ({0: Dim("steps"), 1: Dim("batch")},))
    tokens = torch.randint(11, (7, 2))
    with torch.no_grad():
        torch.testing.assert_close(run(session(program), tokens), [model(tokens)], rtol=0, atol=1e-5)


def cause(error):
    """Tell the first error of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def test_a_projection_is_refused_with_the_reason():
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as raised:
        export_cases([PROJECTED])
    assert isinstance(cause(raised.value), ValueError)
    assert "wnseq.lstm: ONNX has no LSTM with a projection" in str(cause(raised.value))


@pytest.mark.parametrize("kind", SEQUENCE)
def test_a_packed_sequence_is_refused_with_the_reason(kind):
    module = SEQUENCE[kind][0](5, 6).eval()

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, data, batch_sizes):
            return self.inner(PackedSequence(data, batch_sizes))[0].data

    packed = pack_padded_sequence(torch.randn(4, 3, 5), [4, 3, 3])
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as raised:
        export(Packed().eval(), (packed.data, packed.batch_sizes), ({0: Dim("rows")}, {0: Dim("steps")}))
    assert f"wnseq.{kind}: an ONNX recurrence takes padded sequences" in str(cause(raised.value))


def test_resets_are_those_of_torch_at_other_lengths():
    """Layers of every kind, in both directions, with and without biases, normalised and plain."""
    torch.manual_seed(0)
    both = {"bidirectional": True, "num_layers": 2}
    modules = EachWithResets(
        [
            *(kind[0](5, 6, **both) for kind in SEQUENCE.values()),
            *(kind[0](5, 6, bias=False, batch_first=True) for kind in SEQUENCE.values()),
            wnseq.WNRNN(5, 6, nonlinearity="relu", bidirectional=True),
            wnseq.LSTM(5, 6, **both),
            wnseq.GRU(5, 6),
        ]
    ).eval()

    def inputs(steps, batch):
        given = []
        for module in modules.each:
            x, reset = torch.randn(steps, batch, 5), torch.rand(steps, batch) < 0.3
            given.append((x.transpose(0, 1), reset.T) if module.batch_first else (x, reset))
        return tuple(given)

    steps, batch = Dim("steps"), Dim("batch")
    forms = [{0: batch, 1: steps} if module.batch_first else {0: steps, 1: batch} for module in modules.each]
    program = export(modules, inputs(4, 3), (tuple((form, form) for form in forms),))
    other = session(program)
    for sizes in ((9, 2), (1, 1), (5, 3)):
        given = inputs(*sizes)
        with torch.no_grad():
            expected = tensors(modules(*given))
        torch.testing.assert_close(run(other, *given), expected, rtol=0, atol=1e-5)


def test_a_table_has_every_operator():
    assert {str(key) for key in wnseq.onnx.translations()} == {f"wnseq.{kind}.default" for kind in SEQUENCE}
