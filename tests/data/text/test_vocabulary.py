"""Vocabularies of other programs, read from their files."""

import collections
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torchtext.vocab import Vocab

from wnseq.data.text.vocabulary import match_rows, read_vocabulary

WORDS = ["<unk>", "<pad>", "ü", "b", "a"]


@pytest.mark.parametrize(
    "content",
    [WORDS, dict(zip(WORDS, range(5), strict=True)), Vocab(collections.Counter(["a", "b", "b", "ü", "ü", "ü"]))],
    ids=["list", "places", "torchtext"],
)
def test_what_torch_saved(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "words.pt")
    assert read_vocabulary(tmp_path / "words.pt") == WORDS


@pytest.mark.parametrize("end", ["", "\n"])
def test_one_word_a_line(tmp_path: Path, end: str) -> None:
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + end, "utf-8")
    assert read_vocabulary(str(tmp_path / "words.txt")) == WORDS


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a\nthe 12\n", "expected one word a line, got 'the 12' in line 2"),
        ("a\nb\na\n", "each word has one row, and 'a' in line 3 is there already"),
        ("\xe9".encode("latin1"), "can't be read as a vocabulary: .*Expected UTF-8 text with one word a line"),
        ({"a": 0, "b": 2}, "can't be read as a vocabulary"),
        ([1, 2], "can't be read as a vocabulary"),
        (torch.zeros(2), "can't be read as a vocabulary"),
    ],
    ids=str,
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, content: Any, text: str) -> None:
    path = tmp_path / "words"
    if isinstance(content, bytes | str):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=text):
        read_vocabulary(path)


def test_a_missing_one_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="there is no vocabulary at nowhere"):
        read_vocabulary("nowhere.txt")


def test_damage_raises_nothing_else(tmp_path: Path) -> None:
    torch.save(Vocab(collections.Counter(["a", "b", "b"])), tmp_path / "whole")
    whole, generator = (tmp_path / "whole").read_bytes(), random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[generator.randrange(2, len(whole))] = generator.randrange(256)
        (tmp_path / "damaged").write_bytes(damaged[: generator.randrange(3, len(whole))])
        with pytest.raises(ValueError, match=r"can't be read as a vocabulary|each word|one word"):
            read_vocabulary(tmp_path / "damaged")


def test_rows_follow_their_words() -> None:
    rows, fresh = torch.arange(6.0).view(3, 2), -torch.ones(4, 2)
    matched = match_rows(rows, ["a", "b", "c"], fresh, ["c", "new", "a", "b"])
    assert matched.tolist() == [[4, 5], [-1, -1], [0, 1], [2, 3]] and (fresh == -1).all()
