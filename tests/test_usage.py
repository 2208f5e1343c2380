"""Models that do more with a module than call it: they read a weight in their forward, prune or parametrise a bias."""

import copy
import pickle

import pytest
import torch
from cases import USAGES, tensors
from torch.func import functional_call, grad, vmap
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning",
    "ignore:.*torch.jit:DeprecationWarning",  # both of trace
    "ignore:The tensor attribute .* was assigned during export:UserWarning",  # by torch's pruning
)


def total(result):
    return sum(tensor.sin().sum() for tensor in tensors(result))


def gradients(model, result):
    return torch.autograd.grad(total(result), list(model.parameters()))


def assert_a_call(model, x, result):
    """Compare a result and its gradients with those of a call."""
    expected = model(x)
    torch.testing.assert_close(tensors(result), tensors(expected))
    torch.testing.assert_close(gradients(model, result), gradients(model, expected))


def by_compile(make, x):
    torch._dynamo.reset()
    model = make()
    assert_a_call(model, x, torch.compile(model, backend="aot_eager", fullgraph=True)(x))


def by_export(make, x):
    program = torch.export.export(make(), (x,)).module()
    torch.testing.assert_close(tensors(program(x)), tensors(make()(x)))


def by_trace(make, x):
    model = make()
    assert_a_call(model, x, torch.jit.trace(model, (x,))(x))


def by_checkpoint(make, x):
    model = make()
    assert_a_call(model, x, checkpoint(model, x, use_reentrant=False))


def by_copy(make, x):
    model = make()
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), AveragedModel(model)):
        torch.testing.assert_close(tensors(other(x)), tensors(expected))


def by_state_dict(make, x):
    model, other = make(), make(seed=1)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(tensors(other(x)), tensors(model(x)))


def loss_of(model):
    return lambda parameters, x: total(functional_call(model, parameters, (x,)))


def by_grad(make, x):
    model = make()
    found = grad(loss_of(model))(dict(model.named_parameters()), x)
    torch.testing.assert_close(tuple(found.values()), gradients(model, model(x)))


def by_vmap(make, x):
    model, xs = make(), torch.stack([x, x.cos()])
    found = vmap(grad(loss_of(model)), (None, 0))(dict(model.named_parameters()), xs)
    for k, x in enumerate(xs):
        torch.testing.assert_close(tuple(part[k] for part in found.values()), gradients(model, model(x)))


WAYS = {
    "compile": by_compile,
    "export": by_export,
    "trace": by_trace,
    "checkpoint": by_checkpoint,
    "state dict": by_state_dict,
    "grad": by_grad,
    "vmap": by_vmap,
    "copy": by_copy,  # not with a computed bias: torch's own modules cannot be copied then
}


def each_usage(*ways):
    """Return every usage in every way, but half of them in a graph, which takes long: each kind, and each use."""
    kinds, uses = (list(dict.fromkeys(getattr(usage, name) for usage in USAGES)) for name in ("kind", "way"))
    found = [
        pytest.param(usage, way, id=f"{usage.name}-{way}")
        for usage in USAGES
        for way in ways
        if (way != "copy" or usage.reads_weight)
        and (way not in ("compile", "export") or (kinds.index(usage.kind) + uses.index(usage.way)) % 2 == 0)
    ]
    return pytest.mark.parametrize(("usage", "way"), found)


def named(model):
    """Return the parameters by one name in torch's spelling and in wnseq's."""
    spelled = {}
    for name, parameter in model.named_parameters():
        name = name.replace("parametrizations.", "")
        if "weight" in name:
            name = name.replace(".original0", "_g").replace(".original1", "_v")
        spelled[name] = parameter
    return spelled


@each_usage("eager")
def test_it_computes_what_torch_s_weight_norm_does(usage, way):
    x, found = usage.input(), []
    for model in (usage.make(), usage.make_torch()):
        result, parameters = model(x), named(model)
        found.append((tensors(result), dict(zip(parameters, gradients(model, result), strict=True))))
    (result, gradient), (expected, torch_gradient) = found
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradient, {name: torch_gradient[name].view_as(gradient[name]) for name in gradient})


@each_usage(*WAYS)
def test_every_way_does_what_a_call_does(usage, way):
    WAYS[way](usage.make, usage.input())
