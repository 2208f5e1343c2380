"""WNEmbedding against torch's and against the equation, its options, ties and conversions."""

import copy
import pickle

import pytest
import reference
import torch
import torch.nn.functional as F
from cases import each_embedding, embedding_cases
from torch import nn
from torch.nn.utils import parametrizations

from wnseq import WNEmbedding, WNLinear, remove_weight_norm, state_dict_as, weight_normalize
from wnseq.errors import ShapeError


def dense(gradient):
    return gradient.to_dense() if gradient.is_sparse else gradient


@each_embedding
def test_a_fresh_one_is_torch_s(case):
    x = case.input()
    ours, after = case.make(), torch.get_rng_state()
    theirs = case.make_twin()
    assert torch.equal(torch.get_rng_state(), after) and repr(ours) == f"WN{theirs!r}"
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x.int()[0]), theirs(x.int()[0]))
    torch.testing.assert_close(ours.weight.detach().as_subclass(torch.Tensor), theirs.weight.detach())


@each_embedding
def test_equals_the_equation_with_every_gradient(case):
    module, x = case.make(dtype=torch.float64), torch.tensor([[1, 5, 1, 0], [1, 3, 5, 6]])
    with torch.no_grad():
        module.weight_g.mul_(torch.randn_like(module.weight_g))
    v, g, padding = module.weight_v, module.weight_g, module.padding_idx
    ours = module(x)
    if module.max_norm is not None:
        assert (g[x].abs() <= module.max_norm).all() and (g.abs() > module.max_norm).any()
    w = reference.weight_norm(v, g, 0, 1)
    theirs = F.embedding(x, w, padding, None, 2.0, module.scale_grad_by_freq)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    probe = torch.randn_like(ours)
    found = torch.autograd.grad(ours, [v, g], probe)
    expected = torch.autograd.grad(theirs, [v, g], probe)
    assert all(gradient.is_sparse == module.sparse for gradient in found)
    torch.testing.assert_close([dense(gradient) for gradient in found], list(expected), rtol=0, atol=1e-12)


@each_embedding
def test_the_padding_row_stays_zero(case):
    module, padding = case.make(), case.kwargs.get("padding_idx", 0)
    optimizer = (torch.optim.SparseAdam if module.sparse else torch.optim.Adam)(list(module.parameters()), lr=0.1)
    before = module.weight[[1, padding]].detach().clone()
    for _ in range(3):
        module(torch.tensor([padding % 7, 1, 2])).sum().backward()
        optimizer.step()
    assert torch.equal(before[1], module.weight[padding]) == ("padding_idx" in case.kwargs)
    assert not torch.equal(before[0], module.weight[1]) or padding == 1


@each_embedding
def test_lives_and_converts_as_the_others(case):
    theirs, x = case.make_twin(), case.input()
    expected = theirs(x)
    ours = weight_normalize(nn.Sequential(theirs), nn.Embedding)[0]
    assert type(ours) is WNEmbedding
    back = remove_weight_norm(ours)
    assert repr(back) == repr(theirs)
    fresh = case.make(1)
    fresh.load_state_dict(theirs.state_dict())
    for made in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), back, fresh):
        torch.testing.assert_close(made(x), expected)
    torch.testing.assert_close(ours.bind()(x), expected)
    case.make_twin(2).load_state_dict(state_dict_as(ours, "plain"))
    if not module_is_sparse(case):
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)


def module_is_sparse(case):
    return case.kwargs.get("sparse", False)


@pytest.mark.parametrize("dim", [1, None])
def test_a_scale_along_another_axis(dim):
    theirs, x = parametrizations.weight_norm(nn.Embedding(5, 3, padding_idx=1), dim=dim), torch.tensor([[1, 2, 4]])
    ours = weight_normalize(theirs)
    assert type(ours) is WNEmbedding and ours.weight_g.shape == ((1, 3) if dim else ())
    torch.testing.assert_close(ours(x), theirs(x))
    ours.max_norm = 1.0
    with pytest.raises(ValueError, match="sparse and max_norm need one g for each row"):
        ours(x)


def test_a_tied_output_layer_trains_one_table():
    embedding, output = WNEmbedding(6, 4), WNLinear(4, 6, bias=False)
    output.weight_v, output.weight_g = embedding.weight_v, embedding.weight_g
    x = torch.tensor([0, 3])
    h = embedding(x)
    torch.testing.assert_close(output(h), F.linear(h, embedding.weight))
    optimizer = torch.optim.SGD(nn.ModuleList([embedding, output]).parameters(), lr=0.1)
    F.cross_entropy(F.linear(h, embedding.weight), x).backward()
    assert embedding.weight_g.grad.ne(0).all()  # also those that were not looked up
    optimizer.step()
    assert torch.equal(output.weight, embedding.weight)


def test_a_table_can_be_given():
    table = torch.randn(4, 3, dtype=torch.float64)
    frozen, free = WNEmbedding.from_pretrained(table, padding_idx=0), WNEmbedding.from_pretrained(table, freeze=False)
    torch.testing.assert_close(free(torch.arange(4)), table)
    assert frozen.padding_idx == 0 and not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in free.parameters())
    with pytest.raises(ShapeError, match="expected to be 2-dimensional"):
        WNEmbedding.from_pretrained(torch.ones(3))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: WNEmbedding(3, 2, padding_idx=3), ValueError, "Padding_idx must be within num_embeddings, which is 3"),
        (lambda: WNEmbedding(3, 2, max_norm=1, norm_type=1), ValueError, "bounds the 2-norm .*, got norm_type=1"),
        (lambda: WNEmbedding(3, 2, max_norm=-1), ValueError, "max_norm must be a number"),
        (lambda: WNEmbedding(-3, 2), ShapeError, "negative dimension -3: num_embeddings"),
        (lambda: WNEmbedding(3, 2)([1]), TypeError, "input must be a tensor of indices, got list"),
        (lambda: WNEmbedding(3, 2)(torch.tensor([3])), IndexError, "index out of range in self"),
        (lambda: WNEmbedding(3, 2)(torch.ones(2)), RuntimeError, "Expected tensor for argument #1 'indices'"),
    ],
)
def test_what_does_not_fit_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_the_cases_cover_every_option():
    assert set().union(*(case.kwargs for case in embedding_cases())) == {
        "padding_idx", "max_norm", "scale_grad_by_freq", "sparse"
    }  # fmt: skip


def test_a_bound_look_up_that_shortens_rows_can_be_repeated():
    table, twin = WNEmbedding(6, 3, max_norm=0.5), nn.Embedding(6, 3, max_norm=0.5)
    table.weight = twin.weight.detach()
    bound = table.bind()
    for x in (torch.tensor([1, 2]), torch.tensor([3, 1])):
        torch.testing.assert_close(bound(x), twin(x))
