import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from wnseq.data.text.stream import Text
from wnseq.data.text.tokenizer import KINDS, ByteTokenizer, CharTokenizer, SubwordTokenizer, Tokenizer, WordTokenizer
from wnseq.data.text.tokenizer_training import train_tokenizer

PROSE = "the cat sat on the mat\nthe dog sat on the <unk> log\n\n    Größe, naïve, 漢字\n" * 40
ODD = [
    "a",
    "\n",
    " ",
    "   ",
    "▁",
    "\0",
    "\r\n",
    "\t",
    "<unk>",
    "<0x0A>",
    "<s>",
    "é",
    "漢",
    "😀",
    "\u3000",
    "\ufeff",
    "e\u0301",
]
LOSSLESS = ["subword", "bpe", "byte"]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {kind: train_tokenizer(kind, Text.of(PROSE.encode())) for kind in KINDS}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers[request.param]


def odd_text(generator: random.Random) -> str:
    return "".join(generator.choice(ODD) for _ in range(20))


@pytest.mark.parametrize("kind", LOSSLESS)
def test_no_text_is_lost(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    generator = random.Random(0)
    for text in ["", PROSE, *(odd_text(generator) for _ in range(500))]:
        ids = tokenizers[kind].encode(text)
        assert tokenizers[kind].decode(ids) == text
        assert all(0 <= index < len(tokenizers[kind]) for index in ids)


def test_characters_are_exact_and_unseen_ones_one_entry(tokenizers: dict[str, Tokenizer]) -> None:
    char = tokenizers["char"]
    assert isinstance(char, CharTokenizer)
    assert char.tokens == ["<unk>", *sorted(set(PROSE))]
    assert char.decode(char.encode(PROSE)) == PROSE
    assert char.encode("€") == [char.unknown]
    assert char.decode([char.unknown]) == "\ufffd"


def test_words_are_joined_by_spaces_and_lines_kept(tokenizers: dict[str, Tokenizer]) -> None:
    word = tokenizers["word"]
    text = "the cat sat\n\nthe <unk> dog\n"
    assert word.decode(word.encode(text)) == text
    assert word.decode(word.encode("  the\tzebra  sat")) == "the <unk> sat"
    assert word.encode("the\n") == [*word.encode("the"), word.start]


def test_a_literal_unk_is_the_unknown_word(tokenizers: dict[str, Tokenizer]) -> None:
    word = tokenizers["word"]
    assert word.encode("<unk> zebra") == [word.unknown, word.unknown]


def test_the_start_is_the_end_of_a_line(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("\n") == [tokenizer.start]
    assert tokenizer.decode([tokenizer.start]) == "\n"


def test_a_text_without_lines_starts_with_the_unknown_character() -> None:
    assert CharTokenizer(["<unk>", "a", "b"]).start == 0


def test_encoding_line_by_line_is_encoding_the_text(tokenizer: Tokenizer) -> None:
    lines = [index for line in PROSE.splitlines(keepends=True) for index in tokenizer.encode(line)]
    assert lines == tokenizer.encode(PROSE)


def test_encoding_up_to_a_space_is_encoding_the_text(tokenizer: Tokenizer) -> None:
    text = PROSE[: PROSE.index("\n")]
    cut = text.rindex(" ")
    assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == tokenizer.encode(text)


def test_a_stream_is_the_decoded_text_and_never_half_a_character(tokenizer: Tokenizer) -> None:
    text = "the cat 漢😀 sat\non"
    ids = tokenizer.encode(text)
    pieces = list(tokenizer.stream(iter(ids)))
    assert "".join(pieces) == tokenizer.decode(ids)
    if tokenizer.unknown is None:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_text_and_what_continues_it_are_one_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the cat sat on the mat\nthe dog\n\nsat on the mat")
    for cut in range(len(ids) + 1):
        prompt = tokenizer.decode(ids[:cut])
        for end in ("", " ") if tokenizer.kind == "word" else ("",):
            whole = prompt + end + "".join(tokenizer.stream(ids[cut:], prompt + end))
            assert tokenizer.encode(whole) == ids


@pytest.mark.parametrize("kind", ["byte", "subword"])
def test_a_stream_gives_a_character_with_its_last_byte(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("😀")
    assert len(ids) == 4
    given: list[str] = []
    for count in range(1, 5):
        given = list(tokenizer.stream(ids[:count]))
        assert given == (["😀"] if count == 4 else ["\ufffd"])  # the end of the ids ends the waiting
    handed = tokenizer.stream(iter([*ids, *tokenizer.encode("\n")]))
    assert next(handed) == "😀"


def test_any_ids_can_be_decoded(tokenizer: Tokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), (2000,), generator=generator)
    assert tokenizer.decode(ids.tolist()) == tokenizer.decode(ids)
    assert tokenizer.decode(range(len(tokenizer)))


def test_a_state_survives_a_safe_load(tokenizer: Tokenizer) -> None:
    buffer = io.BytesIO()
    torch.save(tokenizer.state(), buffer)
    buffer.seek(0)
    again = Tokenizer.from_state(torch.load(buffer, weights_only=True))
    assert type(again) is type(tokenizer)
    assert again.kind == tokenizer.kind
    assert len(again) == len(tokenizer)
    assert again.encode(PROSE) == tokenizer.encode(PROSE)
    assert again.sha256 == tokenizer.sha256


def test_hashes_tell_tokenizers_apart_and_stay(tokenizers: dict[str, Tokenizer]) -> None:
    assert len({tokenizer.sha256 for tokenizer in tokenizers.values()}) == len(KINDS)
    assert ByteTokenizer().sha256 == "68513ce4c5d4b6735a676c70d3318d18b50690d9c964240ffcb59d5916533d09"
    assert WordTokenizer(["<unk>", "<eos>", "a"]).sha256 != WordTokenizer(["<unk>", "<eos>", "b"]).sha256


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_checkpoint_alone_is_enough(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = save(tmp_path / "last.ckpt", {"wnseq": {"tokenizer": tokenizer.state()}, "state_dict": {}})
    assert Tokenizer.from_checkpoint(path).sha256 == tokenizer.sha256
    assert Tokenizer.from_checkpoint(str(path)).sha256 == tokenizer.sha256


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.ckpt"):
        Tokenizer.from_checkpoint(tmp_path / "nowhere.ckpt")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "pickle"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path / "last.ckpt", {"wnseq": {"tokenizer": ByteTokenizer().state()}, "x": torch.zeros(1000)})
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": content[:-200], "text": b"hello there", "pickle": b"cos\nsystem\n(tR."}[damage]
    )
    with pytest.raises(ValueError, match=r"last\.ckpt can't be read as a checkpoint: it is damaged"):
        Tokenizer.from_checkpoint(path)


@pytest.mark.parametrize("content", [{}, {"wnseq": {}}, {"wnseq": 3}, [1, 2], {"wnseq": {"tokenizer": None}}], ids=str)
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match="is a checkpoint, but holds no tokenizer of wnseq"):
        Tokenizer.from_checkpoint(save(tmp_path / "other.ckpt", content))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"kind": "morse"}, "of kind 'morse', which is none of word, subword, char, byte"),
        ({}, "not the state of a tokenizer: KeyError 'kind'"),
        ({"kind": "word"}, "not the state of a tokenizer: KeyError 'tokens'"),
        ({"kind": "word", "tokens": 3}, "not the state of a tokenizer: TypeError"),
        ({"kind": "word", "tokens": ["<unk>", "<eos>", 3]}, "is a list of strings; its entry 2 has the type int"),
        ({"kind": "word", "tokens": ["<unk>", "<eos>", "a", "a"]}, "has each entry once; 'a' is entry 2 and 3"),
        ({"kind": "char", "tokens": ["<unk>", "b", "b"]}, "has each entry once; 'b' is entry 1 and 2"),
        ({"kind": "subword", "model": 10**12}, "not the state of a tokenizer: TypeError A subword tokenizer needs"),
        ({"kind": "word", "tokens": ["<unk>", "a"]}, "needs the entry <eos>, which this one of 2 lacks"),
        ({"kind": "char", "tokens": ["a", "b"]}, "is <unk> followed by single characters"),
        ({"kind": "char", "tokens": ["<unk>", "ab"]}, "is <unk> followed by single characters"),
        ({"kind": "subword", "model": b"nonsense"}, "needs a sentencepiece model; these bytes are not one"),
    ],
    ids=str,
)
def test_a_wrong_state_is_refused(state: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Tokenizer.from_state(state)


def test_a_model_that_loses_text_is_refused() -> None:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE.split("\n")), model_writer=model, vocab_size=28, minloglevel=2
    )
    with pytest.raises(ValueError, match="no newline piece or no byte pieces: text would be lost"):
        SubwordTokenizer(model.getvalue())


class Later:
    """What a vocabulary of torchtext 0.9 to 0.18 offers."""

    def get_itos(self) -> list[str]:
        return ["<pad>", "<unk>", "the", "cat"]


def test_vocabularies_of_torchtext_are_taken_over() -> None:
    from collections import Counter

    from torchtext.vocab import Vocab

    later = Tokenizer.from_torchtext(Later())
    assert later.tokens == ["<pad>", "<unk>", "the", "cat", "<eos>"]
    assert later.encode("the dog\n") == [2, 1, 4]
    old = Tokenizer.from_torchtext(Vocab(Counter(["the", "cat", "the"]), specials=["<unk>", "<eos>"]))
    assert old.tokens == ["<unk>", "<eos>", "the", "cat"]


def test_what_is_no_vocabulary_of_torchtext_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"expected a torchtext vocabulary \(with get_itos\(\) or itos\), got <class 'dict'>"
    ):
        Tokenizer.from_torchtext({"the": 0})
    with pytest.raises(ValueError, match="needs the entry <unk>"):
        Tokenizer.from_torchtext(type("Bare", (), {"itos": ["the"]})())
