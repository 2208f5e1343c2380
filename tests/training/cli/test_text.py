"""Settings by the size of a text, and by the processor."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from wnseq.data.text import open_corpus
from wnseq.training.cli import text
from wnseq.training.cli.text import TextCLI, compressed_bits_per_byte, has_fast_bfloat16


class Data:
    def __init__(self, **options: Any) -> None:
        self.options = options

    def estimate_tokens(self) -> tuple[int, int]:
        assert self.options == {"corpus": "b.txt", "tokenizer": self.options["tokenizer"]}
        return 1000, 50


def chosen(
    given: set[str], defaults: dict[str, Any], start: Any = None, fast: bool = False
) -> tuple[dict[str, Any], list[str]]:
    cli = TextCLI.__new__(TextCLI)
    cli.start, cli.notes, cli.datamodule_class = start, [], Data
    cli.settings = lambda tokens, entries, *_: {"trainer.max_epochs": tokens // entries, "model.dropout": 0.2}
    options = Namespace(data=Namespace(corpus="a.txt", tokenizer=None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "has_fast_bfloat16", lambda: fast)
        return cli.choose_defaults(options, {"data.corpus": "b.txt", **defaults}, given), cli.notes


@pytest.mark.parametrize(
    ("given", "defaults", "settings", "said"),
    [
        (set(), {}, {"trainer.max_epochs", "model.dropout"}, "trainer.max_epochs 20, model.dropout 0.2"),
        ({"model.dropout"}, {}, {"trainer.max_epochs", "model.dropout"}, "trainer.max_epochs 20"),
        (set(), {"model.dropout": 0.1}, {"trainer.max_epochs", "model.dropout"}, "trainer.max_epochs 20"),
        ({"trainer.max_steps"}, {}, {"model.dropout"}, "model.dropout 0.2"),
        ({"trainer.max_time", "model.dropout"}, {}, {"model.dropout"}, None),
    ],
)
def test_what_is_left_open_is_chosen_and_said(
    given: set[str], defaults: dict[str, Any], settings: set[str], said: str | None
) -> None:
    found, notes = chosen(given, defaults)
    assert set(found) == settings
    assert notes == ([] if said is None else [f"chosen for about 1,000 training tokens: {said}"])


@pytest.mark.parametrize(("given", "epochs"), [(set(), 7), ({"trainer.max_steps"}, None)])
def test_a_run_that_goes_on_has_the_epochs_that_it_was_planned_with(given: set[str], epochs: int | None) -> None:
    start = SimpleNamespace(path="last.ckpt", resumed=True, info={"fit": {"max_epochs": 7}})
    found, notes = chosen(given, {}, start)
    assert found.get("trainer.max_epochs") == epochs
    assert notes == ["chosen for about 1,000 training tokens: model.dropout 0.2"]
    start.resumed = False  # another run that starts from its weights
    assert chosen(set(), {}, start)[0]["trainer.max_epochs"] == 20


@pytest.mark.parametrize("given", [set(), {"trainer.precision"}, {"trainer.plugins"}])
def test_a_processor_with_bfloat16_is_used(given: set[str]) -> None:
    found, notes = chosen(given, {}, fast=True)
    assert found.get("trainer.precision") == (None if given else "bf16-mixed")
    assert ("chosen for this processor: trainer.precision bf16-mixed" in notes) is (not given)


@pytest.mark.parametrize(
    ("capabilities", "gpu", "fast"),
    [
        ({"avx512_bf16": True}, False, True),
        ({"avx512_bf16": True}, True, False),
        ({}, False, False),
        (None, False, False),
    ],
)
def test_a_processor_has_bfloat16_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool] | None, gpu: bool, fast: bool
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as in older versions
    if capabilities is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    assert has_fast_bfloat16() is fast


def test_the_tokens_are_those_of_the_checkpoints_tokenizer() -> None:
    assert chosen(set(), {}, SimpleNamespace(path="x.ckpt", resumed=False))[0]
    assert TextCLI.settings(None, 1, 1, Namespace(), set()) == {}  # type: ignore[arg-type]


def test_what_was_seen_costs_nothing_and_what_is_random_costs_eight_bits() -> None:
    generator = random.Random(0)
    first, second = generator.randbytes(20_000), generator.randbytes(20_000)
    assert compressed_bits_per_byte(first, first) < 0.5
    assert compressed_bits_per_byte(first, second) == pytest.approx(8, rel=0.01)
    assert compressed_bits_per_byte(first + second, first) < 0.5


def test_the_embedded_text_is_prose_and_its_test_part_is_new() -> None:
    parts = open_corpus("python").parts
    assert 1.5 < compressed_bits_per_byte(parts["train"].read(), parts["test"].read()) < 2.2
