"""The softmax and its loss in one against torch's two functions, whole and in parts of any size."""

import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq import ShapeError, losses
from wnseq.losses import activation_penalty, fused_linear_cross_entropy, tied_embedding

ENTRIES, SIZE, SHAPE = 37, 8, (7, 3)
FORMS = {
    "whole": (2**20, 256, False),
    "whole, softmax by rows": (74, 256, False),
    "one chunk": (2**20, 256, True),
    "chunks of 4": (84, 1, True),
    "chunks of 1": (0, 1, True),
}  # CPU_CHUNK, MIN_CHUNK_CLASSES, chunked


def draw(dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    x, weight = torch.randn(*SHAPE, SIZE, dtype=dtype), torch.randn(ENTRIES, SIZE, dtype=dtype)
    target = torch.randint(ENTRIES, SHAPE)
    return x, weight, target, torch.randn(ENTRIES, dtype=dtype) if bias else None


def plain(x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, **options: object) -> Tensor:
    return F.cross_entropy(F.linear(x, weight, bias).flatten(0, -2), target.flatten(), **options)


def gradients(function: object, tensors: tuple, **options: object) -> list[Tensor]:
    """The loss and the gradients of input, weight and bias; backward from three times the loss."""
    x, weight, target, bias = (None if t is None else t.detach().clone() for t in tensors)
    leaves = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    loss = function(x, weight, target, bias, **options)
    (3 * loss).backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


@pytest.fixture(params=FORMS)
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """All logits at once, or a few classes at a time; and the sizes of what is worked on at once."""
    cached, least, chunked = FORMS[request.param]
    monkeypatch.setattr(losses, "CPU_CHUNK", cached)
    monkeypatch.setattr(losses, "MIN_CHUNK_CLASSES", least)
    return chunked


@pytest.mark.parametrize(("reduction", "bias", "ignored"), [*itertools.product(["mean", "sum"], [True, False], [0, 5])])
def test_loss_and_gradients_are_those_of_the_two_functions(
    chunked: bool, reduction: str, bias: bool, ignored: int
) -> None:
    tensors = draw(bias=bias)
    tensors[2].view(-1)[:ignored] = -1
    options = {"reduction": reduction, "ignore_index": -1}
    ours, theirs = (
        gradients(fused_linear_cross_entropy, tensors, chunked=chunked, **options),
        gradients(plain, tensors, **options),
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(fused_linear_cross_entropy(*tensors, chunked=chunked, **options), theirs[0])


@pytest.mark.parametrize("onednn", [True, False], ids=["oneDNN", "torch's products"])
def test_float32(chunked: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not onednn:
        monkeypatch.setattr(losses, "onednn_supports", lambda *_: False)
    tensors = draw(torch.float32)
    ours = gradients(fused_linear_cross_entropy, tensors, chunked=chunked)
    torch.testing.assert_close(ours, gradients(plain, tensors))


def test_torch_takes_the_products_where_a_lower_precision_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "onednn_supports", lambda *_: True)
    taken = []
    for name in ("linear", "linear_of_many"):
        monkeypatch.setattr(losses, name, lambda x, w: taken.append(1) or F.linear(x, w))
    tensors = draw(torch.float32)
    gradients(fused_linear_cross_entropy, tensors)
    assert len(taken) == 3
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    gradients(fused_linear_cross_entropy, tensors)
    assert len(taken) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_products_are_rounded_and_nothing_else(dtype: torch.dtype, chunked: bool) -> None:
    exact = draw(torch.float32)
    x, weight, target, bias = exact
    rounded = x.to(dtype).float(), weight.to(dtype).float(), target, bias
    theirs = gradients(plain, rounded)
    with torch.autocast("cpu", dtype):
        ours = gradients(fused_linear_cross_entropy, exact, chunked=chunked)
    assert [t.dtype for t in ours] == [torch.float32] * 4
    torch.testing.assert_close(ours, theirs, rtol=0, atol=30 * torch.finfo(dtype).eps)


def test_float16_keeps_gradients_that_the_mean_makes_small(chunked: bool) -> None:
    x, weight, target = torch.randn(1, SIZE).half().expand(20000, SIZE), torch.randn(ENTRIES, SIZE).half(), 5
    targets = torch.full((20000,), target)
    targets[0] = 6
    weight.requires_grad_()
    fused_linear_cross_entropy(x, weight, targets, chunked=chunked).backward()
    wide = weight.detach().float().requires_grad_()
    plain(x.float(), wide, targets, None).backward()
    torch.testing.assert_close(weight.grad.float(), wide.grad, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("needs", [*itertools.product([True, False], repeat=3)])
def test_only_the_gradients_that_are_needed(needs: tuple[bool, bool, bool], chunked: bool) -> None:
    x, weight, target, bias = draw()
    for tensor, needed in zip((x, weight, bias), needs, strict=True):
        tensor.requires_grad_(needed)
    loss = fused_linear_cross_entropy(x, weight, target, bias, chunked=chunked)
    assert loss.requires_grad is any(needs)
    if any(needs):
        loss.backward()
    assert [t.grad is not None for t in (x, weight, bias)] == list(needs)


def test_improbable_targets_and_large_logits_stay_exact(chunked: bool) -> None:
    weight, x = torch.tensor([[500.0], [-500.0], [0.0]]), torch.ones(2, 1)
    target = torch.tensor([1, 2])
    torch.testing.assert_close(fused_linear_cross_entropy(x, weight, target, chunked=chunked), torch.tensor(750.0))
    torch.testing.assert_close(
        gradients(fused_linear_cross_entropy, (x, weight, target, None), chunked=chunked),
        gradients(plain, (x, weight, target, None)),
    )


def test_classes_that_a_bias_rules_out(chunked: bool) -> None:
    x, weight, target, bias = draw()
    bias[:5] = -torch.inf
    tensors = x, weight, target.clamp(min=5), bias
    ours, theirs = gradients(fused_linear_cross_entropy, tensors, chunked=chunked), gradients(plain, tensors)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_ignored_may_cost_anything(chunked: bool, value: float) -> None:
    x, weight, target, bias = draw()
    target[target == 0] = 1
    target.view(-1)[::2] = -100
    expected = plain(x, weight, target, bias)
    torch.testing.assert_close(
        fused_linear_cross_entropy(
            x.detach().clone().masked_fill(target.unsqueeze(-1) == -100, value), weight, target, bias, chunked=chunked
        ),
        expected,
    )
    bias = bias.detach().clone()
    bias[0] = -torch.inf  # the class that a padded target stands for
    tensors = x, weight, target, bias
    ours, theirs = gradients(fused_linear_cross_entropy, tensors, chunked=chunked), gradients(plain, tensors)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_no_rows_at_all_are_what_they_are_for_torch(chunked: bool) -> None:
    weight = torch.randn(ENTRIES, SIZE, requires_grad=True)
    target = torch.full((4,), -100)
    assert fused_linear_cross_entropy(torch.zeros(4, SIZE), weight, target, chunked=chunked).isnan()
    assert fused_linear_cross_entropy(torch.zeros(4, SIZE), weight, target, reduction="sum", chunked=chunked) == 0
    empty = fused_linear_cross_entropy(torch.zeros(0, SIZE), weight, target[:0], reduction="sum", chunked=chunked)
    empty.backward()
    assert empty == 0 and weight.grad.count_nonzero() == 0
    assert fused_linear_cross_entropy(torch.zeros(0, SIZE), weight, target[:0], chunked=chunked).isnan()


def test_no_buffer_is_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.append(out.untyped_storage().nbytes() if isinstance(out, Tensor) else 0)
            return out

    tensors = torch.randn(600, 4), torch.randn(500, 4), torch.randint(500, (600,)), torch.randn(500)
    largest = {}
    monkeypatch.setattr(losses, "CPU_CHUNK", 600 * 50)
    monkeypatch.setattr(losses, "MIN_CHUNK_CLASSES", 1)
    for chunked in (False, True):
        sizes: list[int] = []
        with Largest():
            gradients(fused_linear_cross_entropy, tensors, chunked=chunked)
        largest[chunked] = max(sizes)
    assert largest == {False: 600 * 500 * 4, True: 600 * 50 * 4}


def test_the_gradient_of_the_weight_is_handed_over_and_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(ENTRIES, SHAPE)
    weight = torch.randn(ENTRIES, SIZE, requires_grad=True)
    kept = []
    embedded, shared = tied_embedding(tokens, weight)
    loss = fused_linear_cross_entropy(embedded, shared, tokens.roll(1))
    kept = loss.grad_fn.gradients[1].data_ptr()
    loss.backward()
    assert weight.grad.data_ptr() == kept


def test_a_second_backward_is_refused() -> None:
    x, weight, target, _ = draw()
    loss = fused_linear_cross_entropy(x, weight.requires_grad_(), target)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again for each backward"):
        loss.backward()


def test_a_second_derivative_is_refused_and_not_left_out() -> None:
    x, weight, target, bias = draw()
    loss = fused_linear_cross_entropy(x, weight.requires_grad_(), target, bias)
    with pytest.raises(RuntimeError, match="no second derivative: leave out create_graph=True"):
        torch.autograd.grad(loss, weight, create_graph=True)


def test_a_tied_weight_has_both_gradients(chunked: bool) -> None:
    tokens, target = torch.randint(5, SHAPE), torch.randint(ENTRIES, SHAPE)  # some tokens more than once
    tied, apart = (torch.randn(ENTRIES, SIZE, dtype=torch.float64).requires_grad_() for _ in range(2))
    apart.data.copy_(tied)
    embedded, shared = tied_embedding(tokens, tied)
    torch.testing.assert_close(embedded, F.embedding(tokens, apart))
    fused_linear_cross_entropy(embedded.tanh(), shared, target, chunked=chunked).backward()
    plain(F.embedding(tokens, apart).tanh(), apart, target, None).backward()
    torch.testing.assert_close(tied.grad, apart.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", ["rows", "weight"])
def test_one_half_of_a_tied_weight_may_go_unused(part: str) -> None:
    tokens = torch.randint(ENTRIES, SHAPE)
    tied, apart = (torch.ones(ENTRIES, SIZE).requires_grad_() for _ in range(2))
    embedded, shared = tied_embedding(tokens, tied)
    (embedded if part == "rows" else shared).square().sum().backward()
    (F.embedding(tokens, apart) if part == "rows" else apart).square().sum().backward()
    torch.testing.assert_close(tied.grad, apart.grad)


@pytest.mark.parametrize(
    ("error", "text", "change"),
    [
        (ValueError, "reduction must be 'mean' or 'sum', got 'none'", {"reduction": "none"}),
        (ShapeError, r"shapes \(…, H\) and \(V, H\), got \(7, 3, 9\) and \(37, 8\)", {"input": torch.zeros(7, 3, 9)}),
        (ShapeError, r"got \(7, 3, 8\) and \(37,\)", {"weight": torch.zeros(37)}),
        (ShapeError, r"target must have shape \(7, 3\).* got \(21,\)", {"target": torch.zeros(21).long()}),
        (ShapeError, r"bias must have shape \(37,\).* got \(8,\)", {"bias": torch.zeros(8)}),
        (TypeError, r"target must have whole numbers, got torch\.float32", {"target": torch.zeros(7, 3)}),
        (TypeError, r"target must have whole numbers, got torch\.bool", {"target": torch.zeros(7, 3).bool()}),
        (TypeError, "ignore_index must be a whole number, got None", {"ignore_index": None}),
        (TypeError, r"the weight's dtype torch\.float64, got torch\.float32", {"input": torch.zeros(7, 3, 8)}),
    ],
)
def test_errors(error: type[Exception], text: str, change: dict[str, object]) -> None:
    given = dict(zip(("input", "weight", "target", "bias"), draw(), strict=True)) | change
    with pytest.raises(error, match=text):
        fused_linear_cross_entropy(**given)


@pytest.mark.parametrize("wrong", [ENTRIES, -2, -(2**40)])
def test_a_target_that_is_no_class_is_torch_s_error(chunked: bool, wrong: int) -> None:
    x, weight, target, bias = draw()
    target[2, 1] = wrong
    for function in (plain, fused_linear_cross_entropy):
        options = {"chunked": chunked} if function is fused_linear_cross_entropy else {}
        with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
            function(x, weight, target, bias, ignore_index=-1, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_targets_that_all_count_for_nothing_are_nan_with_gradients_of_0_as_in_torch(
    chunked: bool, dtype: torch.dtype
) -> None:
    x, weight, target, bias = (each.to(dtype) if each.is_floating_point() else each for each in draw())
    target.fill_(-1)
    own, expected = ([each.clone().requires_grad_() for each in (x, weight, bias)] for _ in range(2))
    losses = (
        fused_linear_cross_entropy(*own[:2], target, own[2], ignore_index=-1, chunked=chunked),
        plain(*expected[:2], target, expected[2], ignore_index=-1),
    )
    for loss, given in zip(losses, (own, expected), strict=True):
        loss.backward()
        assert loss.isnan() and all(each.grad.count_nonzero() == 0 for each in given)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_target_that_is_no_class_is_asserted_on_a_gpu() -> None:
    program = (
        "import torch; from wnseq.losses import fused_linear_cross_entropy as loss; x = torch.zeros(2, 4).cuda(); "
        "loss(x, torch.zeros(5, 4).cuda(), torch.tensor([0, 5]).cuda(), chunked=True).item()"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode and "assert" in found.stderr


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_penalty_of_activations_is_its_formula(dtype: torch.dtype) -> None:
    output, dropped = (torch.randn(5, 2, 3).to(dtype).requires_grad_() for _ in range(2))
    a, b = (each.detach().to(torch.float64).flatten(1).tolist() for each in (output, dropped))
    square = sum(x * x for row in b for x in row) / 30
    change = sum((y - x) ** 2 for one, two in itertools.pairwise(a) for x, y in zip(one, two, strict=True)) / 24
    penalty = activation_penalty(output, dropped, 0.7, 0.4)
    assert penalty.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert penalty.item() == pytest.approx(0.7 * square + 0.4 * change, rel=1e-6)
    penalty.backward()
    torch.testing.assert_close(dropped.grad, (2 * 0.7 / 30 * dropped).detach())
    assert output.grad is not None and output.grad.any()
    assert activation_penalty(output[:1], dropped[:1], 0.0, 0.4) == 0
    with pytest.raises(ShapeError, match=r"must have the same shape, got \(5, 2, 3\) and \(4, 2, 3\)"):
        activation_penalty(output, dropped[:4])
