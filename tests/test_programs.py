"""Two programs as everyone writes them: converted, they train as torch's own weight norm trains them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from wnseq import WNLSTM, WNGRUCell, WNLinear, weight_normalize

STEPS = 20


class WordModel(nn.Module):
    """PyTorch's word language model: embedding, LSTM, tied softmax, truncated back-propagation through time."""

    def __init__(self, words=50, size=24, layers=2):
        super().__init__()
        self.encoder = nn.Embedding(words, size)
        self.rnn = nn.LSTM(size, size, layers)
        self.decoder = nn.Linear(size, words)
        self.decoder.weight = self.encoder.weight

    def init_hidden(self, batch):
        weight = next(self.parameters())
        return weight.new_zeros(2, batch, 24), weight.new_zeros(2, batch, 24)

    def forward(self, tokens, hidden):
        self.rnn.flatten_parameters()
        output, hidden = self.rnn(self.encoder(tokens), hidden)
        return self.decoder(output), hidden

    def losses(self, optimizer):
        text = (torch.arange(STEPS * 7 + 1)[:, None] + torch.tensor([0, 11, 23, 37])) % 50  # each word has its next
        hidden = self.init_hidden(4)
        for start in range(0, STEPS * 7, 7):
            hidden = tuple(h.detach() for h in hidden)
            logits, hidden = self(text[start : start + 7], hidden)
            loss = F.cross_entropy(logits.flatten(0, 1), text[start + 1 : start + 8].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 0.25)
            optimizer.step()
            yield loss.item()


class Seq2Seq(nn.Module):
    """The tutorial's translation model: a GRU reads, a GRU cell writes, one token after the other."""

    def __init__(self, words=30, size=16):
        super().__init__()
        self.source, self.target = nn.Embedding(words, size), nn.Embedding(words, size)
        self.encoder = nn.GRU(size, size, batch_first=True)
        self.decoder = nn.GRUCell(size, size)
        self.out = nn.Linear(size, words)

    def forward(self, source, target):
        _, h = self.encoder(self.source(source))
        h, token, logits = h[0], target[:, 0], []
        step = self.decoder.bind() if hasattr(self.decoder, "bind") else self.decoder
        for t in range(1, target.shape[1]):
            h = step(self.target(token), h)
            logits.append(self.out(h))
            token = target[:, t]  # teacher forcing
        return torch.stack(logits, 1)

    def losses(self, optimizer):
        generator = torch.Generator().manual_seed(1)
        for _ in range(STEPS):
            source = torch.randint(30, (8, 6), generator=generator)
            target = source.flip(1)
            loss = F.cross_entropy(self(source, target).flatten(0, 1), target[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


def by_hand(model):
    """Weight-normalise as torch has it: one call for each weight of each layer."""
    for module in list(model.modules()):
        tied = isinstance(module, nn.Linear) and hasattr(model, "rnn")  # the decoder of the word model
        if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.Linear) and not tied:
            for name in [name for name, _ in module.named_parameters() if name.startswith("weight")]:
                parametrizations.weight_norm(module, name)
    return model


TARGETS = {WordModel: "rnn", Seq2Seq: None}  # the decoder of the word model is tied


@pytest.mark.parametrize("program", [WordModel, Seq2Seq])
@pytest.mark.parametrize(
    ("optimizer", "options"), [(torch.optim.SGD, {"lr": 1.0}), (torch.optim.Adam, {"lr": 1e-2})], ids=["SGD", "Adam"]
)
def test_a_converted_program_trains_as_the_one_parametrised_by_hand(program, optimizer, options):
    plain = program()
    by_torch = by_hand(copy.deepcopy(plain))
    by_wnseq = weight_normalize(plain, TARGETS[program])
    curves = [list(model.losses(optimizer(model.parameters(), **options))) for model in (by_wnseq, by_torch)]
    torch.testing.assert_close(*curves, rtol=0, atol=1e-5)
    assert curves[0][-1] < curves[0][0]


def test_the_programs_were_converted_whole():
    converted = weight_normalize(Seq2Seq())
    assert type(converted.decoder) is WNGRUCell and type(converted.out) is WNLinear
    word_model = weight_normalize(WordModel(), TARGETS[WordModel])
    assert type(word_model.rnn) is WNLSTM and word_model.decoder.weight is word_model.encoder.weight
    with pytest.warns(UserWarning, match="decoder: weight is tied: one parameter is encoder.weight and decoder.weight"):
        weight_normalize(WordModel())
    plain_run = [
        list(model.losses(torch.optim.SGD(model.parameters(), lr=1.0))) for model in (WordModel(), WordModel())
    ]
    assert plain_run[0] != plain_run[1]  # a curve depends on the weights: equal curves say something
