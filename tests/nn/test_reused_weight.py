"""A composed weight's memory is used again, and never while something else can see it."""

import copy
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from wnseq import WNLSTM
from wnseq.functional import weight_norm
from wnseq.nn import _reused_weight
from wnseq.nn._reused_weight import Memory, compose_in


def pair(shape=(5, 4), dtype=torch.float64):
    v = torch.randn(shape, dtype=dtype, requires_grad=True)
    return v, torch.randn(shape[0], dtype=dtype, requires_grad=True)


@pytest.fixture
def small(monkeypatch):
    """Use the memory of small weights again too, and compose two rows of four at a time."""
    monkeypatch.setattr(_reused_weight, "MIN_ENTRIES", 1)
    monkeypatch.setattr(_reused_weight, "BLOCK", 8)
    return Memory()


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_in_reused_memory_is_the_same(small, dtype, needed):
    for shape in ((5, 4), (5, 2, 2), (1, 9)):  # the blocks end inside of the rows
        for _ in range(3):
            pairs = [(t.detach().requires_grad_(n)) for t, n in zip(pair(shape, dtype=dtype), needed, strict=True)]
            wanted = [t for t in pairs if t.requires_grad]
            w, expected, probe = compose_in(small, *pairs, 0, 1), weight_norm(*pairs), torch.randn(shape, dtype=dtype)
            assert torch.equal(w, expected) and w.is_leaf is False
            gradients = [torch.autograd.grad((each * probe).sum(), wanted) for each in (w, expected)]
            torch.testing.assert_close(*gradients, rtol=0, atol=0)
            del w


def test_memory_is_used_again_once_the_graph_is_gone(small):
    v, g = pair((5, 4))
    w = compose_in(small, v, g, 0, 1)
    place, loss = w.data_ptr(), (w * w).sum()  # which keeps w in its graph
    del w
    assert compose_in(small, v, g, 0, 1).data_ptr() != place
    first = compose_in(small, v, g, 0, 1).data_ptr()
    loss.backward()
    for _ in range(3):
        w = compose_in(small, v, g, 0, 1)
        assert w.data_ptr() == first
        (w * w).sum().backward()
        del w


