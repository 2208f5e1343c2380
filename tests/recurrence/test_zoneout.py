"""Zoneout and recurrent dropout: what acts inside of a step is that of a float64 loop with the same masks."""

import copy
import pickle

import pytest
import reference
import torch
import torch.nn.functional as F
from cases import each_sequence, tensors
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wnseq import WNGRU, WNLSTM, WNRNN, remove_weight_norm
from wnseq._recurrence.call import make_call
from wnseq._recurrence.dispatch import select_backend
from wnseq._recurrence.torch_kernel import TORCH_KERNEL
from wnseq._recurrence.unrolled import UNROLLED
from wnseq._recurrence.zoneout import zone_out

RATES = {
    "rnn": {"zoneout": 0.3},
    "lstm": {"zoneout": 0.3, "zoneout_cell": 0.2, "recurrent_dropout": 0.25},
    "gru": {"zoneout": 0.3, "recurrent_dropout": 0.25},
}
MODULES = {"rnn": WNRNN, "lstm": WNLSTM, "gru": WNGRU}
each_kind = pytest.mark.parametrize("kind", MODULES)


def equal(first, second):
    return all(map(torch.equal, tensors(first), tensors(second)))


def seeded(module, *arguments):
    torch.manual_seed(5)
    return module(*arguments)


def backend_of(module, x):
    flat = [parameter for name, parameter in module.named_parameters() if not name.endswith("_g")]
    return select_backend(make_call(module, flat, x, None))


@each_sequence
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_and_gradients_are_those_of_a_loop_with_these_masks(case, training, monkeypatch):
    rates, drawn, dropout = RATES[case.kind], [], F.dropout

    def recorded(x, p):
        drawn.append(dropout(torch.ones_like(x), p))
        return x * drawn[-1]

    module = case.make(dtype=torch.float64, **rates).train(training)
    parameters = {name: parameter.detach().clone().requires_grad_() for name, parameter in module.named_parameters()}
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    monkeypatch.setattr(F, "dropout", recorded)
    output, final = module(case.lay_out(x))
    monkeypatch.undo()
    output, final = case.lay_out(output), final if case.has_cell_state else (final,)
    torch.cat([part.flatten() for part in (output, *final)]).sin().sum().backward()

    steps = 4 * module.num_layers * (1 + module.bidirectional)
    assert len(drawn) == (steps * len(rates) if training else 0)
    options = {"num_layers": module.num_layers, "bidirectional": module.bidirectional}
    options |= {name: value for name, value in case.kwargs.items() if name == "nonlinearity"}
    total = 0
    for n in range(2):
        masks = iter([mask[n] for mask in drawn])

        def noise(masks=masks):
            if not training:
                return 1, [rates[name] for name in ("zoneout", "zoneout_cell") if name in rates]
            candidate = next(masks) if "recurrent_dropout" in rates else 1
            return candidate, [(next(masks) == 0).double() for name in rates if name.startswith("zoneout")]

        states = tuple(torch.zeros_like(part[:, n]) for part in final)
        results = reference.recur(case.kind, parameters, x[:, n], states, noise=noise, **options)
        for actual, expected in zip((output, *final), (results[0], *results[1]), strict=True):
            torch.testing.assert_close(actual[:, n], expected, rtol=0, atol=1e-12)
            total = total + expected.sin().sum()
    total.backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, parameters[name].grad, rtol=0, atol=1e-12)


def test_the_share_of_old_values_is_the_rate():
    new, old = torch.zeros(100, 100), torch.ones(100, 100)
    mixed = zone_out(new, old, 0.2, training=True)
    assert set(mixed.unique().tolist()) == {0.0, 1.0} and abs(mixed.mean() - 0.2) < 0.02
    assert torch.equal(zone_out(new, old, 0.2, training=False), torch.full((100, 100), 0.2))
    assert zone_out(new, old, 0.0, training=True) is new


