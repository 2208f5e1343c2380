import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wnseq import EmbeddingDropout, LockedDropout


def test_the_mask_is_held_over_time_and_keeps_the_mean():
    y = LockedDropout(0.3)(torch.ones(7, 20, 500))
    assert (y == y[:1]).all()
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs(y.mean() - 1) < 0.03


def test_a_packed_sequence_has_a_mask_for_each_of_its_sequences():
    lengths = torch.tensor([3, 6, 1])
    packed = pack_padded_sequence(torch.rand(6, 3, 500) + 1, lengths, enforce_sorted=False)
    dropped = LockedDropout(0.3)(packed)
    assert all(torch.equal(one, other) for one, other in zip(dropped[1:], packed[1:], strict=True))
    x, y = (pad_packed_sequence(each)[0] for each in (packed, dropped))
    mask = y[:1] != 0  # (1, N, C)
    assert 0.2 < (~mask).float().mean() < 0.4 and not torch.equal(mask[:, 0], mask[:, 1])
    torch.testing.assert_close(y, torch.where(mask, x / 0.7, 0))
    assert LockedDropout(0.3).eval()(packed) is packed


def test_evaluation_and_zero_leave_the_input_alone():
    x = torch.randn(3, 2, 4)
    assert LockedDropout(0.5).eval()(x) is x
    assert LockedDropout(0.0)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_bad_probability_is_refused(p):
    with pytest.raises(ValueError, match=rf"dropout probability has to be between 0 and 1, got p={p:g}"):
        LockedDropout(p)


def test_a_dropped_token_is_dropped_wherever_it_occurs():
    tokens, x = torch.randint(500, (40, 30)), torch.rand(40, 30, 4) + 1
    y = EmbeddingDropout(500, 0.3)(x, tokens)
    dropped = (y == 0).all(-1)
    torch.testing.assert_close(y, torch.where(dropped, 0, 1 / 0.7).unsqueeze(-1) * x)
    assert all(dropped[tokens == token].unique().numel() == 1 for token in tokens.unique())
    assert abs(dropped.float().mean() - 0.3) < 0.1


def test_an_embedding_is_whole_in_evaluation():
    x, tokens = torch.randn(3, 2, 4), torch.zeros(3, 2, dtype=torch.long)
    assert EmbeddingDropout(5, 0.5).eval()(x, tokens) is x and EmbeddingDropout(5, 0.0)(x, tokens) is x
    assert repr(EmbeddingDropout(5, 0.5)) == "EmbeddingDropout(5, p=0.5)"
    with pytest.raises(ValueError, match="p should be a number at least 0 and less than 1, got p=1"):
        EmbeddingDropout(5, 1)
