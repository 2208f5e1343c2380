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
def vocabularies() -> dict[str, Tokenizer]:
    return {kind: train_tokenizer(kind, Text.of(PROSE.encode())) for kind in KINDS}


@pytest.fixture(params=KINDS)
def vocabulary(request: pytest.FixtureRequest, vocabularies: dict[str, Tokenizer]) -> Tokenizer:
    return vocabularies[request.param]


def odd_text(generator: random.Random) -> str:
    return "".join(generator.choice(ODD) for _ in range(20))


@pytest.mark.parametrize("kind", LOSSLESS)
def test_no_text_is_lost(vocabularies: dict[str, Tokenizer], kind: str) -> None:
    generator = random.Random(0)
    for text in ["", PROSE, *(odd_text(generator) for _ in range(500))]:
        ids = vocabularies[kind].encode(text)
        assert vocabularies[kind].decode(ids) == text
        assert all(0 <= index < len(vocabularies[kind]) for index in ids)


def test_characters_are_exact_and_unseen_ones_one_entry(vocabularies: dict[str, Tokenizer]) -> None:
    char = vocabularies["char"]
    assert isinstance(char, CharTokenizer)
    assert char.tokens == ["<unk>", *sorted(set(PROSE))]
    assert char.decode(char.encode(PROSE)) == PROSE
    assert char.encode("€") == [char.unknown]
    assert char.decode([char.unknown]) == "\ufffd"


def test_words_are_joined_by_spaces_and_lines_kept(vocabularies: dict[str, Tokenizer]) -> None:
    word = vocabularies["word"]
    text = "the cat sat\n\nthe <unk> dog\n"
    assert word.decode(word.encode(text)) == text
    assert word.decode(word.encode("  the\tzebra  sat")) == "the <unk> sat"
    assert word.encode("the\n") == [*word.encode("the"), word.start]


def test_a_literal_unk_is_the_unknown_word(vocabularies: dict[str, Tokenizer]) -> None:
    word = vocabularies["word"]
    assert word.encode("<unk> zebra") == [word.unknown, word.unknown]


def test_the_start_is_the_end_of_a_line(vocabulary: Tokenizer) -> None:
    assert vocabulary.encode("\n") == [vocabulary.start]
    assert vocabulary.decode([vocabulary.start]) == "\n"


def test_a_text_without_lines_starts_with_the_unknown_character() -> None:
    assert CharTokenizer(["<unk>", "a", "b"]).start == 0


def test_encoding_line_by_line_is_encoding_the_text(vocabulary: Tokenizer) -> None:
    lines = [index for line in PROSE.splitlines(keepends=True) for index in vocabulary.encode(line)]
    assert lines == vocabulary.encode(PROSE)


def test_encoding_up_to_a_space_is_encoding_the_text(vocabulary: Tokenizer) -> None:
    text = PROSE[: PROSE.index("\n")]
    cut = text.rindex(" ")
    assert vocabulary.encode(text[:cut]) + vocabulary.encode(text[cut:]) == vocabulary.encode(text)


def test_a_stream_is_the_decoded_text_and_never_half_a_character(vocabulary: Tokenizer) -> None:
    text = "the cat 漢😀 sat\non"
    ids = vocabulary.encode(text)
    pieces = list(vocabulary.stream(iter(ids)))
    assert "".join(pieces) == vocabulary.decode(ids)
    if vocabulary.unknown is None:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", ["byte", "subword"])
def test_a_stream_gives_a_character_with_its_last_byte(vocabularies: dict[str, Tokenizer], kind: str) -> None:
    vocabulary = vocabularies[kind]
    ids = vocabulary.encode("😀")
    assert len(ids) == 4
    given: list[str] = []
    for count in range(1, 5):
        given = list(vocabulary.stream(ids[:count]))
        assert given == (["😀"] if count == 4 else ["\ufffd"])  # the end of the ids ends the waiting
    handed = vocabulary.stream(iter([*ids, *vocabulary.encode("\n")]))
    assert next(handed) == "😀"


def test_any_ids_can_be_decoded(vocabulary: Tokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(vocabulary), (2000,), generator=generator)
    assert vocabulary.decode(ids.tolist()) == vocabulary.decode(ids)
    assert vocabulary.decode(range(len(vocabulary)))


def test_a_state_survives_a_safe_load(vocabulary: Tokenizer) -> None:
    buffer = io.BytesIO()
    torch.save(vocabulary.state(), buffer)
    buffer.seek(0)
    again = Tokenizer.from_state(torch.load(buffer, weights_only=True))
    assert type(again) is type(vocabulary)
    assert again.kind == vocabulary.kind
    assert len(again) == len(vocabulary)
    assert again.encode(PROSE) == vocabulary.encode(PROSE)
    assert again.sha256 == vocabulary.sha256


def test_hashes_tell_vocabularies_apart_and_stay(vocabularies: dict[str, Tokenizer]) -> None:
    assert len({vocabulary.sha256 for vocabulary in vocabularies.values()}) == len(KINDS)
    assert ByteTokenizer().sha256 == "68513ce4c5d4b6735a676c70d3318d18b50690d9c964240ffcb59d5916533d09"
    assert WordTokenizer(["<unk>", "<eos>", "a"]).sha256 != WordTokenizer(["<unk>", "<eos>", "b"]).sha256


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_checkpoint_alone_is_enough(tmp_path: Path, vocabulary: Tokenizer) -> None:
    path = save(tmp_path / "last.ckpt", {"wnseq": {"vocabulary": vocabulary.state()}, "state_dict": {}})
    assert Tokenizer.from_checkpoint(path).sha256 == vocabulary.sha256
    assert Tokenizer.from_checkpoint(str(path)).sha256 == vocabulary.sha256


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.ckpt"):
        Tokenizer.from_checkpoint(tmp_path / "nowhere.ckpt")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "pickle"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path / "last.ckpt", {"wnseq": {"vocabulary": ByteTokenizer().state()}, "x": torch.zeros(1000)})
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": content[:-200], "text": b"hello there", "pickle": b"cos\nsystem\n(tR."}[damage]
    )
    with pytest.raises(ValueError, match=r"last\.ckpt can't be read as a checkpoint: it is damaged"):
        Tokenizer.from_checkpoint(path)


@pytest.mark.parametrize("content", [{}, {"wnseq": {}}, {"wnseq": 3}, [1, 2], {"wnseq": {"vocabulary": None}}], ids=str)
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match="is a checkpoint, but holds no vocabulary of wnseq"):
        Tokenizer.from_checkpoint(save(tmp_path / "other.ckpt", content))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"kind": "morse"}, "of kind 'morse', which is none of word, subword, char, byte"),
        ({}, "not the state of a vocabulary: KeyError 'kind'"),
        ({"kind": "word"}, "not the state of a vocabulary: KeyError 'tokens'"),
        ({"kind": "word", "tokens": 3}, "not the state of a vocabulary: TypeError"),
        ({"kind": "word", "tokens": ["<unk>", "a"]}, "needs the entry <eos>, which this one of 2 has not"),
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
