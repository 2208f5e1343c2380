import copy
import io
import pickle
import threading
import warnings
from contextlib import contextmanager

import pytest
import reference
import torch
from cases import each_form, tensors
from torch import nn
from torch.nn.utils import parametrize, prune

import wnseq
from wnseq import WNLSTM, WNLSTMCell
from wnseq.errors import ShapeError


def close(a, b):
    torch.testing.assert_close(tensors(a), tensors(b))


@each_form
def test_the_composed_weights_are_torch_s(case):
    module, twin = case.make(), case.make_twin()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(getattr(module, name).detach().as_subclass(torch.Tensor), parameter.detach())


@each_form
def test_g_starts_as_the_norm_of_v(case):
    module = case.make()
    for name in module.weight_names:
        v, g = module.v_and_g(name)
        assert g.shape == (case.groups * v.shape[1] if case.dim else v.shape[0],)
        w = reference.weight_norm(v, g, case.dim, case.groups)
        torch.testing.assert_close(w.detach(), v.detach())


@each_form
def test_round_trips_through_state_dict_copy_and_pickle(case):
    module, x = case.make(), case.input()
    expected = module(x)
    other = case.make(1)
    other.load_state_dict(module.state_dict())
    close(other(x), expected)
    close(copy.deepcopy(module)(x), expected)
    close(pickle.loads(pickle.dumps(module))(x), expected)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("apply", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_loads_both_forms_of_torch_s_own_weight_norm(apply):
    theirs = nn.Sequential(nn.LSTM(5, 6, num_layers=2))
    for name in [name for name in theirs[0]._flat_weights_names if "weight" in name]:
        apply(theirs[0], name)
    x = torch.randn(3, 2, 5)
    expected = theirs(x)[0]
    ours = nn.Sequential(WNLSTM(5, 6, num_layers=2))
    ours.load_state_dict(theirs.state_dict())
    close(ours(x)[0], expected)


def test_missing_and_unexpected_keys_are_reported():
    state = nn.LSTM(5, 6).state_dict()
    del state["weight_hh_l0"]
    state["weight_xx_l0"] = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*weight_hh_l0_v.*Unexpected.*weight_xx_l0"):
        WNLSTM(5, 6).load_state_dict(state)


def test_loading_a_direction_of_zeros_warns():
    rnn = WNLSTM(5, 6)
    state = {name: value.clone() for name, value in rnn.state_dict().items()}
    state["weight_hh_l0_v"][2] = 0
    with pytest.warns(UserWarning, match="weight_hh_l0_v was loaded with a row of zeros"):
        rnn.load_state_dict(state)
    assert rnn(torch.randn(2, 1, 5))[0].isfinite().all()
    plain = nn.LSTM(5, 6).state_dict()
    plain["weight_hh_l0"][2] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rnn.load_state_dict(plain)  # a plain row of zeros has g = 0 and a direction
    assert rnn.weight_hh_l0_g[2] == 0


def test_assigning_a_weight_decomposes_it():
    rnn, w = WNLSTM(5, 6), torch.randn(24, 6)
    v, g = rnn.v_and_g("weight_hh_l0")
    rnn.weight_hh_l0 = w
    torch.testing.assert_close(rnn.weight_hh_l0.detach().as_subclass(torch.Tensor), w)
    assert rnn.v_and_g("weight_hh_l0")[0] is v and rnn.v_and_g("weight_hh_l0")[1] is g  # an optimiser keeps them
    rnn.weight_hh_l0 = nn.Parameter(2 * w)
    torch.testing.assert_close(rnn.weight_hh_l0_g.detach(), 2 * w.norm(dim=1))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.0, TypeError, r"assign a tensor of shape \(24, 6\), got float"),
        (torch.ones(6, 24), ShapeError, r"assign a tensor of shape \(24, 6\), got \(6, 24\)"),
        (torch.ones(24, 6, requires_grad=True) * 2, ValueError, "its gradient would be lost"),
    ],
)
def test_a_bad_assignment_is_refused_and_changes_nothing(value, error, text):
    rnn = WNLSTM(5, 6)
    before = rnn.weight_hh_l0_v.clone()
    with pytest.raises(error, match=text):
        rnn.weight_hh_l0 = value
    assert torch.equal(rnn.weight_hh_l0_v, before)


def test_an_unknown_attribute_is_still_an_attribute_error():
    with pytest.raises(AttributeError, match="weight_hh_l1"):
        WNLSTM(5, 6).weight_hh_l1  # noqa: B018


def test_moves_and_casts():
    cell = WNLSTMCell(5, 6).double()
    assert cell.weight_hh.dtype == torch.float64
    assert WNLSTMCell(5, 6, device="meta").weight_hh_g.is_meta
    assert WNLSTMCell(5, 6, dtype=torch.bfloat16)(torch.randn(2, 5, dtype=torch.bfloat16))[0].dtype == torch.bfloat16


def test_a_composed_weight_is_not_saved_as_a_class_of_ours():
    buffer = io.BytesIO()
    torch.save(WNLSTM(5, 6).weight_hh_l0.detach(), buffer)
    buffer.seek(0)
    assert type(torch.load(buffer, weights_only=True)) is torch.Tensor


