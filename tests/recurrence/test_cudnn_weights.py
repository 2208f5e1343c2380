"""Weights laid out for cuDNN: torch's order, one split, nothing read back from the device. CUDA itself: tests/cuda."""

import pytest
import torch
from cases import each_sequence, tensors
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from wnseq import WNGRU, WNLSTM, weight_norm
from wnseq._recurrence import torch_kernel
from wnseq._recurrence.backend import backend
from wnseq._recurrence.cudnn_weights import one_buffer, uses_cudnn


def places_of(module):
    return module.num_layers * (1 + module.bidirectional)


@each_sequence
def test_matrices_lie_first_and_biases_after_them(case):
    plain = case.twin(*case.args, **case.kwargs)
    flat = [weight.detach() for weight in plain._flat_weights]
    views = one_buffer(flat, places_of(plain))
    torch.testing.assert_close(views, flat, rtol=0, atol=0)
    names = plain._flat_weights_names
    expected = [name for name in names if name.startswith("weight")] + [n for n in names if n.startswith("bias")]
    placed = sorted(zip([view.storage_offset() for view in views], names, views, strict=True))
    assert [name for _, name, _ in placed] == expected
    ends = [offset + view.numel() for offset, _, view in placed]
    assert [offset for offset, _, _ in placed] == [0, *ends[:-1]]
    assert len({view.untyped_storage().data_ptr() for view in views}) == 1
    assert all(view.is_contiguous() for view in views)
    bias = 2 * places_of(plain) * flat[0].shape[0]  # for which cuDNN has room in any case
    assert views[0].untyped_storage().nbytes() // 4 == ends[-1] + (0 if plain.bias else bias)
    assert one_buffer(views, places_of(plain)) is views


def test_in_autocast_the_buffer_is_what_is_cast():
    flat = [weight.detach() for weight in nn.LSTM(5, 6)._flat_weights]
    for weights in (flat, one_buffer(flat, 1)):
        views = one_buffer(weights, 1, autocast=True)
        assert {view.dtype for view in views} == {torch.float16}
        torch.testing.assert_close(views, [weight.half() for weight in flat], rtol=0, atol=0)
    assert one_buffer([weight.double() for weight in flat], 1, autocast=True)[0].dtype == torch.float64
    mixed = [flat[0].half(), *flat[1:]]
    assert one_buffer(mixed, 1) is mixed


class Calls(TorchDispatchMode):
    """Counts what reaches the device."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func] = self.counts.get(func, 0) + 1
        return func(*args, **(kwargs or {}))


def test_one_concatenation_each_way():
    flat = [weight.detach().requires_grad_() for weight in nn.GRU(5, 6, 2, bidirectional=True)._flat_weights]
    aten = torch.ops.aten
    with Calls() as ahead:
        views = one_buffer(flat, 4)
    total = sum((k + 1) * view.sin().sum() for k, view in enumerate(views))
    with Calls() as back:
        gradients = torch.autograd.grad(total, flat)
    assert ahead.counts[aten.cat.default] == back.counts[aten.cat.default] == 1
    assert aten.copy_.default not in back.counts and aten.clone.default not in back.counts
    torch.testing.assert_close(gradients, tuple((k + 1) * weight.cos() for k, weight in enumerate(flat)))


@each_sequence
def test_a_layer_runs_the_same_with_every_gradient(case, monkeypatch):
    module, x = case.make(dtype=torch.float64), case.input(dtype=torch.float64)
    with torch.no_grad():
        module.v_and_g(module.weight_names[0])[0][0] = 0
        module.accept_v_and_g()
    results = []
    for laid_out in (False, True):
        monkeypatch.setattr(torch_kernel, "uses_cudnn", lambda call, laid_out=laid_out: laid_out)
        with backend("torch"):
            found = tensors(module(x))
        leaves = list(module.parameters())
        first = torch.autograd.grad(sum(part.sin().sum() for part in found), leaves, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), leaves)
        results.append([*found, *first, *second])
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [WNLSTM, WNGRU])
def test_forward_and_backward_without_values(kind, monkeypatch):
    monkeypatch.setattr(torch_kernel, "uses_cudnn", lambda call: True)
    module = kind(5, 6, 2, bidirectional=True, device="meta")
    output, _ = module(torch.empty(4, 3, 5, device="meta"))
    output.sum().backward()
    assert output.is_meta and output.shape == (4, 3, 12)
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in module.parameters())


@torch.no_grad()
def test_the_composition_reads_nothing_back_from_the_device():
    """A fake tensor of CUDA's runs by the rules of a device, and raises where a value is read."""
    with FakeTensorMode():
        pairs = [(torch.empty(24, size, device="cuda"), torch.empty(24, device="cuda")) for size in (5, 6)]
        with pytest.raises(DataDependentOutputException):
            bool(pairs[0][1].sum() > 0)
        views = one_buffer([*(weight_norm(v, g) for v, g in pairs), pairs[0][1], pairs[1][1]], 1, autocast=True)
    assert [view.shape for view in views] == [(24, 5), (24, 6), (24,), (24,)]
    assert all(view.is_cuda and view.dtype == torch.float16 for view in views)


def test_on_a_cpu_weights_stay_where_they_are(monkeypatch):
    seen = []
    monkeypatch.setattr(torch_kernel, "uses_cudnn", lambda call: seen.append(uses_cudnn(call)))
    WNLSTM(5, 6)(torch.randn(4, 3, 5))
    assert seen == [False]
