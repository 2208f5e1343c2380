import pytest
import torch
from torch import nn
from torch.nn import init

from wnseq import WNLSTM, WNLinear
from wnseq.nn._composed_weight import ComposedWeight


def set_item(w):
    w[0] = 1.0


def add_in_place(w):
    w += 1.0


def set_data(w):
    w.data = torch.zeros_like(w)


WRITES = {
    "init": init.orthogonal_,
    "data": lambda w: w.data.copy_(torch.zeros(24, 6)),
    "data itself": set_data,
    "item": set_item,
    "augmented": add_in_place,
    "view": lambda w: w[6:12].zero_(),
    "transposed": lambda w: w.t().zero_(),
    "chunk": lambda w: w.chunk(4)[1].fill_(0),
    "unbind": lambda w: w.unbind(0)[1].fill_(0),
    "detached": lambda w: w.detach().mul_(2),
    "out": lambda w: torch.add(w, 1, out=w),
    "foreach": lambda w: torch._foreach_zero_([w]),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_that_would_be_lost_raises(write):
    rnn = WNLSTM(5, 6)
    before = rnn.weight_hh_l0_v.clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"would write into a composed weight.*assign it"):
        write(rnn.weight_hh_l0)
    assert torch.equal(rnn.weight_hh_l0_v, before)


def test_reading_is_a_tensor_s():
    rnn = WNLSTM(5, 6)
    w = rnn.weight_hh_l0
    assert isinstance(w, ComposedWeight) and w.shape == (24, 6) and "weight" not in dict(rnn.named_parameters())
    assert type(w + 1) is torch.Tensor and type(w.clone()) is torch.Tensor
    assert type(w @ torch.ones(6)) is torch.Tensor
    assert torch.empty(24, 6).copy_(w.detach()).equal(w.detach())
    (w**2).sum().backward()
    torch.testing.assert_close(rnn.weight_hh_l0_g.grad, 2 * rnn.weight_hh_l0_g.detach())


def test_a_clone_is_free_to_write():
    w = WNLSTM(5, 6).weight_hh_l0.detach().clone()
    init.orthogonal_(w)
    torch.testing.assert_close(w.T @ w, torch.eye(6))


def test_numpy_gets_a_read_only_copy():
    array = WNLSTM(5, 6).weight_hh_l0.detach().numpy()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_parameter_that_is_used_elsewhere_too_is_copied_with_a_warning():
    embedding, layer = nn.Embedding(4, 3), WNLinear(3, 4)
    with pytest.warns(UserWarning, match=r"WNLinear.weight: the values of the parameter are copied.*not tied"):
        layer.weight = embedding.weight
    with pytest.warns(UserWarning, match="not tied"):
        setattr(layer, "weight", embedding.weight)  # noqa: B010
    torch.testing.assert_close(layer.weight.detach().as_subclass(torch.Tensor), embedding.weight.detach())
    layer.weight = embedding.weight.detach()
    layer.weight = nn.Parameter(torch.randn(4, 3))  # as code for torch.nn must spell it
    setattr(layer, "weight", nn.Parameter(torch.randn(4, 3)))  # noqa: B010
    rnn = WNLSTM(3, 4)
    rnn.weight_hh_l0 = nn.Parameter(nn.init.orthogonal_(torch.empty(16, 4)))


def test_a_weight_that_a_model_reads_is_a_plain_tensor_in_graphs_and_transforms():
    torch._dynamo.reset()
    layer, x = WNLinear(3, 4), torch.randn(2, 3)

    def loss(x):
        return layer(x).square().mean() + layer.weight.square().sum()

    for compiled in (
        torch.compile(loss, backend="aot_eager", fullgraph=True),
        torch.compile(loss, backend="eager"),
    ):
        torch.testing.assert_close(compiled(x), loss(x))
    kinds = []
    torch.func.grad(lambda x: kinds.append(type(layer.weight)) or loss(x))(x)
    torch.func.vmap(lambda x: kinds.append(type(layer.weight)) or layer(x))(x)
    assert kinds == [torch.Tensor, torch.Tensor] and type(layer.weight) is ComposedWeight


def test_a_parameter_that_nothing_else_holds_is_assigned_without_a_warning_where_torch_compile_watches():
    linear, kept = WNLinear(3, 2), nn.Parameter(torch.ones(2, 3))

    def assign():
        setattr(linear, "weight", nn.Parameter(torch.ones(2, 3)))  # noqa: B010
        linear.weight = nn.Parameter(torch.ones(2, 3))
        with pytest.warns(UserWarning, match="not tied"):
            linear.weight = kept

    assign()
    with torch.compiler.set_stance("eager_on_recompile"):  # it evaluates every frame, and so calls are not inlined
        torch.compile(assign, backend="eager")()
