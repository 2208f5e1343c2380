"""g along any axis of the weight, or one for all of it, in every layer that takes ``dim``, against torch's."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations, weight_norm

import wnseq
from wnseq import remove_weight_norm, state_dict_as

LAYERS = {
    "Linear": (4, 6),
    "Conv1d": (4, 6, 3),
    "Conv2d": (4, 6, (3, 2)),
    "Conv3d": (4, 6, (1, 2, 3)),
    "ConvTranspose1d": (4, 6, 3),
    "ConvTranspose2d": (4, 6, (3, 2)),
    "ConvTranspose3d": (4, 6, (1, 2, 3)),
    "Embedding": (7, 4),
}
AXES = [
    pytest.param(kind, groups, dim, id=f"{kind}-{groups}-{dim}")
    for kind, sizes in LAYERS.items()
    for groups in ((1, 2) if "Conv" in kind else (1,))
    for dim in (*range(2 + int(kind[-2]) if "Conv" in kind else 2), None)
]


def options(kind, groups, dim=0):
    if kind == "Embedding" and dim != 0:  # where torch's norm of a padding row is 0, and its weight NaN
        return {"padding_idx": 2}
    return {"groups": 2} if groups == 2 else {}


def make(kind, groups, **more):
    torch.manual_seed(0)
    return getattr(wnseq, f"WN{kind}")(*LAYERS[kind], **options(kind, groups, **more), **more)


def make_plain(kind, groups, dim, seed=0):
    torch.manual_seed(seed)
    return getattr(nn, kind)(*LAYERS[kind], **options(kind, groups, dim))


def make_input(kind):
    torch.manual_seed(1)
    if kind == "Embedding":
        return torch.randint(7, (2, 9))
    return torch.randn(2, 4, *(5,) * int(kind[-2])) if "Conv" in kind else torch.randn(3, 4)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(("kind", "groups", "dim"), AXES)
def test_is_torch_s_weight_norm_along_that_axis(kind, groups, dim):
    ours, x = make(kind, groups, dim=dim), make_input(kind)
    theirs = parametrizations.weight_norm(make_plain(kind, groups, dim), dim=dim)
    torch.testing.assert_close(ours(x), theirs(x))
    flat = dim == (1 if "Transpose" in kind else 0) and (dim == 0 or groups == 1)
    own = theirs.parametrizations.weight
    assert ours.weight_g.shape == ((own.original0.numel(),) if flat else own.original0.shape)
    assert (f", dim={dim})" in repr(ours)) == (not flat)

    scale = torch.rand_like(own.original0) + 0.5
    with torch.no_grad():
        own.original0.mul_(scale)
        ours.weight_g.mul_(scale.view(ours.weight_g.shape))
    expected = theirs(x)
    probe = torch.randn_like(expected)
    torch.testing.assert_close(ours(x), expected)
    found = torch.autograd.grad(ours(x), [ours.weight_v, ours.weight_g], probe)
    wanted = torch.autograd.grad(theirs(x), [own.original1, own.original0], probe)
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1].view(found[1].shape))

    # every form of a state dict, and every way to a copy
    hooked = weight_norm(make_plain(kind, groups, dim, 3), dim=dim)
    hooked.load_state_dict(state_dict_as(ours, "torch_hooks"))
    parametrized = parametrizations.weight_norm(make_plain(kind, groups, dim, 4), dim=dim)
    parametrized.load_state_dict(state_dict_as(ours, "torch_parametrizations"))
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    plain = remove_weight_norm(theirs)
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), hooked, parametrized, remove_weight_norm(ours)]
    for state in (loaded, theirs.state_dict(), hooked.state_dict(), plain.state_dict()):
        again = make(kind, groups, dim=dim)
        held = again.weight_g
        again.load_state_dict(state)
        assert again.weight_g is held and held.shape == ours.weight_g.shape
        copies.append(again)
    other = getattr(wnseq, f"WN{kind}")(*LAYERS[kind], **options(kind, groups, dim))  # takes over the checkpoint's axis
    other.load_state_dict(loaded)
    copies.append(other)
    for each in copies:
        torch.testing.assert_close(each(x), expected)
    ours.weight = 2 * plain.weight.detach()
    assert ours.weight_g.shape == held.shape
    torch.testing.assert_close(ours.weight.detach().as_subclass(torch.Tensor), 2 * plain.weight.detach())
    ours.reset_parameters()
    torch.testing.assert_close(ours.weight.detach().as_subclass(torch.Tensor), ours.weight_v.detach())


def test_compiles_exports_and_binds():
    kinds = {"Linear": None, "Conv2d": 2, "ConvTranspose1d": 0, "Embedding": 1}
    modules, inputs = [make(kind, 1, dim=dim).eval() for kind, dim in kinds.items()], [*map(make_input, kinds)]

    class Each(nn.ModuleList):
        def forward(self, inputs):
            return [module(x) for module, x in zip(self, inputs, strict=True)]

    every = Each(modules)
    expected = every(inputs)
    torch.testing.assert_close(torch.compile(every, backend="aot_eager", fullgraph=True)(inputs), expected)
    torch.testing.assert_close(torch.export.export(every, (inputs,)).module()(inputs), expected)
    for module, x, result in zip(modules, inputs, expected, strict=True):
        torch.testing.assert_close(module.bind()(x), result)
        parameters = dict(module.named_parameters())
        one = vmap(lambda each, module=module, named=parameters: functional_call(module, named, each))
        torch.testing.assert_close(one(x), result)


def test_a_padding_row_stays_zero_and_gets_no_gradient():
    for dim in (1, None):
        module = make("Embedding", 1, dim=dim)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(2):
            module(torch.arange(7)).square().sum().backward()
            optimizer.step()
        assert torch.equal(module.weight[2], torch.zeros(4)) and module.weight[1].ne(0).all()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dim", [-1, 5, 1.0, True], ids=str)
def test_an_axis_that_is_none_is_refused(kind, dim):
    with pytest.raises(ValueError, match=r"dim must be an axis of the weight of shape .*, or None .*, got"):
        make(kind, 1, dim=dim)


def test_options_of_single_rows_need_a_scale_of_each():
    for more in ({"sparse": True}, {"max_norm": 1.0}):
        with pytest.raises(ValueError, match=r"sparse and max_norm need one g for each row, dim=0, got dim=None"):
            wnseq.WNEmbedding(7, 4, dim=None, **more)
