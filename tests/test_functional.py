import pytest
import reference
import torch
from torch.func import vmap

from wnseq.errors import ShapeError
from wnseq.functional import decompose, exp_weight_norm, log_scale, row_norm, shrinkage, weight_norm

SHAPES = [(4, 3), (4, 3, 2), (1, 5), (5, 1), (4,)]


def pair(shape=(4, 3), dim=0, dtype=torch.float64):
    v = torch.randn(shape, dtype=dtype, requires_grad=True)
    g = torch.randn(shape[dim], dtype=dtype, requires_grad=True)
    return v, g


def test_equals_the_equation():
    v, g = pair((6, 5))
    torch.testing.assert_close(weight_norm(v, g), reference.weight_norm(v, g), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_has_the_norm_it_is_given(shape):
    for dim in range(len(shape)):
        v, g = pair(shape, dim)
        torch.testing.assert_close(row_norm(weight_norm(v, g, dim), dim), g.abs(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_decompose_is_the_inverse(shape):
    for dim in range(len(shape)):
        w = torch.randn(shape, dtype=torch.float64)
        v, g = decompose(w, dim)
        assert v.shape == w.shape and g.shape == (shape[dim],)
        torch.testing.assert_close(weight_norm(v, g, dim), w, rtol=0, atol=1e-12)


GROUPED = [((4, 3, 2), 1), ((4, 3, 2), 2), ((4, 3, 2), 4), ((6, 1, 2, 3), 3), ((2, 2), 2)]


@pytest.mark.parametrize(("shape", "groups"), GROUPED)
def test_the_second_axis_equals_the_equation_in_groups(shape, groups):
    v = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    g = torch.randn(groups * shape[1], dtype=torch.float64, requires_grad=True)
    ours, theirs = weight_norm(v, g, 1, groups), reference.weight_norm(v, g, 1, groups)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    probe = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (v, g), probe), torch.autograd.grad(theirs, (v, g), probe), rtol=0, atol=1e-12
    )
    assert torch.autograd.gradgradcheck(lambda v, g: weight_norm(v, g, 1, groups), (v, g), fast_mode=True)
    torch.testing.assert_close(exp_weight_norm(v, g, 1, groups), weight_norm(v, g.exp(), 1, groups))


@pytest.mark.parametrize(("shape", "groups"), GROUPED)
def test_decompose_is_the_inverse_in_groups(shape, groups):
    w = torch.randn(shape, dtype=torch.float64)
    w[: shape[0] // groups, 0] = 0  # the first output of the first group
    v, g = decompose(w, 1, groups)
    assert v.shape == w.shape and g.shape == (groups * shape[1],) and g[0] == 0 and v.isfinite().all()
    torch.testing.assert_close(weight_norm(v, g, 1, groups), w, rtol=0, atol=1e-12)
    torch.testing.assert_close(row_norm(w, 1, groups), g)
    assert v[: shape[0] // groups, 0].norm() == 1


def test_groups_make_no_difference_where_the_outputs_come_first():
    v, g = pair((4, 3))
    assert torch.equal(weight_norm(v, g, 0, 2), weight_norm(v, g))


@pytest.mark.parametrize("groups", [0, 3])
def test_groups_that_do_not_divide_the_first_axis_are_refused(groups):
    with pytest.raises(ValueError, match=rf"groups must divide the first axis of shape \(4, 3\), got {groups}"):
        weight_norm(torch.ones(4, 3), torch.ones(9), 1, groups)
    with pytest.raises(ShapeError, match=r"g must have shape \(6,\).*axis 1 of v in each of 2 groups, got \(3,\)"):
        weight_norm(torch.ones(4, 3), torch.ones(3), 1, 2)


def test_decompose_makes_tensors_of_its_own():
    w = torch.randn(4, 3)
    v, _ = decompose(w)
    v.zero_()
    assert not (w == 0).all()


def test_zero_rows_take_the_unit_vectors_in_turn():
    w = torch.ones(6, 2)
    w[[0, 2, 3, 5]] = 0
    v, g = decompose(w)
    assert v[[0, 2, 3, 5]].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert g[[0, 2, 3, 5]].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(weight_norm(v, g), w)


def test_a_zero_row_stays_trainable():
    v, g = (t.requires_grad_() for t in decompose(torch.zeros(3, 4)))
    weight_norm(v, g).sum().backward()
    assert (g.grad != 0).all() and v.grad.isfinite().all()


def test_a_zero_direction_gives_zeros_and_no_nan_in_two_derivatives():
    v = torch.randn(4, 3, dtype=torch.float64)
    v[1] = 0
    v.requires_grad_()
    g = torch.randn(4, dtype=torch.float64, requires_grad=True)
    w = weight_norm(v, g)
    assert (w[1] == 0).all()
    first = torch.autograd.grad((w * torch.randn(4, 3)).pow(2).sum() + w.sum(), (v, g), create_graph=True)
    second = torch.autograd.grad(sum(t.pow(2).sum() for t in first), (v, g))
    assert all(t.isfinite().all() for t in (*first, *second))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_an_empty_weight_is_empty(shape):
    v, g = decompose(torch.zeros(shape))
    assert weight_norm(v, g).shape == shape
    assert g.shape == (shape[0],)


@pytest.mark.parametrize("dim", [0, 1])
def test_gradients_of_both_orders(dim):
    v, g = pair((4, 3), dim)
    assert torch.autograd.gradcheck(lambda v, g: weight_norm(v, g, dim), (v, g))
    assert torch.autograd.gradgradcheck(lambda v, g: weight_norm(v, g, dim), (v, g))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch, loading its rules
def test_forward_mode_derivative():
    v, g = pair()
    assert torch.autograd.gradcheck(weight_norm, (v, g), check_forward_ad=True, check_backward_ad=False)


def test_the_gradients_are_those_of_equation_3():
    v, g = pair()
    w = weight_norm(v, g)
    grad_w = torch.randn_like(w)
    grad_v, grad_g = torch.autograd.grad(w, (v, g), grad_w)
    length = v.norm(dim=1)
    expected_g = (grad_w * v).sum(1) / length
    expected_v = (g / length)[:, None] * grad_w - (g * expected_g / length**2)[:, None] * v
    torch.testing.assert_close(grad_g, expected_g, rtol=0, atol=1e-12)
    torch.testing.assert_close(grad_v, expected_v, rtol=0, atol=1e-12)


def test_the_gradient_of_v_is_a_projection_of_equation_4():
    v, g = pair()
    w = weight_norm(v, g)
    grad_w = torch.randn_like(w)
    (grad_v,) = torch.autograd.grad(w, v, grad_w)
    for j in range(len(w)):
        project = torch.eye(3, dtype=torch.float64) - torch.outer(w[j], w[j]) / w[j].dot(w[j])
        torch.testing.assert_close(grad_v[j], g[j] / v[j].norm() * project @ grad_w[j], rtol=0, atol=1e-12)


def test_the_gradient_of_v_is_orthogonal_to_v_and_to_w():
    v, g = pair((50, 20))
    w = weight_norm(v, g)
    (grad_v,) = torch.autograd.grad(w.sin().sum(), v)
    assert (grad_v * v).sum(1).abs().max() < 1e-13
    assert (grad_v * w).sum(1).abs().max() < 1e-13


def test_a_gradient_step_makes_v_longer_by_the_paper_s_factor():
    v, g = pair((50, 20))
    (grad_v,) = torch.autograd.grad(weight_norm(v, g).sin().sum(), v)
    step = 0.1 * grad_v
    c = step.norm(dim=1) / v.norm(dim=1)
    torch.testing.assert_close((v - step).norm(dim=1), (1 + c**2).sqrt() * v.norm(dim=1), rtol=0, atol=1e-12)


def test_the_length_of_v_changes_the_gradient_but_not_the_weight():
    v, g = pair()
    w, long = weight_norm(v, g), weight_norm(10 * v, g)
    torch.testing.assert_close(w, long, rtol=0, atol=1e-12)
    scaled = (10 * v).detach().requires_grad_()
    (grad,) = torch.autograd.grad(w.sin().sum(), v)
    (grad_scaled,) = torch.autograd.grad(weight_norm(scaled, g).sin().sum(), scaled)
    torch.testing.assert_close(grad_scaled, grad / 10, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_take_the_norm_in_float32(dtype):
    v = torch.full((2, 1024), 16.0, dtype=dtype)  # ‖v‖² = 262,144 does not fit float16
    w = weight_norm(v, torch.ones(2, dtype=dtype))
    assert w.dtype == dtype
    torch.testing.assert_close(w, torch.full((2, 1024), 1 / 32, dtype=dtype))
    assert row_norm(v).tolist() == [512.0, 512.0]


def test_autocast_leaves_the_composition_in_float32():
    v, g = pair((64, 128), dtype=torch.float32)
    expected = weight_norm(v, g)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w = weight_norm(v, g)
    assert torch.equal(w, expected)


def test_exponential_scale():
    v, s = pair()
    torch.testing.assert_close(exp_weight_norm(v, s), weight_norm(v, s.exp()))
    assert torch.autograd.gradcheck(exp_weight_norm, (v, s))
    g = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(log_scale(g).exp(), g)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_no_logarithm_of_a_scale_that_has_none(bad):
    with pytest.raises(ValueError, match=r"every scale must be greater than 0, got 1 of 2"):
        log_scale(torch.tensor([1.0, bad]))


def test_a_scale_of_another_shape_is_refused():
    v, g = pair()
    with pytest.raises(ShapeError, match=r"g must have shape \(4,\).*got \(4, 1\)"):
        weight_norm(v, g[:, None])


@pytest.mark.parametrize("dim", [-1, 2])
def test_an_axis_that_is_none_is_refused(dim):
    with pytest.raises(ValueError, match=rf"axis of a tensor with 2 axes, counted from 0, got {dim}"):
        weight_norm(*pair(), dim)


def derivatives(compose, v, g, probe, plain):
    first = torch.autograd.grad(compose(v, g), (v, g), probe, create_graph=not plain)
    return first if plain else [*first, *torch.autograd.grad(sum(part.sin().sum() for part in first), (v, g, probe))]


@pytest.mark.parametrize("plain", [True, False], ids=["first", "both"])
@pytest.mark.parametrize("zero", [False, True])
def test_the_fused_kernel_has_the_derivatives_of_the_formula(zero, plain):
    v, g = pair((4, 3))
    if zero:
        v.data[1] = 0
    probe = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    fused = derivatives(weight_norm, v, g, probe, plain)
    formula = derivatives(lambda v, g: vmap(weight_norm)(v[None], g[None])[0], v, g, probe, plain)
    torch.testing.assert_close(fused, formula, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "lay",
    [lambda g: g[:1].expand(4), lambda g: torch.stack([g, -g], 1)[:, 0]],
)
def test_a_scale_may_lie_anywhere_in_memory(lay):
    v, g = pair()
    probe = torch.randn(4, 3, dtype=torch.float64)
    found = derivatives(lambda v, g: weight_norm(v, lay(g)), v, g, probe, True)
    expected = derivatives(lambda v, g: weight_norm(v, lay(g).contiguous()), v, g, probe, True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(weight_norm(v, lay(g)), lay(g)[:, None] * v / v.norm(dim=1, keepdim=True))


def test_a_gradient_that_is_not_there_has_no_derivative():
    class Passes(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return x * 1

        @staticmethod
        def backward(ctx, d):
            return d, None

    (v, g), x = pair(), torch.ones((), requires_grad=True)
    found = torch.autograd.grad(Passes.apply(x, weight_norm(v, g)), (x, v, g), create_graph=True, allow_unused=True)
    assert found[0] == 1 and found[1] is found[2] is None


def test_many_gradients_in_one_go():
    v, g = pair()
    probes = torch.randn(5, 4, 3, dtype=torch.float64)
    batched = torch.autograd.grad(weight_norm(v, g), (v, g), probes, is_grads_batched=True)
    singly = [torch.autograd.grad(weight_norm(v, g), (v, g), probe) for probe in probes]
    torch.testing.assert_close(batched, tuple(torch.stack(parts) for parts in zip(*singly, strict=True)))


RANGES = [
    *((dtype, size) for dtype in (torch.float32, torch.bfloat16) for size in (1e37, 1e30, 1e19, 1e-20, 1e-30, 1e-36)),
    *((torch.float64, size) for size in (1e300, 1e200, 1e-200, 1e-300)),
    *((torch.float16, size) for size in (6e4, 1e-5)),
]


def over_the_range(function, dtype, size, dim):
    """Compare a weight and its gradients with those of rows of usual length, of which w does not depend."""
    unit = torch.randn(3, 4).to(dtype)
    unit = unit / unit.abs().max()
    lengths = torch.tensor([1.0, size, 1.0, 1.0], dtype=torch.float64).to(dtype)[
        : unit.shape[dim]
    ]  # one row among usual ones
    lengths = lengths.view(-1, 1) if dim == 0 else lengths
    v, g = (unit * lengths).requires_grad_(), torch.rand(unit.shape[dim], dtype=dtype).requires_grad_()
    usual = (unit * lengths).detach().double().div(lengths.double()).requires_grad_()
    w, expected = function(v, g), weight_norm(usual, g.double(), dim)
    d_w = torch.randn(w.shape, dtype=dtype)
    d_v, d_g = torch.autograd.grad(w, (v, g), d_w)
    expected_v, expected_g = torch.autograd.grad(expected, (usual, g), d_w.double())
    tolerance = {"rtol": 0, "atol": 32 * torch.finfo(dtype).eps, "check_dtype": False}
    torch.testing.assert_close(w, expected, **tolerance)
    torch.testing.assert_close(d_g, expected_g, **tolerance)
    if dtype is not torch.float16:  # whose range the gradient itself leaves
        torch.testing.assert_close(d_v.double() * lengths.double(), expected_v, **tolerance)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(("dtype", "size"), RANGES)
def test_rows_of_every_length_have_the_norm_they_are_given(dtype, size, dim):
    over_the_range(lambda v, g: weight_norm(v, g, dim), dtype, size, dim)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_so_they_have_in_graphs_and_transforms(size, dim):
    torch._dynamo.reset()
    over_the_range(torch.compile(lambda v, g: weight_norm(v, g, dim), backend="aot_eager"), torch.float32, size, dim)
    over_the_range(
        lambda v, g: vmap(lambda v, g: weight_norm(v, g, dim))(v.unsqueeze(0), g.unsqueeze(0))[0],
        torch.float32,
        size,
        dim,
    )


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(("dtype", "size"), RANGES)
def test_rows_of_every_length_are_split(dtype, size, dim):
    w = (torch.rand(3, 4) + 0.5).to(dtype) * (size if dtype is not torch.float16 or size < 1 else size / 4)
    v, g = decompose(w, dim)
    expected = w.double().div(size).norm(dim=1 - dim) * size
    torch.testing.assert_close(g.double() / size, expected / size, rtol=0, atol=8 * torch.finfo(dtype).eps)
    torch.testing.assert_close(
        (weight_norm(v, g, dim) / size).double(), w.double() / size, rtol=0, atol=8 * torch.finfo(dtype).eps
    )


def test_the_gradient_goes_through_a_split_weight():
    w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: weight_norm(*decompose(w)), w)
    d_w = torch.randn(3, 4, dtype=torch.float64)
    (found,) = torch.autograd.grad(weight_norm(*decompose(w)), w, d_w)
    torch.testing.assert_close(found, d_w)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_without_a_real_norm_are_refused(dtype):
    w, g = torch.ones(3, 4).to(dtype), torch.ones(3)
    for function in (decompose, row_norm, lambda w: weight_norm(w, g), lambda w: exp_weight_norm(w, g)):
        with pytest.raises(TypeError, match=rf"must be of a real floating-point dtype, got {dtype}; convert it"):
            function(w)


def test_a_group_shrinks_to_zero_and_no_further():
    norm = torch.tensor([0.0, 0.5, 1.0, 4.0])
    torch.testing.assert_close(shrinkage(norm, 1.0), torch.tensor([0.0, 0.0, 0.0, 0.75]))
    torch.testing.assert_close(shrinkage(norm, 0.0), torch.tensor([0.0, 1.0, 1.0, 1.0]))
