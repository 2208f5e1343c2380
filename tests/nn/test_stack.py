import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wnseq import GRU, WNGRU, WNLSTM, WNRNN, LockedDropout, RNNStack, ShapeError, WNMinGRU

STACKS = {
    "WNLSTM": lambda: [WNLSTM(3, 5), WNLSTM(5, 4)],
    "WNLSTM projected": lambda: [WNLSTM(3, 5, proj_size=2), WNLSTM(2, 6), WNLSTM(6, 3)],
    "nn.LSTM": lambda: [nn.LSTM(3, 5), nn.LSTM(5, 4)],
    "WNGRU": lambda: [WNGRU(3, 5), WNGRU(5, 4)],
    "GRU": lambda: [GRU(3, 4)],
    "WNMinGRU": lambda: [WNMinGRU(3, 5), WNMinGRU(5, 4)],
}


@pytest.mark.parametrize("name", STACKS)
def test_it_is_one_layer_after_the_other_and_goes_on_from_its_state(name):
    rnn, x = RNNStack(STACKS[name](), dropout=0.5).eval(), torch.randn(7, 2, 3)
    expected, states = x, []
    for layer in rnn.layers:
        expected, state = layer(expected)
        states.append(state if isinstance(state, tuple) else (state,))
    output, final = rnn(x)
    assert torch.equal(output, expected)
    parts = final if isinstance(final, tuple) else (final,)
    assert all(
        torch.equal(part, torch.cat(own, -1)) for part, own in zip(parts, zip(*states, strict=True), strict=True)
    )
    first, state = rnn(x[:4])
    step = rnn.bind()
    second, last = step(x[4:], state)
    torch.testing.assert_close((torch.cat([first, second]), last), (output, final))
    if name != "nn.LSTM":
        mask = (torch.arange(7) == 4).unsqueeze(1).expand(7, 2)
        torch.testing.assert_close(rnn(x, reset=mask)[0], torch.cat([first, rnn(x[4:])[0]]))


@pytest.mark.parametrize("name", STACKS)
def test_a_packed_input_is_each_sequence_alone(name):
    rnn, lengths = RNNStack(STACKS[name](), dropout=0.5).eval(), torch.tensor([3, 7, 4])
    x = torch.randn(7, 3, 3)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, final = rnn(packed)
    padded, found = pad_packed_sequence(output)
    assert torch.equal(found, lengths)
    finals = final if isinstance(final, tuple) else (final,)
    for place, length in enumerate(lengths.tolist()):
        alone, state = rnn(x[:length, place : place + 1])
        torch.testing.assert_close(padded[:length, place], alone[:, 0])
        for part, own in zip(finals, state if isinstance(state, tuple) else (state,), strict=True):
            torch.testing.assert_close(part[:, place], own[:, 0])
    rnn.train()(packed)[0].data.sum().backward()
    assert all(parameter.grad is not None for parameter in rnn.parameters())


def test_what_one_layer_reads_is_dropped_by_one_mask_for_all_steps(monkeypatch):
    rnn, seen = RNNStack([WNLSTM(3, 50), WNLSTM(50, 4)], dropout=0.5), []
    rnn.layers[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(7, 2, 3)
    whole = rnn.layers[0](x)[0]
    rnn(x)
    dropped = seen[0] == 0
    assert 0.2 < dropped.float().mean() < 0.8 and (dropped == dropped[:1]).all()
    torch.testing.assert_close(seen[0], torch.where(dropped, 0, 2 * whole))
    assert isinstance(rnn.dropout, LockedDropout)
    names = ["weight_ih_l0_v", "weight_ih_l0_g", "weight_hh_l0_v", "weight_hh_l0_g", "bias_ih_l0", "bias_hh_l0"]
    assert [*rnn.state_dict()] == [f"layers.{k}.{name}" for k in (0, 1) for name in names]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: RNNStack([]), ValueError, "layers must have at least one layer, got none"),
        (lambda: RNNStack([WNRNN(3, 4), WNRNN(5, 4)]), ValueError, r"layers\[1\] must have input_size 4, .* got 5"),
        (lambda: RNNStack([WNRNN(3, 4, 2)]), ValueError, r"layers\[0\] must be .* with num_layers=1, got 2"),
        (lambda: RNNStack([WNRNN(3, 4, bidirectional=True)]), ValueError, "with bidirectional=False, got True"),
        (lambda: RNNStack([WNRNN(3, 4, batch_first=True)]), ValueError, "with batch_first=False, got True"),
        (lambda: RNNStack([nn.Linear(3, 4)]), ValueError, "with num_layers=1, got a Linear"),
        (lambda: RNNStack([WNRNN(3, 4)])(torch.zeros(2, 1, 3), torch.zeros(1, 1, 5)), ShapeError, "4 features.* got 5"),
        (
            lambda: RNNStack([WNRNN(3, 4)])(torch.zeros(2, 1, 3), [torch.zeros(1, 1, 4)] * 3),
            ShapeError,
            "got 3 tensors",
        ),
        (lambda: RNNStack([WNRNN(3, 4)])(torch.zeros(2, 1, 3), 3), TypeError, "each state must be a tensor, got int"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, text):
    with pytest.raises(error, match=f"RNNStack: .*{text}"):
        make()


def test_bound_calls_run_the_hooks_of_the_stack_too():
    rnn, seen = RNNStack([WNRNN(3, 4), WNRNN(4, 2)]), []
    x = torch.randn(2, 1, 3)
    bound, expected = rnn.bind(), rnn(x)[0]
    rnn.register_forward_hook(lambda *call: seen.append(call))
    composed = []
    for layer in rnn.layers:
        layer._weights = lambda compose=layer._weights: composed.append(1) or compose()
    assert torch.equal(bound(x)[0], expected)
    assert len(seen) == 1 and not composed
