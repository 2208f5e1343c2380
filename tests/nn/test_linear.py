"""WNLinear and what every layer shares with it: the equation in float64, torch's start and results, and errors."""

import numpy as np
import pytest
import reference
import torch
from cases import each_layer, layer_cases

from wnseq import WNLinear
from wnseq.errors import ShapeError


@each_layer
def test_equals_the_equation_with_every_gradient(case):
    module, x = case.make(dtype=torch.float64), case.input(dtype=torch.float64).requires_grad_()
    plain = case.make_twin(dtype=torch.float64)
    with torch.no_grad():
        module.weight_g.mul_(torch.randn_like(module.weight_g))
    w = reference.weight_norm(module.weight_v, module.weight_g, case.dim, case.groups)
    leaves = [x, *module.parameters()]
    named = {"weight": w, **({"bias": module.bias} if module.bias is not None else {})}
    ours, theirs = module(x), torch.func.functional_call(plain, named, (x,))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    probe = torch.randn_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves, probe), torch.autograd.grad(theirs, leaves, probe), rtol=0, atol=1e-12
    )


@each_layer
def test_a_fresh_layer_is_torch_s_and_draws_as_many_numbers(case):
    x = case.input()
    ours, after = case.make(), torch.get_rng_state()
    theirs = case.make_twin()
    assert torch.equal(torch.get_rng_state(), after)
    torch.testing.assert_close(ours(x), theirs(x))
    assert torch.equal(ours.weight_v, theirs.weight)
    torch.manual_seed(7)
    ours.reset_parameters()
    torch.manual_seed(7)
    theirs.reset_parameters()
    torch.testing.assert_close(ours(x), theirs(x))


@each_layer
def test_one_scale_for_each_output(case):
    module, x = case.make(dtype=torch.float64), case.input(dtype=torch.float64)
    linear = isinstance(module, WNLinear)
    out = module.out_features if linear else module.out_channels
    assert module.weight_g.shape == (out,)
    with torch.no_grad():
        if module.bias is not None:
            module.bias.zero_()
        scales, before = torch.randn(out, dtype=torch.float64), module(x)
        module.weight_g.mul_(scales)
        torch.testing.assert_close(module(x), before * (scales if linear else scales.view(-1, *[1] * (x.ndim - 2))))


@each_layer
def test_an_example_without_a_batch(case):
    ours, theirs, x = case.make(), case.make_twin(), case.input()[0]
    torch.testing.assert_close(ours(x), theirs(x))


@each_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_what_torch_gives(case, dtype):
    ours, theirs, x = case.make(), case.make_twin(), case.input()
    with torch.autocast("cpu", dtype=dtype):
        a, b = ours(x), theirs(x)
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_all_are_compiled_into_one_graph():
    cases = layer_cases()[::2]  # each class, and each mode of padding
    modules, inputs = [case.make() for case in cases], [case.input() for case in cases]

    def run(inputs):
        return [module(x) for module, x in zip(modules, inputs, strict=True)]

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(run, backend="aot_eager", fullgraph=True)(inputs), run(inputs))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: WNLinear(4, 6)(torch.ones(2, 5)), ShapeError, r"4 features along axis -1, got 5 in shape \(2, 5\)"),
        (lambda: WNLinear(4, 6)(torch.tensor(1.0)), ShapeError, r"must have 4 features .*, got shape \(\)"),
        (lambda: WNLinear(4, 6)(np.ones((2, 4))), TypeError, "WNLinear: input must be a tensor, got ndarray"),
    ],
)
def test_what_does_not_fit_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


FORWARDS = {
    "too few axes": lambda x: x[0, 0],
    "too many axes": lambda x: x[None],
    "channels": lambda x: x[:, 1:],
    "double": lambda x: x.double(),
    "integers": lambda x: x.long(),
}


@pytest.mark.parametrize("change", FORWARDS.values(), ids=FORWARDS)
@each_layer
def test_a_bad_forward_raises_as_torch_s_does(case, change):
    x = change(case.input())
    try:
        expected = case.make_twin()(x)
    except Exception as error:
        kind = RuntimeError if isinstance(error, NotImplementedError) else type(error)  # the latter of its padding
        with pytest.raises(kind):
            case.make()(x)
    else:  # a linear map takes any number of axes
        torch.testing.assert_close(case.make()(x), expected)