HOLDERS = {
    "the tensor": lambda w: w,
    "a view": lambda w: w[1:],
    "detached": lambda w: w.detach(),
    "data": lambda w: w.data,
    "an array": lambda w: w.detach().numpy(),
    "a storage": lambda w: w.untyped_storage(),
    "a graph": lambda w: (w * w).sum(),
    "a graph over a view": lambda w: (w.T @ w).sum(),
    "a hook": lambda w: w.register_hook(lambda d, w=w: d),
    "a capsule": lambda w: torch.utils.dlpack.to_dlpack(w.detach()),
    "a share": lambda w: w.detach().share_memory_() is None,  # what another process holds is not counted here
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_memory_that_something_holds_is_not_written(small, holder):
    v, g = pair((5, 4))
    w = compose_in(small, v, g, 0, 1)
    held, place = HOLDERS[holder](w), w.data_ptr()
    del w
    others = [compose_in(small, v, g, 0, 1) for _ in range(2)]
    assert len({place, *(other.data_ptr() for other in others)}) == 3
    del held, others


def test_two_forwards_before_two_backwards(small):
    (v, g), (other_v, other_g) = pair((5, 4)), pair((5, 4))

    def gradients(compose):
        first, second = compose(v, g), compose(other_v, other_g)
        losses = [(first.exp() * second.detach()).sum(), second.sin().sum()]
        del first, second
        kept = torch.autograd.grad(losses[0], [v, g], retain_graph=True)
        assert torch.equal(torch.autograd.grad(losses[0], [v, g])[0], kept[0])
        return [*kept, *torch.autograd.grad(losses[1], [other_v, other_g])]

    expected = gradients(weight_norm)
    torch.testing.assert_close(gradients(functools.partial(compose_in, small, dim=0, groups=1)), expected)


def test_higher_derivatives_in_reused_memory(small):
    v, g = pair((5, 4))
    compose = functools.partial(compose_in, small, dim=0, groups=1)
    assert torch.autograd.gradgradcheck(compose, (v, g), fast_mode=True)
    probes = torch.randn(3, 5, 4, dtype=torch.float64)
    batched, expected = (
        torch.autograd.grad(f(v, g), (v, g), probes, is_grads_batched=True) for f in (compose, weight_norm)
    )
    torch.testing.assert_close(batched, expected, rtol=0, atol=1e-12)


def test_the_gradient_of_v_takes_the_memory_of_an_unheld_gradient(small):
    v, g = pair((5, 4))
    w, seen = compose_in(small, v, g, 0, 1), []
    w.register_hook(lambda d: seen.append(d.data_ptr()))
    (w * 2).sum().backward()
    assert v.grad.data_ptr() == seen[0]


@pytest.mark.parametrize("holder", ["hook", "view in a hook", "retained", "asked for", "given", "shared"])
def test_a_gradient_that_something_holds_is_not_written(small, holder):
    v, g = pair((5, 4))
    other = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    w, given, held = compose_in(small, v, g, 0, 1), torch.randn(5, 4, dtype=torch.float64), []
    expected = given.clone()
    if holder == "given":
        w.backward(given)
        held = [given]
    elif holder == "asked for":
        held = torch.autograd.grad((w * given).sum(), [w, v])[:1]
    else:
        if holder == "retained":
            w.retain_grad()
        elif holder != "shared":
            w.register_hook(lambda d: held.append(d.T if holder.startswith("view") else d))
        total = w + other if holder == "shared" else w
        (total * given).sum().backward()
        held = held or [w.grad if holder == "retained" else other.grad]
        torch.testing.assert_close([v.grad], [torch.autograd.grad(weight_norm(v, g), v, given)[0]], rtol=0, atol=1e-12)
    assert torch.equal(held[0].T if holder.startswith("view") else held[0], expected)


def test_threads_do_not_write_each_other_s_weights(small):
    v, g = pair((40, 40))
    sides = [(v * k).detach().requires_grad_() for k in range(1, 5)]
    expected = [torch.autograd.grad(weight_norm(side, g * k).exp().sum(), side)[0] for k, side in enumerate(sides)]

    def work(k):
        for _ in range(50):
            found = torch.autograd.grad(compose_in(small, sides[k], g * k, 0, 1).exp().sum(), sides[k])[0]
            if not torch.allclose(found, expected[k], rtol=1e-12, atol=1e-12):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_no_memory_is_kept_without_a_gradient_or_for_another_shape(small):
    v, g = pair((5, 4))
    with torch.no_grad():
        compose_in(small, v, g, 0, 1)
    with torch.inference_mode():
        compose_in(small, v, g, 0, 1)
    assert small._kept == []
    compose_in(small, v, g, 0, 1)
    other_v, other_g = pair((4, 5))
    torch.testing.assert_close(compose_in(small, other_v, other_g, 0, 1), weight_norm(other_v, other_g))


def test_a_row_of_zeros_in_reused_memory(small):
    v, g = pair((5, 4))
    v.data[2] = 0
    for _ in range(2):
        assert compose_in(small, v, g, 0, 1)[2].tolist() == [0.0] * 4


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_layer_s_steps_are_those_of_one_that_keeps_no_memory(small, monkeypatch, create_graph):
    """Copies, casts and pickles have memory of their own."""
    torch.manual_seed(0)
    module, x = WNLSTM(3, 4, bidirectional=True), torch.randn(5, 2, 3)

    def step(module, x):
        module.zero_grad()
        loss = (module(x)[0] * module(x)[0].sin()).sum()
        if not create_graph:
            loss.backward()
            return [p.grad for p in module.parameters()]
        first = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), list(module.parameters()))

    with monkeypatch.context() as patch:
        patch.setattr(_reused_weight, "MIN_ENTRIES", 10**9)
        expected = step(module, x)
        assert all(memory._kept == [] for memory in module._memory.values())
    for other in (module, module, copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(step(other, x)[0], expected[0])
        torch.testing.assert_close(step(other, x), expected, rtol=0, atol=0)
    kept = [memory._kept[0].data_ptr() for memory in module._memory.values()]
    again = copy.deepcopy(module)
    assert all(memory._kept == [] for memory in again._memory.values())
    step(again, x)
    assert not {memory._kept[0].data_ptr() for memory in again._memory.values()} & set(kept)
    module.double()
    assert all(memory._kept == [] for memory in module._memory.values())
    step(module, x.double())
