"""Weight drop: a mask on the composed recurrent weights, in training alone, in front of the kernel that runs anyway."""

import copy
import io
import pickle

import pytest
import reference
import torch
import torch.nn.functional as F
from cases import each_sequence, tensors
from torch import nn

from wnseq import GRU, LSTM, RNN, WNGRU, WNLSTM, WNRNN, remove_weight_norm, weight_normalize
from wnseq._recurrence import dispatch
from wnseq._recurrence.backend import Backend
from wnseq._recurrence.cpu_gru import CPU_GRU
from wnseq._recurrence.cpu_rnn import CPU_RNN
from wnseq._recurrence.custom_ops import CUSTOM_OPS
from wnseq._recurrence.matmul import onednn_supports
from wnseq._recurrence.torch_kernel import TORCH_KERNEL
from wnseq.nn import _dropout, add_safe_globals
from wnseq.nn._dropout import _drop_entries

LAYERS = {"WNRNN": WNRNN, "WNLSTM": WNLSTM, "WNGRU": WNGRU, "LSTM": LSTM, "GRU": GRU, "RNN": RNN}
each_layer = pytest.mark.parametrize("name", LAYERS)


def equal(first, second):
    return all(map(torch.equal, tensors(first), tensors(second)))


def seeded(module, x, seed=0):
    torch.manual_seed(seed)
    return module(x)


def masks_of(module, seed):
    """Return the masks of the forward after a seed: one for each layer and direction, in their order."""
    torch.manual_seed(seed)
    weights = {names[1]: getattr(module, names[1]).detach() for names in module._all_weights}
    return {name: _drop_entries(torch.ones_like(weight), module.weight_drop) for name, weight in weights.items()}


@pytest.mark.parametrize("p", [1e-3, 0.35, 0.5, 0.9])
def test_each_entry_is_dropped_with_the_same_probability_by_itself(p):
    torch.manual_seed(0)
    weight = torch.ones(2**20 + 1)
    first, second = _drop_entries(weight, p), _drop_entries(weight, p)
    dropped, others = first == 0, second == 0
    assert set(first.unique().tolist()) == {0.0, (torch.ones(()) / (1 - p)).item()}
    spread = (p * (1 - p) / 2**18) ** 0.5
    for k in range(4):  # of the parts of 64 bits and of their neighbours
        assert abs(dropped[k::4].double().mean() - p) < 5 * spread
    for pair in (dropped[1:] & dropped[:-1], dropped[2:] & dropped[:-2], dropped & others):
        assert abs(pair.double().mean() - p**2) < 5 * p / 2**10


def test_nearly_all_entries_may_be_dropped():
    weight = torch.ones(3, 5, dtype=torch.float64)
    assert not _drop_entries(weight, 1 - 2**-40).any()
    assert torch.equal(_drop_entries(weight, 2**-40), weight / (1 - 2**-40))


@each_sequence
def test_outputs_and_gradients_are_those_of_a_loop_with_one_mask_for_all_steps(case):
    module = case.make(dtype=torch.float64, weight_drop=0.4)
    parameters = {name: parameter.detach().clone().requires_grad_() for name, parameter in module.named_parameters()}
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    output, final = seeded(module, case.lay_out(x), 3)
    output, final = case.lay_out(output), final if case.has_cell_state else (final,)
    torch.cat([part.flatten() for part in (output, *final)]).sin().sum().backward()

    masks = masks_of(module, 3)
    assert {value for mask in masks.values() for value in mask.unique().tolist()} == {0.0, 1 / 0.6}
    options = {"num_layers": module.num_layers, "bidirectional": module.bidirectional, "masks": masks}
    options |= {name: value for name, value in case.kwargs.items() if name == "nonlinearity"}
    total = 0
    for n in range(2):
        states = tuple(torch.zeros_like(part[:, n]) for part in final)
        results = reference.recur(case.kind, parameters, x[:, n], states, **options)
        for actual, expected in zip((output, *final), (results[0], *results[1]), strict=True):
            torch.testing.assert_close(actual[:, n], expected, rtol=0, atol=1e-12)
            total = total + expected.sin().sum()
    total.backward()
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, parameters[name]), name
        torch.testing.assert_close(parameter.grad, parameters[name].grad, rtol=0, atol=1e-12)


@each_layer
def test_evaluation_drops_nothing_and_draws_nothing(name):
    module, plain, x = LAYERS[name](4, 6, 2, weight_drop=0.5), LAYERS[name](4, 6, 2), torch.randn(5, 3, 4)
    plain.load_state_dict(module.state_dict())
    with torch.no_grad():  # which is no evaluation
        assert not equal(module(x), module(x)) and equal(seeded(module, x), seeded(module, x))
    before = torch.get_rng_state()
    assert equal(module.eval()(x), plain.eval()(x)) and equal(plain.train()(x), plain(x))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")
