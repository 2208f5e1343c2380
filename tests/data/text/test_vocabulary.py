"""Vocabularies of other programs, read from their files."""

import collections
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torchtext.vocab import Vocab

from wnseq._rows import carry_rows
from wnseq.data.text import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer, match_tokens, train_tokenizer
from wnseq.data.text.stream import Text
from wnseq.data.text.vocabulary import (
    find_sources,
    match_rows,
    read_vocabulary,
    reorder_rows,
)
from wnseq.functional import compose

WORDS = ["<unk>", "<pad>", "ü", "b", "a"]


@pytest.mark.parametrize(
    "content",
    [WORDS, dict(zip(WORDS, range(5), strict=True)), Vocab(collections.Counter(["a", "b", "b", "ü", "ü", "ü"]))],
    ids=["list", "places", "torchtext"],
)
def test_what_torch_saved(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "words.pt")
    assert read_vocabulary(tmp_path / "words.pt") == WORDS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_word_a_line(tmp_path: Path, end: str, encoding: str) -> None:
    (tmp_path / "words.txt").write_bytes(((end or "\n").join(WORDS) + end).encode(encoding))
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


def words(*tokens: str) -> WordTokenizer:
    return WordTokenizer(["<unk>", "<eos>", *tokens])


@pytest.mark.parametrize(
    ("old", "new", "sources", "named"),
    [
        (words("b", "a"), words("a", "new", "b"), [[0], [1], [3], [], [2]], 4),
        (words("don", "t"), WordTokenizer(["<unk>", "don", "don-t", "<eos>"], "punctuation"), [[0], [2], [], [1]], 3),
        (CharTokenizer(["<unk>", "a", "b"]), words("ab", "axb", "x"), [[0], [], [1, 2], [1, 2], []], 0),
        (words("a"), CharTokenizer(["<unk>", "\n", "a", "b"]), [[0], [1], [2], []], 0),
        (ByteTokenizer(), CharTokenizer(["<unk>", "a", "\u00e9"]), [[], [97], [0xC3, 0xA9]], 0),
        (CharTokenizer(["<unk>", "a"]), ByteTokenizer(), [[1] if index == 97 else [] for index in range(256)], 0),
    ],
    ids=["words", "other words", "characters to words", "words to characters", "bytes to characters", "to bytes"],
)
def test_a_new_token_starts_from_old_ones(old: Tokenizer, new: Tokenizer, sources: list[list[int]], named: int) -> None:
    assert find_sources(old, new) == (sources, named if old.kind == new.kind else 0)


def test_subwords_start_from_their_pieces() -> None:
    texts = (b"the weight of a word is its scale\n" * 50, b"the words of a scale are weightless things\n" * 50)
    old, new = (train_tokenizer("subword", Text.of(text)) for text in texts)
    sources, named = find_sources(old, new)
    assert 256 < named < len(new) and all(len(ids) == 1 for ids, name in zip(sources, new.names(), strict=True)
                                          if name in old.names())  # fmt: skip
    for index, ids in enumerate(sources):
        if len(ids) > 1:
            assert old.decode(ids) == new.decode((index,))
    whole, _ = find_sources(old, words("weight"))
    assert old.decode(whole[2]) == " weight"


def test_a_byte_of_a_character_starts_from_the_same_byte() -> None:
    subword = train_tokenizer("subword", Text.of(b"the weight of a word is its scale\n" * 50))
    to_bytes, _ = find_sources(subword, ByteTokenizer())
    from_bytes, _ = find_sources(ByteTokenizer(), subword)
    for byte in range(0x80, 0x100):
        piece = subword.names().index(f"<0x{byte:02X}>")
        assert to_bytes[byte] == [piece] and from_bytes[piece] == [byte]
    assert from_bytes[subword.names().index("w")] == [ord("w")]


def test_a_normalized_weight_of_a_checkpoint_is_carried_with_its_g() -> None:
    v, g = torch.tensor([[1.0, 2], [3, 4], [6, 8], [0, 2]]), torch.tensor([1.0, 2, 3, 4])
    state = {"encoder.weight_v": v, "encoder.weight_g": g}
    loaded = {"wnseq": {"tokenizer": words("a", "b").state()}, "state_dict": state}
    names = ["encoder.weight", "encoder.weight_v", "encoder.weight_g"]
    new = words("b", "new")
    match_tokens(new, "lm.ckpt", loaded, None, names, {})
    sources, _ = find_sources(words("a", "b"), new)
    torch.testing.assert_close(compose(*state.values()), carry_rows(compose(v, g), sources))


def test_a_checkpoint_of_another_vocabulary_is_carried_over_and_the_line_says_how_much() -> None:
    rows = torch.arange(8.0).view(4, 2)
    loaded = {
        "wnseq": {"tokenizer": words("a", "b").state()},
        "state_dict": {"encoder.weight": rows, "rnn.weight": rows},
    }
    said = match_tokens(words("b", "new"), "lm.ckpt", loaded, None, ["encoder.weight"], {})
    assert "3 of 4 tokens are in both and keep their rows, 0 start with the mean of their old" in said
    assert said.endswith("pieces, 1 with the mean row")
    assert loaded["state_dict"]["encoder.weight"].tolist() == [[0, 1], [2, 3], [6, 7], [3, 4]]
    assert loaded["state_dict"]["rnn.weight"] is rows
    with pytest.raises(ValueError, match=r"no weight with a row for each token: none of embedding\.weight"):
        match_tokens(words("b", "new"), "lm.ckpt", loaded, None, ["embedding.weight"], {})
    assert match_tokens(words("a", "b"), "lm.ckpt", loaded, None, ["encoder.weight"], {}) == ""
    with pytest.raises(ValueError, match="none of the 2 entries of the char tokenizer can be spelt by"):
        match_tokens(CharTokenizer(["<unk>", "x"]), "lm.ckpt", {**loaded, "wnseq": {"tokenizer": {
            **words("a").state(), "tokens": ["<eos>", "<unk>"]}}}, None, [], {})  # fmt: skip
    with pytest.raises(ValueError, match=r"vae\.ckpt is of the recipe vae, which has no tokenizer"):
        match_tokens(words("a"), "vae.ckpt", {"wnseq": {"recipe": "vae"}}, None, [], {})


def test_rows_that_have_a_g_do_not_become_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a\nb")
    weights = {"encoder.weight_g": torch.ones(2, 1)}
    with pytest.raises(ValueError, match="is of a normalised embedding, the model's is plain: set"):
        reorder_rows(weights, [*weights], tmp_path / "words.txt", {"encoder.weight": torch.ones(2, 3)}, ["b", "a"])
