"""A module whose v was overwritten, and whose g is not its norm, says so once, and nothing else does."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad
from torch.nn import init
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import wnseq
from wnseq import WNLSTM, WNGRUCell, WNLinear
from wnseq.init import data_free_init, data_init, draw_directions

TEXT = r"weight_ih_l0_v was overwritten after it was drawn, and weight_ih_l0_g is not its norm.*g_from_v_"


def overwritten(module=None):
    module = module or WNLSTM(8, 16)
    for parameter in module.parameters():
        parameter.data.uniform_(-0.1, 0.1)
    return module


def run(module):
    return module(torch.randn(3, 2, 8))[0]


def test_it_is_said_once_with_the_norms():
    rnn = overwritten()
    w = rnn.weight_ih_l0.detach().norm(dim=1).mean()
    with pytest.warns(
        UserWarning, match=rf"have norm {w:.3g}, those of weight_ih_l0_v {rnn.weight_ih_l0_v.norm(dim=1).mean():.3g}"
    ):
        run(rnn)
    run(rnn)


def test_a_dry_run_without_gradients_says_nothing_and_hides_nothing():
    rnn = WNLSTM(8, 16)
    with torch.no_grad():  # for the shape of the output, as constructors do
        run(rnn)
        run(overwritten(rnn))
    with pytest.warns(UserWarning, match=TEXT):
        run(rnn)


def test_bound_steps_say_it():
    with pytest.warns(UserWarning, match="WNGRUCell: weight_ih_v was overwritten"):
        overwritten(WNGRUCell(8, 16)).bind()


@pytest.mark.parametrize("bad", [False, True])
def test_a_compiled_forward_says_it_from_one_graph(bad):
    torch._dynamo.reset()
    rnn = overwritten() if bad else WNLSTM(8, 16)
    counter = CompileCounterWithBackend("aot_eager")
    compiled, optimizer = torch.compile(rnn, backend=counter, fullgraph=True), torch.optim.Adam(rnn.parameters())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            run(compiled).sum().backward()
            optimizer.step()
        run(rnn)
    assert len([each for each in caught if "g_from_v_" in str(each.message)]) == bad
    assert counter.frame_count == 1
    assert {type(parameter) for parameter in rnn.parameters()} == {nn.Parameter}


def through_state_dict(rnn):
    other = WNLSTM(8, 16)
    other.load_state_dict(rnn.state_dict())
    return other


def through_file(rnn):
    buffer = io.BytesIO()
    torch.save(rnn, buffer)
    buffer.seek(0)
    wnseq.add_safe_globals()
    return torch.load(buffer, weights_only=True)


def through_meta(rnn):
    other = WNLSTM(8, 16, device="meta")
    other.load_state_dict(rnn.state_dict(), assign=True)
    return other


def through_reset(rnn):
    rnn.reset_parameters()
    return rnn


def through_assignment(rnn):
    for name in rnn.weight_names:
        setattr(rnn, name, torch.randn(getattr(rnn, name).shape))
    return rnn


def through_parameters(rnn):
    other = WNLSTM(8, 16)
    for name, parameter in rnn.named_parameters():
        setattr(other, name, parameter)
    return other


def marked(rnn):
    rnn.accept_v_and_g()
    return rnn


@pytest.mark.parametrize(
    "way",
    [
        through_state_dict,
        through_file,
        through_meta,
        through_reset,
        through_assignment,
        through_parameters,
        marked,
        lambda rnn: copy.deepcopy(marked(rnn)),
        lambda rnn: pickle.loads(pickle.dumps(marked(rnn))),
    ],
)
def test_what_is_meant_says_nothing(way):
    before = overwritten()
    if way is through_file:
        before.accept_v_and_g()
    run(way(before)).sum().backward()


@pytest.mark.parametrize("way", [copy.deepcopy, lambda rnn: pickle.loads(pickle.dumps(rnn)), lambda rnn: rnn.double()])
def test_a_copy_is_watched_as_its_original_is(way):
    with pytest.warns(UserWarning, match=TEXT):
        way(overwritten())(torch.randn(3, 2, 8, dtype=way(WNLSTM(8, 16)).weight_ih_l0_v.dtype))
    with pytest.warns(UserWarning, match=TEXT):
        rnn = overwritten(way(WNLSTM(8, 16)))
        rnn(torch.randn(3, 2, 8, dtype=rnn.weight_ih_l0_v.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_says_nothing(dtype):
    WNLinear(300, 200).to(dtype)(torch.randn(2, 300, dtype=dtype))
    layer = WNLinear(300, 200)
    layer.weight_g.data.mul_(3)
    layer.to(dtype)(torch.randn(2, 300, dtype=dtype))


def test_gates_written_on_purpose_say_nothing():
    rnn = WNLSTM(8, 16)
    with torch.no_grad():
        rnn.gate_g("forget").mul_(2)
        rnn.weight_ih_l0_g.fill_(1)
    run(rnn)


def test_training_before_the_first_plain_forward_says_nothing():
    rnn, average = WNLSTM(8, 16), AveragedModel(WNLSTM(8, 16))
    x, optimizer = torch.randn(3, 2, 8), torch.optim.SGD(rnn.parameters(), 1.0)
    for _ in range(3):
        run(rnn).square().sum().backward()
        optimizer.step()
        average.update_parameters(rnn)
    with torch.no_grad():
        run(average)
    other = WNLSTM(8, 16)
    for _ in range(2):
        gradients = grad(lambda values: functional_call(other, values, (x,))[0].sum())(dict(other.named_parameters()))
        assert gradients.keys() == dict(other.named_parameters()).keys()


def test_initialising_from_data_or_without_says_nothing_more():
    for start in (lambda net: data_init(net, torch.randn(50, 8)), data_free_init, draw_directions):
        net = nn.Sequential(overwritten(WNLinear(8, 16)), nn.ReLU(), overwritten(WNLinear(16, 4)))
        start(net)
        net(torch.randn(2, 8))


FUNCTIONS = [
    (init.orthogonal_, "Only tensors with 2 or more dimensions are supported"),
    (init.xavier_uniform_, "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"),
    (init.xavier_normal_, "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"),
    (init.kaiming_uniform_, "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"),
    (init.kaiming_normal_, "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"),
    (lambda p: init.sparse_(p, 0.1), "Only tensors with 2 dimensions are supported"),
    (init.eye_, "Only tensors with 2 dimensions are supported"),
    (init.dirac_, "Only tensors with 3, 4, or 5 dimensions are supported"),
]


@pytest.mark.parametrize("part", [lambda p: p, lambda p: p.data])
@pytest.mark.parametrize(("function", "phrase"), FUNCTIONS)
def test_matrices_drawn_into_g_name_the_remedy_after_torch_s_phrase(function, phrase, part):
    with pytest.raises(ValueError, match=f"^{phrase}$"):
        function(torch.ones(3))
    for module in (WNLinear(3, 3), copy.deepcopy(WNLinear(3, 3))):
        with pytest.raises(ValueError, match=rf"^{phrase}, and this is g.*weight_normalize\(model\).*g_from_v_"):
            function(part(module.weight_g))


def test_a_fresh_g_is_else_a_parameter_like_any_other():
    layer = WNLinear(3, 4)
    g = layer.weight_g
    assert g.dim() == g.ndimension() == g.data.dim() == 1
    assert isinstance(g, nn.Parameter) and type(g * 2) is type(g.data * 2) is type(g.detach()) is torch.Tensor
    assert type(copy.deepcopy(g.data)) is torch.Tensor and type(layer.state_dict()["weight_g"]) is torch.Tensor
    buffer = io.BytesIO()
    torch.save({"g": g, "data": g.data}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    assert type(saved["g"]) is nn.Parameter and type(saved["data"]) is torch.Tensor
    g.data = torch.ones(4)
    g.data.mul_(2)
    assert layer(torch.randn(2, 3)).isfinite().all() and type(g) is nn.Parameter and g.tolist() == [2.0] * 4


@pytest.mark.parametrize("part", [lambda g: g, lambda g: g.data, lambda g: g.detach()])
def test_a_parameter_is_made_of_a_fresh_g(part):
    layer = WNLinear(3, 4)
    made = nn.Parameter(part(layer.weight_g), requires_grad=False)
    assert type(made) is nn.Parameter and made.data_ptr() == layer.weight_g.data_ptr()
    layer.weight_g = made
    assert not made.requires_grad and layer(torch.randn(2, 3)).isfinite().all()


def test_an_average_of_a_trained_module_says_nothing():
    rnn, x = WNLSTM(8, 16), torch.randn(3, 2, 8)
    average = AveragedModel(rnn, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.Adam(rnn.parameters(), lr=0.1)
    for _ in range(3):
        rnn(x)[0].square().sum().backward()
        optimizer.step()
        average.update_parameters(rnn)
    for copied in (average, copy.deepcopy(average), pickle.loads(pickle.dumps(average.module))):
        copied(x)[0].sum().backward()
    assert type(average.module.weight_ih_l0_g) is nn.Parameter  # as an optimiser's fast loops need it