@each_kind
def test_what_acts_in_no_step_keeps_the_kernel(kind):
    x, zoned = torch.zeros(3, 40, 8), MODULES[kind](8, 16, zoneout=0.1)
    assert backend_of(zoned, x) is backend_of(zoned.eval(), x) is UNROLLED
    assert backend_of(MODULES[kind](8, 16, zoneout=0), x) is TORCH_KERNEL
    if kind != "rnn":
        dropping = MODULES[kind](8, 16, recurrent_dropout=0.1)
        assert backend_of(dropping, x) is UNROLLED and backend_of(dropping.eval(), x) is TORCH_KERNEL
        plain = MODULES[kind](8, 16).eval()
        plain.load_state_dict(dropping.state_dict())
        x, before = torch.randn(3, 40, 8), torch.get_rng_state()
        assert equal(dropping(x), plain(x)) and torch.equal(torch.get_rng_state(), before)


@each_kind
def test_packed_reset_and_bound_sequences(kind):
    module = MODULES[kind](4, 6, 2, zoneout=0.3, bidirectional=True).eval()
    x, lengths = torch.randn(5, 3, 4), [2, 5, 3]
    output, _ = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
    output, _ = pad_packed_sequence(output)
    for n, length in enumerate(lengths):
        torch.testing.assert_close(output[:length, n], module(x[:length, n])[0])
    reset = torch.zeros(5, 3, dtype=torch.bool)
    reset[2] = True
    torch.testing.assert_close(module(x, None, reset)[0], torch.cat([module(x[:2])[0], module(x[2:])[0]]))
    torch.testing.assert_close(tensors(module.bind()(x)), tensors(module(x)))


@each_kind
def test_a_seed_repeats_and_copies_draw_alike(kind):
    module, x = MODULES[kind](4, 6, 2, **RATES[kind]), torch.randn(5, 3, 4)
    expected = seeded(module, x)
    assert not equal(module(x), expected)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module):
        assert equal(seeded(other, x), expected)
    plain = MODULES[kind](4, 6, 2)
    assert [*module.state_dict()] == [*plain.state_dict()]
    assert repr(module) == repr(plain)[:-1] + "".join(f", {key}={rate}" for key, rate in RATES[kind].items()) + ")"


@each_kind
def test_autocast_and_a_compiled_graph(kind):
    module, x = MODULES[kind](4, 6, **RATES[kind]), torch.randn(2, 3, 4)  # unrolled
    expected = seeded(module, x)
    if kind != "rnn":  # whose one rate the others have
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(tensors(seeded(compiled, x)), tensors(expected))
    with torch.autocast("cpu", torch.bfloat16):
        rough, kernel = seeded(module, x), MODULES[kind](4, 6)(x)
    assert [part.dtype for part in tensors(rough)] == [part.dtype for part in tensors(kernel)]
    for actual, wanted in zip(tensors(rough), tensors(expected), strict=True):
        torch.testing.assert_close(actual.float(), wanted, rtol=0.05, atol=0.05)


def test_torch_s_layers_have_none_to_convert_to():
    model = nn.ModuleDict({"gru": WNGRU(4, 6, recurrent_dropout=0.5), "lstm": WNLSTM(4, 6, zoneout_cell=0.5)})
    left = r"gru: torch.nn has no recurrent_dropout: .* nothing in evaluation; lstm: torch.nn has no zoneout_cell"
    with pytest.warns(UserWarning, match=left):
        assert isinstance(remove_weight_norm(model)["lstm"], WNLSTM)
    with pytest.raises(ValueError, match="zoneout_cell: set the layer's to 0 first, which changes its evaluation"):
        remove_weight_norm(model, target_modules="lstm")


@each_kind
@pytest.mark.parametrize("rate", [-0.1, 1, float("nan"), True, "x"])
def test_a_rate_out_of_range_is_refused(kind, rate):
    for name in RATES[kind]:
        phrase = f"{name} should be a number at least 0 and less than 1, got {name}={rate!r} in WN{kind.upper()}"
        with pytest.raises(ValueError, match=phrase):
            MODULES[kind](4, 6, **{name: rate})