@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("WNRNN", (35, 20, 512), CPU_RNN),
        ("WNRNN", (2, 2, 16), TORCH_KERNEL),
        ("WNLSTM", (35, 20, 64), TORCH_KERNEL),
        ("LSTM", (35, 20, 64), TORCH_KERNEL),
        ("WNGRU", (35, 20, 64), CPU_GRU),
        ("GRU", (35, 20, 64), CPU_GRU),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Backend) else str(value),
)
def test_the_kernel_is_that_without_weight_drop(name, size, expected, monkeypatch):
    seen, select = [], dispatch.select_backend
    monkeypatch.setattr(dispatch, "select_backend", lambda call: seen.append(select(call)) or seen[-1])
    steps, batch, hidden = size
    for rate in (0.0, 0.5):
        LAYERS[name](8, hidden, weight_drop=rate)(torch.zeros(steps, batch, 8))
    assert seen == [expected, expected]


def test_a_compiled_module_draws_in_the_graph(monkeypatch):
    seen, select = [], dispatch.select_backend
    monkeypatch.setattr(dispatch, "select_backend", lambda call: seen.append(select(call)) or seen[-1])
    monkeypatch.setattr(_dropout, "_drop_entries", F.dropout)  # its own draws are not those of a graph
    module, x = WNLSTM(4, 6, weight_drop=0.5), torch.randn(5, 3, 4)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert not equal(compiled(x), compiled(x)) and all(each is CUSTOM_OPS for each in seen) and seen
    torch.testing.assert_close(tensors(seeded(compiled, x)), tensors(seeded(module, x)))


@each_layer
def test_a_layer_lives_as_one_without(name):
    module, x = LAYERS[name](4, 6, 2, bidirectional=True, weight_drop=0.5), torch.randn(5, 3, 4)
    plain = LAYERS[name](4, 6, 2, bidirectional=True)
    assert [*module.state_dict()] == [*plain.state_dict()]
    assert repr(module) == repr(plain)[:-1] + ", weight_drop=0.5)"
    expected, buffer = seeded(module, x), io.BytesIO()
    add_safe_globals()
    torch.save(module, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    for other in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert other.weight_drop == 0.5 and equal(seeded(other, x), expected)
    assert plain.load_state_dict(module.state_dict()).missing_keys == []
    assert equal(plain.eval()(x), module.eval()(x))


def test_the_plain_layers_drop_as_the_normalised_ones():
    for plain, normalised in ((LSTM, WNLSTM), (GRU, WNGRU), (RNN, WNRNN)):
        module, x = plain(4, 6, 2, weight_drop=0.5), torch.randn(5, 3, 4)
        ours = weight_normalize(module)
        assert type(ours) is normalised and ours.weight_drop == 0.5
        torch.testing.assert_close(tensors(seeded(ours, x)), tensors(seeded(module, x)))


def test_one_mask_holds_for_all_calls_of_a_bound_layer():
    module, x = WNLSTM(4, 6, weight_drop=0.5), torch.randn(5, 3, 4)
    torch.manual_seed(1)
    step, state, outputs = module.bind(), None, []
    for x_t in x:
        output, state = step(x_t.unsqueeze(0), state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs), seeded(module, x, 1)[0])
    assert not equal(module.bind()(x), step(x))
    for mode, name in ((False, "training"), (True, "evaluation")):
        step = module.train(not mode).bind()
        module.train(mode)
        with pytest.raises(RuntimeError, match=rf"WNLSTM: bind\(\) was called in {name}, .* call bind\(\) again"):
            step(x)
    plain = WNLSTM(4, 6)
    step = plain.bind()
    plain.eval()
    step(x)  # without weight drop the weights of both are the same


def test_torch_s_layer_has_no_weight_drop_to_convert_to():
    model = nn.Sequential(WNLSTM(4, 6, weight_drop=0.5))
    reason = "torch.nn has no weight_drop: set the layer's to 0 first"
    with pytest.warns(UserWarning, match=reason):
        left = remove_weight_norm(model)
    assert type(left[0]) is WNLSTM and left[0].weight_drop == 0.5
    with pytest.raises(ValueError, match=reason):
        remove_weight_norm(model, target_modules="0")
    model[0].weight_drop = 0
    plain, x = remove_weight_norm(model), torch.randn(5, 3, 4)
    assert type(plain[0]) is nn.LSTM and not hasattr(plain[0], "weight_drop")
    torch.testing.assert_close(tensors(plain(x)), tensors(model(x)))


@each_layer
@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan"), True, "x", None])
def test_a_rate_out_of_range_is_refused(name, rate):
    phrase = f"weight_drop should be a number at least 0 and less than 1, got weight_drop={rate!r} in {name}"
    with pytest.raises(ValueError, match=phrase):
        LAYERS[name](4, 6, weight_drop=rate)
