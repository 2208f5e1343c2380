"""The probes of torch's private names: each is found here, and where one is missing public functions give the same."""

import importlib.util
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence

from wnseq import WNGRU, WNLSTM, _torch_internals, functional
from wnseq._recurrence import cpu_loops, custom_ops, matmul, single_step, torch_kernel
from wnseq._torch_internals import has_vmap_or_jvp, is_recording, is_tracing, needs_grad

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inside torch
needs_onednn = pytest.mark.skipif(
    not _torch_internals.HAS_ONEDNN or not _torch_internals.HAS_MKL_PREPACKED,
    reason="this torch has no oneDNN or no MKL",
)
NAMES = {  # what is missing: where it is, and what the warning calls it
    "transforms": (torch._C, "_are_functorch_transforms_active", "torch._C._are_functorch_transforms_active"),
    "level": (forward_ad, "_current_level", "torch._C._are_functorch_transforms_active"),
    "stack": (torch._C, "_functorch", "torch._C._functorch"),
    "check": (torch, "_check", "torch._check"),
    "weight norm": (torch, "_weight_norm_interface", "torch._weight_norm_interface"),
    "storage": (torch._C, "_storage_Use_Count", "torch._C._storage_Use_Count"),
    "products": (torch.ops, "mkldnn", "torch.ops.mkldnn._linear_pointwise"),
    "products of MKL": (torch.ops, "mkl", "torch.ops.mkl._mkl_linear"),
    "lstm": (torch.ops, "aten", "torch.ops.aten.mkldnn_rnn_layer"),
}


def load():
    """Run the module's probes once more, in a module of its own."""
    spec = importlib.util.spec_from_file_location("probed_again", _torch_internals.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_without(name, monkeypatch):
    place, attribute, _ = NAMES[name]
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if place is torch.ops:  # makes what is asked of it
            patch.setattr(place, attribute, SimpleNamespace())
        else:
            patch.delattr(place, attribute)
        module = load()
    assert [warning.category for warning in caught] == [RuntimeWarning]
    return module, str(caught[0].message)


def outcomes(function, x):
    """Call a function of a tensor plainly, under each kind of transform, and with a tangent."""
    seen = {}

    def note(name):
        def call(x):
            seen[name] = function(x)
            return x.sum()

        return call

    note("plain")(x)
    vmap(note("vmap"))(x)
    grad(note("grad"))(x)
    jvp(note("jvp"), (x,), (x,))
    vmap(grad(note("both")))(x)
    with forward_ad.dual_level():
        note("tangent")(forward_ad.make_dual(x, x))
    return seen


# ---- the probes


def test_nothing_is_missing_here():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load()
    assert found.HAS_FUSED_WEIGHT_NORM
    assert found.HAS_ONEDNN is found.HAS_ONEDNN_LSTM is torch.backends.mkldnn.is_available()
    assert found.HAS_MKL_PREPACKED is torch.backends.mkl.is_available()


def test_a_probe_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    load()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_probe_runs_on_a_cpu_whatever_the_defaults_are():
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        torch.set_default_dtype(torch.float64)
        load()


@needs_onednn
@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_named_in_one_warning(name, monkeypatch):
    _, text = load_without(name, monkeypatch)
    assert NAMES[name][2] in text.partition(" or has changed")[0].partition(" lacks ")[2].split(", ")
    assert "wnseq uses public functions of torch instead" in text


@needs_onednn
def test_an_operator_that_computes_something_else_is_not_used(monkeypatch):
    def product(x, w, *rest):
        return x @ w.mT + 1

    other = SimpleNamespace(
        _linear_pointwise=SimpleNamespace(default=product),
        _reorder_linear_weight=SimpleNamespace(default=lambda w, rows: w),
        _is_mkldnn_bf16_supported=lambda: True,
    )
    monkeypatch.setattr(torch.ops, "mkldnn", other)
    with pytest.warns(RuntimeWarning, match="has changed it"):
        assert not load().HAS_ONEDNN


def test_classes_without_a_public_name():
    layer = parametrizations.weight_norm(nn.Linear(2, 3))
    assert isinstance(layer.parametrizations.weight[0], _torch_internals.WeightNormParametrization)
    for norm in (nn.BatchNorm1d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.LazyBatchNorm2d()):
        assert isinstance(norm, _torch_internals.BatchNormBase)
    assert not isinstance(nn.LayerNorm(2), _torch_internals.BatchNormBase)


# ---- is something recording?


def test_what_records():
    recording = {"plain": False, "vmap": True, "grad": True, "jvp": True, "both": True, "tangent": True}
    assert outcomes(is_recording, torch.ones(2, 3)) == recording
    kinds = {"plain": False, "vmap": True, "grad": False, "jvp": True, "both": True, "tangent": False}
    assert outcomes(has_vmap_or_jvp, torch.ones(2, 3)) == kinds


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_captured_graph_records():
    seen = []

    def note(x):
        seen.append((is_tracing(), is_recording(x)))
        return x + 1

    torch.jit.trace(note, torch.ones(2), check_trace=False)
    assert seen == [(True, True)]
    compiled = torch.compile(lambda x: x * is_tracing() * is_recording(x), backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(2)), torch.ones(2))
    assert not is_tracing()