def replicate(module):
    """Return a replica as nn.DataParallel makes it, whose parameters are attributes."""
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = {}
    for name, parameter in module._parameters.items():
        setattr(replica, name, None if parameter is None else parameter.clone())
    return replica


@each_form
def test_a_replica_of_data_parallel_computes_the_same(case):
    module, x = case.make(), case.input()
    close(replicate(module)(x), module(x))


@each_form
@pytest.mark.parametrize("change", [lambda m, n: prune.l1_unstructured(m, n, 0.5), lambda m, n: Doubled.of(m, n)])
def test_pruned_and_parametrised_biases_are_as_torch_s(case, change):
    module, twin, x = case.make(), case.make_twin(), case.input()
    for name in [name for name, parameter in twin.named_parameters() if "bias" in name]:
        change(module, name)
        change(twin, name)
    close(module(x), twin(x))


class Doubled(nn.Module):
    """A parametrisation that doubles."""

    @classmethod
    def of(cls, module, name):
        parametrize.register_parametrization(module, name, cls())

    def forward(self, x):
        return 2 * x


def torch_s_weight_norm(case, apply, dim):
    model = case.make_twin()
    for name in [name for name, parameter in model.named_parameters() if "weight" in name]:
        apply(model, name, dim)
    return model


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@each_form
@pytest.mark.parametrize("apply", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_loads_torch_s_weight_norm_along_every_axis(case, apply):
    x, again = case.input(), case.make(1)
    axes = getattr(case.make_twin(), "kernel_size", ())
    for dim in (None, *range(2 + len(axes))):
        model, module = torch_s_weight_norm(case, apply, dim), case.make(1)
        state = {name: 1.5 * value for name, value in model.state_dict().items()}  # w is not v
        model.load_state_dict(state)
        module.load_state_dict(state)
        expected = model(x)
        close(module(x), expected)
        close(copy.deepcopy(module)(x), expected)
        again.load_state_dict(module.state_dict())  # one axis after the other into the same module
        close(again(x), expected)
        name = module.weight_names[0]
        w = torch.randn_like(module.v_and_g(name)[0])
        setattr(module, name, w)
        torch.testing.assert_close(getattr(module, name).detach().as_subclass(torch.Tensor), w)
        module.reset_parameters()
        for name in module.weight_names:
            torch.testing.assert_close(
                getattr(module, name).detach().as_subclass(torch.Tensor), module.v_and_g(name)[0].detach()
            )


def test_a_g_that_is_not_of_rows_has_no_gates():
    theirs = nn.LSTM(5, 6)
    nn.utils.parametrizations.weight_norm(theirs, "weight_hh_l0", dim=1)
    rnn = WNLSTM(5, 6)
    rnn.load_state_dict(theirs.state_dict())
    with pytest.raises(RuntimeError, match=r"weight_hh_l0_g has shape \(1, 6\).*state_dict_as\(rnn, \"plain\"\)"):
        rnn.gate_g("forget")
    x = torch.randn(3, 2, 5)
    rnn.load_state_dict(wnseq.state_dict_as(rnn, "plain"))
    assert rnn.gate_g("forget").shape == (6,)
    close(rnn(x), theirs(x))


@each_form
def test_a_plain_checkpoint_of_another_dtype_loads_as_exactly_as_into_torch(case):
    module, twin = case.make(), case.make_twin()
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64):
        state = {name: (3 * value).to(dtype) for name, value in case.make_twin(1).state_dict().items()}
        module.load_state_dict(state)
        twin.load_state_dict(state)
        for name in module.weight_names:
            w = getattr(module, name).detach().as_subclass(torch.Tensor)
            torch.testing.assert_close(w, getattr(twin, name).detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("value", ["x", None, torch.tensor(1.0), torch.ones(3), torch.ones(2, 2), torch.ones(24, 6, 1)])
@pytest.mark.parametrize("key", ["weight_hh_l0", "bias_hh_l0"])
def test_an_entry_that_cannot_be_loaded_is_named_as_by_torch(key, value):
    state, found = {**nn.LSTM(5, 6).state_dict(), key: value}, []
    for module in (nn.LSTM(5, 6), WNLSTM(5, 6)):
        with pytest.raises(RuntimeError) as caught:
            module.load_state_dict(state)
        found.append(str(caught.value).replace("WNLSTM", "LSTM"))
    assert found[0] == found[1]


def count_hooks(cell):
    calls = []
    cell.register_forward_pre_hook(lambda module, args: calls.append("before"))
    cell.register_forward_hook(lambda module, args, output: calls.append("after"))
    return calls


@pytest.mark.parametrize("cls", [wnseq.WNLSTMCell, wnseq.WNGRUCell, wnseq.WNRNNCell, wnseq.WNLinear, wnseq.WNConv1d])
def test_a_bound_step_calls_the_hooks(cls):
    module = cls(5, 6, 1) if cls is wnseq.WNConv1d else cls(5, 6)
    x = torch.randn(3, 5, 1) if cls is wnseq.WNConv1d else torch.randn(3, 5)
    expected, step = module(x), module.bind()
    close(step(x), expected)
    calls = count_hooks(module)
    with count_compositions(module) as composed:
        close(step(x), expected)
        assert composed == []
    assert calls == ["before", "after"]
    module.register_forward_hook(lambda module, args, output: None if isinstance(output, tuple) else 2 * output)
    close(step(x), expected if isinstance(expected, tuple) else 2 * expected)
    close(module(x), step(x))  # and the call after it composes again
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        step(x)
    finally:
        handle.remove()
    assert seen == [module]


@contextmanager
def count_compositions(module):
    composed, weights = [], module._weights
    module._weights = lambda: composed.append(1) or weights()
    yield composed
    del module._weights


def test_a_failing_bound_step_leaves_no_bound_weights():
    cell = WNLSTMCell(5, 6)
    count_hooks(cell)
    step = cell.bind()
    with pytest.raises(RuntimeError, match="inconsistent input_size"):
        step(torch.randn(3, 4))
    before = cell(torch.randn(3, 5))[0]
    cell.weight_hh = torch.zeros(24, 6)
    cell.weight_ih = torch.zeros(24, 5)
    assert not torch.equal(cell(torch.randn(3, 5))[0], before)


@pytest.mark.parametrize("name", ["weight_hh_v", "weight_ih_g", "bias_hh"])
def test_a_pruned_cell_is_bound_with_what_is_left(name):
    cell, x = WNLSTMCell(5, 6), torch.randn(3, 5)
    prune.l1_unstructured(cell, name, 0.5)
    optimizer = torch.optim.SGD(cell.parameters(), 0.5)
    for _ in range(3):  # each time after a step, which changes what pruning keeps
        expected, step = cell(x), cell.bind()
        close(step(x), expected)
        optimizer.zero_grad()
        step(x, step(x))[0].sum().backward()
        optimizer.step()
    close(cell.bind()(x), cell(x))
    step = cell.bind()
    prune.l1_unstructured(cell, name, 0.5)
    with pytest.raises(RuntimeError, match=f"{name}_mask was changed after bind"):
        step(x)
    step = cell.bind()
    with torch.no_grad():
        cell.get_parameter(f"{name}_orig").mul_(2)
    with pytest.raises(RuntimeError, match=f"{name}_orig was changed after bind"):
        step(x)


def test_a_replaced_parameter_is_seen_by_a_bound_step():
    cell, x = WNLSTMCell(5, 6), torch.randn(3, 5)
    step = cell.bind()
    cell.load_state_dict(WNLSTMCell(5, 6).state_dict(), assign=True)
    with pytest.raises(RuntimeError, match="was changed after bind"):
        step(x)


@each_form
@pytest.mark.parametrize("part", ["v", "g"])
def test_what_would_be_lost_on_a_computed_v_or_g_is_refused(case, part):
    module, x = case.make(), case.input()
    name = module.weight_names[-1]
    parametrize.register_parametrization(module, f"{name}_{part}", nn.Tanh())
    expected = module(x)
    lost = f"{type(module).__name__}.{name}_{part} is computed, by pruning or a parametrisation"
    with pytest.raises(RuntimeError, match=lost):
        setattr(module, name, getattr(module, name).detach())
    with pytest.raises(RuntimeError, match=lost):
        module.reset_parameters()
    close(module(x), expected)


@pytest.mark.parametrize("module", [WNLSTM(3, 4), WNLSTMCell(3, 4)], ids=["layers", "cell"])
def test_gates_of_a_computed_g_are_no_view(module):
    name = module.weight_names[1]
    prune.l1_unstructured(module, f"{name}_g", 2)
    with pytest.raises(RuntimeError, match=f"{name}_g is computed"):
        module.gate_g("forget")


def test_starts_that_write_v_or_g_refuse_computed_ones_or_say_what_they_skip():
    model = nn.Sequential(wnseq.WNLinear(3, 4), wnseq.WNLinear(4, 5))
    prune.random_unstructured(model[0], "weight_v", 0.5)
    with pytest.raises(RuntimeError, match=r"WNLinear\.weight_v is computed"):
        wnseq.init.draw_directions(model)
    report = wnseq.init.data_init(model, torch.randn(64, 3))
    assert "0: its weight_v is computed, by pruning or a parametrisation" in str(report)


def test_weights_bound_in_one_thread_are_not_those_of_another():
    module, x = WNLSTMCell(3, 4), torch.randn(2, 3)
    inside, done, first = threading.Event(), threading.Event(), threading.get_ident()

    def wait(*_):
        if threading.get_ident() != first:
            inside.set()
            assert done.wait(60)

    module.register_forward_pre_hook(wait)

    def call():
        with torch.no_grad():
            module.bind()(x)

    thread = threading.Thread(target=call)
    thread.start()
    assert inside.wait(60)
    with torch.no_grad():
        module.weight_ih_g.mul_(3)
    during = module(x)[0]
    done.set()
    thread.join()
    assert torch.equal(during, module(x)[0]) and during.requires_grad
