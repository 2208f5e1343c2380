"""A teacher and the model that learns from it."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from wnseq.data.text import UNKNOWN, ByteTokenizer, CharTokenizer, TextBatch
from wnseq.recipes.language_model import LanguageModel
from wnseq.training.distillation import Teacher


def built(seed: int = 0, **arguments: Any) -> LanguageModel:
    model = LanguageModel(hidden_size=8, **arguments)
    torch.manual_seed(seed)
    model.build(ByteTokenizer())
    model.log = lambda *_, **__: None
    return model


@pytest.fixture
def teacher(tmp_path: Path) -> LanguageModel:
    """A model whose checkpoint, with dropout, is the file ``teacher.ckpt``."""
    model = built(1, dropout=0.5, embedding_norm="weight", weight_drop=0.5)
    save(model, tmp_path / "teacher.ckpt")
    return model.eval()


def save(model: LanguageModel, path: Path, **data: Any) -> None:
    tokenizer = {"tokenizer": model.tokenizer.state(), "tokenizer_sha256": model.tokenizer.sha256}
    info = {"recipe": "language_model", "version": "0.1.0", "data": data, **tokenizer}
    content = {"wnseq": info, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save({"pytorch-lightning_version": "2.6.0", "carried_state": [], **content}, path)


def batch(seed: int, reset_state: bool) -> TextBatch:
    tokens = torch.randint(256, (6, 3), generator=torch.Generator().manual_seed(seed))
    reset = torch.zeros(5, 3, dtype=torch.bool)
    reset[2, 1] = True
    return TextBatch(tokens[:-1], tokens[1:], reset_state, reset)


@pytest.mark.parametrize("reset_state", [False, True])
def test_the_loss_is_that_of_the_teacher_s_predictions_without_dropout(
    reset_state: bool, teacher: LanguageModel, tmp_path: Path
) -> None:
    model = built(dropout=0.0)
    model.teacher = Teacher(model, str(tmp_path / "teacher.ckpt"))
    its_state = None
    for seed in range(2):  # the second begins with the states of the first, or with zeros
        each = batch(seed, reset_state)
        own_state = None if reset_state else model.states.get("train")
        logits, _ = model.network(each.inputs, own_state, reset=each.reset)
        with torch.no_grad():
            aim, its_state = teacher.network(each.inputs, None if reset_state else its_state, reset=each.reset)
        hard = cross_entropy(logits.flatten(0, 1), each.targets.flatten())
        expected = 0.1 * hard + 0.9 * cross_entropy(logits.flatten(0, 1), aim.flatten(0, 1).softmax(1))
        gradients = torch.autograd.grad(expected, list(model.parameters()))
        loss = model.training_step(each, seed)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(model.teacher.nats, hard.detach())
        torch.testing.assert_close(torch.autograd.grad(loss, list(model.parameters())), gradients)


def test_a_teacher_is_no_part_of_the_model(teacher: LanguageModel, tmp_path: Path) -> None:
    model = built()
    before = copy.deepcopy(model.state_dict())
    model.teacher = Teacher(model, str(tmp_path / "teacher.ckpt"))
    assert list(model.state_dict()) == list(before) and len(list(model.modules())) == len(list(built().modules()))
    model.eval()
    plain = built().eval()
    assert torch.equal(model._step(batch(0, True), "val")[0], plain._step(batch(0, True), "val")[0])


def test_a_resumed_run_has_the_teacher_that_it_had(teacher: LanguageModel, tmp_path: Path) -> None:
    model, path = built(), str(tmp_path / "teacher.ckpt")
    Teacher(model, path)
    Teacher(model, path)  # as a second fit
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"), global_rank=0, world_size=1, interrupted=False)
    trainer.strategy = SimpleNamespace(broadcast=lambda value, src: value)
    saved, resumed = model.states.gather(trainer), built()
    resumed._trainer = trainer
    resumed.states.restore(resumed, saved)
    resumed._trainer = None
    Teacher(resumed, path)
    with torch.no_grad():
        next(teacher.parameters())[0, 0] += 1e-3
    save(teacher, tmp_path / "teacher.ckpt")
    with pytest.raises(ValueError, match=r"teacher\.ckpt has other weights than the teacher of the run to be resumed"):
        Teacher(resumed, path)
    Teacher(built(), path)


def test_a_teacher_that_does_not_fit_is_refused(teacher: LanguageModel, tmp_path: Path) -> None:
    path = str(tmp_path / "teacher.ckpt")
    with pytest.raises(ValueError, match="needs all logits at once: leave chunked_softmax out"):
        Teacher(built(chunked_softmax=True), path)
    model = LanguageModel(hidden_size=8)
    model.build(CharTokenizer([UNKNOWN, "a", "b"]))
    with pytest.raises(ValueError, match=r"must have the tokenizer of the data, got .*teacher\.ckpt with another one"):
        Teacher(model, path)
    save(teacher, tmp_path / "teacher.ckpt", backward=True)
    (own := built()).reads_backward = False
    with pytest.raises(ValueError, match=r"reads the other way: give --data\.backward True"):
        Teacher(own, path)
