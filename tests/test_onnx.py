"""What the ONNX exporter makes of our modules, run by another runtime than torch."""

import inspect
import io
import math
from collections import Counter

import pytest
import torch
from cases import SEQUENCE, covering_cases, tensors
from torch import nn
from torch.export import Dim
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import wnseq.onnx
from wnseq.nn import RECURRENT_LAYERS, WNMinGRU, WNMinLSTM
from wnseq.recipes import language_model

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'wnseq[export]'")
pytest.importorskip("onnxscript", reason="pip install 'wnseq[export]'")
pytestmark = pytest.mark.filterwarnings(  # what the exporter says of itself, and of two inputs with a batch size each
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:# The axis name:UserWarning"
)
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


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


def session(program):
    file = io.BytesIO()
    program.save(file)
    return onnxruntime.InferenceSession(file.getvalue())


def run(session, *arguments):
    names = [each.name for each in session.get_inputs()]
    inputs = [each.numpy() for each in tensors(arguments)]
    return [torch.from_numpy(each) for each in session.run(None, dict(zip(names, inputs, strict=True)))]


class Model(nn.Module):
    """A language model that is given no states."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(11, 5), wnseq.WNLSTM(5, 6, 2), nn.Linear(6, 11)

    def forward(self, tokens):
        return self.out(self.rnn(self.embed(tokens))[0])


def test_one_node_a_layer_and_direction_right_at_other_lengths():
    """Every form, with states, and a model that has none."""
    cases = [case for case in covering_cases() if not case.kwargs.get("proj_size")]
    modules = Each([*(case.make() for case in cases), Model()]).eval()

    def inputs(steps, batch):
        given = [(case.input(batch=batch, steps=steps), case.states(batch)) for case in cases]
        return (*given, (torch.randint(11, (steps, batch)),))

    steps, batch = Dim("steps"), Dim("batch")
    shapes = []
    for case in cases:
        states = ({1: batch}, {1: batch}) if case.has_cell_state else {1: batch}
        shapes.append(({0: batch, 1: steps} if case.kwargs.get("batch_first") else {0: steps, 1: batch}, states))
    program = export(modules, inputs(4, 3), ((*shapes, ({0: steps, 1: batch},)),))
    found = Counter(node.op_type for node in program.model.graph)
    nodes = Counter({"LSTM": 2})  # of the model
    for case in cases:
        nodes[OPERATORS[case.kind]] += case.kwargs["num_layers"] * (1 + case.kwargs["bidirectional"])
    assert {kind: found[kind] for kind in (*nodes, "Loop", "Scan")} == {**nodes, "Loop": 0, "Scan": 0}
    other = session(program)
    for sizes in ((9, 2), (1, 1), (4, 3)):
        arguments = inputs(*sizes)
        with torch.no_grad():
            expected = modules(*arguments)
        parts = iter(run(other, *arguments))
        for name, results in zip([*(case.name for case in cases), "model"], expected, strict=True):
            for result in tensors(results):
                assert (next(parts) - result).abs().max() <= 1e-5, (name, sizes)


def cause(error):
    """Tell the first error of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def test_an_export_that_is_refused_names_the_reason():
    module = wnseq.WNGRU(5, 6).eval()

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, data, batch_sizes):
            return self.inner(PackedSequence(data, batch_sizes))[0].data

    packed = pack_padded_sequence(torch.randn(4, 3, 5), [4, 3, 3])
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as raised:
        export(Packed().eval(), (packed.data, packed.batch_sizes), ({0: Dim("rows")}, {0: Dim("steps")}))
    assert isinstance(cause(raised.value), ValueError)
    assert "wnseq.gru: an ONNX recurrence takes padded sequences" in str(cause(raised.value))


@pytest.mark.parametrize(
    ("kind", "argument", "reason"),
    [
        ("lstm", "w_hr", "wnseq.lstm: ONNX has no LSTM with a projection"),
        *((kind, "batch_sizes", f"wnseq.{kind}: an ONNX recurrence takes padded sequences") for kind in SEQUENCE),
    ],
)
def test_a_node_that_onnx_lacks_is_refused(kind, argument, reason):
    translate = wnseq.onnx.translations()[getattr(torch.ops.wnseq, kind).default]
    arguments = dict.fromkeys(inspect.signature(translate).parameters)
    with pytest.raises(ValueError, match=reason):
        translate(**{**arguments, argument: torch.tensor([1])})


@pytest.mark.parametrize("kind", ["mingru", "minlstm", "mlstm"])
def test_a_recurrence_without_a_node_is_refused_before_it_is_exported(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it was exported"))
    network = nn.ModuleDict({"rnn": RECURRENT_LAYERS[kind, "weight"](4, 4)})
    with pytest.raises(ValueError, match="there is no ONNX node for this recurrence"):
        wnseq.onnx.export_language_model(network, tmp_path / "a.onnx")


def test_logits_that_are_not_finite_are_refused(tmp_path):
    network = language_model.Network(5, "rnn", "weight", 4, 4, 1, 0.0, True, 1.0).eval()
    network.decoder.bias.data[0] = math.nan
    with pytest.raises(ValueError, match="logits that differ from torch's by nan"):
        wnseq.onnx.export_language_model(network, tmp_path / "a.onnx")


def test_resets_are_those_of_torch_at_other_lengths():
    """Layers of every kind, in both directions, with and without biases, normalised and plain."""
    torch.manual_seed(0)
    plain = {"bias": False, "batch_first": True}
    modules = EachWithResets(
        [
            wnseq.WNRNN(5, 6, bidirectional=True),
            wnseq.WNRNN(5, 6, nonlinearity="relu", **plain),
            wnseq.WNLSTM(5, 6, bidirectional=True),
            wnseq.WNLSTM(5, 6, **plain),
            wnseq.WNGRU(5, 6, num_layers=2, bidirectional=True),
            wnseq.WNGRU(5, 6, **plain),
            wnseq.LSTM(5, 6),
            wnseq.GRU(5, 6),
            wnseq.RNN(5, 6),
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


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("module", [WNMinGRU(3, 4), WNMinLSTM(3, 4)], ids=["WNMinGRU", "WNMinLSTM"])
def test_a_scan_is_exported_for_one_length_alone(module):
    x = torch.randn(5, 2, 3)
    with pytest.raises(Exception, match="is exported for one length"):
        export(module.eval(), (x,), ({0: Dim("steps")},))
    with pytest.raises(RuntimeError, match="is exported for one length"):
        torch.jit.trace(module, (x,))
    program = export(module, (x,), None)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), module(x)[0].detach())
