"""The opaque operators: what they promise to torch's tools, and that what runs inside does not show."""

import pytest
import torch

from wnseq._recurrence import custom_ops

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def arguments(kind, *, dtype=torch.float64, packed=False, bias=True, projection=False, grad=True, reset=False):
    """Draw what the operator of a kind takes, but for its last flags."""
    torch.manual_seed(0)
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    outputs = 3 if projection else 6

    def leaf(*shape):
        return torch.randn(*shape, dtype=dtype).mul_(0.3).requires_grad_(grad)

    x = leaf(8, 5) if packed else leaf(4, 3, 5)
    sizes = torch.tensor([3, 2, 2, 1]) if packed else None
    states = [leaf(3, outputs), leaf(3, 6)] if kind == "lstm" else [leaf(3, 6)]
    weights = [leaf(gates * 6, 5), leaf(gates * 6, outputs)]
    biases = [leaf(gates * 6), leaf(gates * 6)] if bias else [None, None]
    projections = [leaf(3, 6) if projection else None] if kind == "lstm" else []
    mask = torch.rand(x.shape[:-1]) < 0.3 if reset else None
    return [x, sizes, mask, *states, *weights, *biases, *projections]


def flags(kind, *, reverse=False, save=True):
    return (True, reverse) if kind == "rnn" else (reverse, save)  # the first of rnn: relu


def gradients(kind, inputs, **how):
    result = getattr(custom_ops, kind)(*inputs, *flags(kind, **how))[: 3 if kind == "lstm" else 2]
    leaves = [each for each in inputs if each is not None and each.requires_grad]
    loss = sum((k + 1) * part.float().sin().sum() for k, part in enumerate(result))
    return [*result, *torch.autograd.grad(loss, leaves)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not:UserWarning")  # inside torch 2.15
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(
    ("packed", "save", "reset"),  # each two of them together
    [(False, True, False), (True, False, False), (False, False, True), (True, True, True)],
    ids=["padded-save", "packed-run again", "reset-run again", "packed-reset-save"],
)
def test_torch_finds_nothing_wrong_with_the_operators(kind, save, packed, reset):
    inputs = arguments(kind, packed=packed, bias=save, reset=reset)
    operator = getattr(custom_ops, kind)
    torch.library.opcheck(operator, (*inputs, *flags(kind, save=save)), test_utils=CHECKS, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(("kind", "projection"), [("lstm", False), ("lstm", True), ("gru", False)])
@pytest.mark.parametrize("reset", [False, True], ids=["no reset", "reset"])
def test_what_is_not_saved_is_computed_again(kind, projection, packed, reset):
    inputs = arguments(kind, packed=packed, projection=projection, reset=reset)
    torch.testing.assert_close(gradients(kind, inputs, save=False), gradients(kind, inputs, save=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
def test_onednn_computes_what_the_loop_does(reverse, bias, dtype):
    inputs = arguments("lstm", dtype=dtype, bias=bias)
    if not custom_ops.has_onednn(inputs[0], None, None):
        pytest.skip("this torch has no oneDNN")
    onednn = gradients("lstm", inputs, reverse=reverse, save=False)
    loop = gradients("lstm", inputs, reverse=reverse, save=True)
    tolerance = {} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(onednn, loop, **tolerance)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_autocast_leaves_an_operator_alone(kind):
    inputs = arguments(kind, dtype=torch.float32)
    expected = gradients(kind, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gradients(kind, inputs), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_results_share_no_memory(kind):
    results = getattr(custom_ops, kind)(*arguments(kind, grad=False), *flags(kind))
    places = [each.untyped_storage().data_ptr() for each in results]
    assert len(set(places)) == len(places)