def test_what_needs_a_gradient():
    x, w = torch.ones(2), torch.ones(2, requires_grad=True)
    assert needs_grad(x, None, w) and not needs_grad(x, None)
    with torch.no_grad():
        assert not needs_grad(w)


@needs_onednn
@pytest.mark.parametrize("name", ["transforms", "level"])
def test_transforms_are_seen_by_their_tensors(name, monkeypatch):
    found, _ = load_without(name, monkeypatch)
    x = torch.ones(2, 3)
    assert outcomes(found.is_recording, x) == outcomes(is_recording, x)
    assert not found.is_recording(None, x)


@needs_onednn
def test_vmap_is_seen_by_its_tensors(monkeypatch):
    found, _ = load_without("stack", monkeypatch)
    seen = outcomes(found.has_vmap_or_jvp, torch.ones(2, 3))
    assert seen == {"plain": False, "vmap": True, "grad": True, "jvp": True, "both": True, "tangent": False}


@needs_onednn
@pytest.mark.parametrize("cls", [WNLSTM, WNGRU])
def test_an_ensemble_is_the_same_without_the_private_names(cls, monkeypatch):
    modules, x = [cls(3, 4) for _ in range(2)], torch.randn(5, 2, 3)
    stacked, _ = torch.func.stack_module_state(modules)

    def ensemble():
        return vmap(lambda parameters: functional_call(modules[0], parameters, (x,))[0])(stacked)

    expected = ensemble()
    found, _ = load_without("transforms", monkeypatch)
    without_stack, _ = load_without("stack", monkeypatch)
    for module in (functional, matmul, cpu_loops):
        monkeypatch.setattr(module, "is_recording", found.is_recording)
    for module in (single_step, torch_kernel):
        monkeypatch.setattr(module, "has_vmap_or_jvp", without_stack.has_vmap_or_jvp)
    torch.testing.assert_close(ensemble(), expected)
    torch.testing.assert_close(expected, torch.stack([module(x)[0] for module in modules]))


# ---- the other fallbacks


@needs_onednn
def test_weight_norm_is_the_same_without_torchs_kernel(monkeypatch):
    assert not load_without("weight norm", monkeypatch)[0].HAS_FUSED_WEIGHT_NORM

    def results():
        w = functional.weight_norm(v, g)
        return [w, *torch.autograd.grad(w.sin().sum(), [v, g])]

    v, g = torch.randn(3, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    expected = results()
    monkeypatch.setattr(functional, "HAS_FUSED_WEIGHT_NORM", False)
    torch.testing.assert_close(results(), expected)


@needs_onednn
def test_products_are_the_same_without_onednn(monkeypatch):
    found, _ = load_without("products", monkeypatch)
    assert not found.HAS_ONEDNN and not found.HAS_ONEDNN_BF16
    x, w = torch.randn(300, 64), torch.randn(256, 64)

    def results():
        d = matmul.linear(x, w)
        return [d, matmul.prepacked_linear(w, None, 300)(x), matmul.weight_grad(d, x), matmul.memory_bound_linear(x, w)]

    expected = results()
    monkeypatch.setattr(matmul, "HAS_ONEDNN", False)
    torch.testing.assert_close(results(), expected, rtol=1e-5, atol=1e-3)


@needs_onednn
def test_the_lstm_operator_is_the_same_without_that_of_onednn(monkeypatch):
    assert not load_without("lstm", monkeypatch)[0].HAS_ONEDNN_LSTM
    x, h, c = torch.randn(4, 3, 5), torch.randn(3, 6), torch.randn(3, 6)
    weights = [torch.randn(24, 5, requires_grad=True), torch.randn(24, 6, requires_grad=True)]

    def results():
        output, *states = custom_ops.lstm(x, None, None, h, c, *weights, None, None, None, False, False)[:3]
        return [output, *states, *torch.autograd.grad(output.sin().sum(), weights)]

    expected = results()
    monkeypatch.setattr(custom_ops, "HAS_ONEDNN_LSTM", False)
    torch.testing.assert_close(results(), expected)


@needs_onednn
def test_sizes_are_checked_without_torchs_check(monkeypatch):
    found, _ = load_without("check", monkeypatch)
    found.check_size(True)
    with pytest.raises(RuntimeError, match="sizes differ that must be equal"):
        found.check_size(False)


def test_a_compiled_packed_input_with_states_is_checked():
    module = WNGRU(3, 4)
    packed = PackedSequence(torch.randn(3, 3), torch.tensor([2, 1]))
    run = torch.compile(module, backend="eager", fullgraph=True)
    h = torch.randn(1, 2, 4)
    torch.testing.assert_close(run(packed, h)[1], module(packed, h)[1])


def test_a_constant_is_marked_as_torch_s_decorator_marks_it():
    """Which imports the compiler, and so does not decorate what ``import wnseq`` defines."""
    marks = (_torch_internals.constant_in_graph, torch.compiler.assume_constant_result)
    ours, torchs = (mark(lambda: None) for mark in marks)
    assert vars(ours) == vars(torchs) != {}
