import random
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from wnseq.data._files import cache_folder
from wnseq.data.text import tokenizer_training
from wnseq.data.text.stream import Text
from wnseq.data.text.tokenizer import CharTokenizer, WordTokenizer
from wnseq.data.text.tokenizer_training import train_tokenizer

PROSE = (Path(__file__).parents[3] / "data" / "examples" / "text.txt").read_text("utf-8")


def text(content: str) -> Text:
    return Text.of(content.encode())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path / "cache"))
    return cache_folder()


def test_words_come_by_frequency_and_then_by_alphabet() -> None:
    word = train_tokenizer("word", text("b a c c\nb a c\n<unk> <eos>\n"))
    assert isinstance(word, WordTokenizer)
    assert word.tokens == ["<unk>", "<eos>", "c", "a", "b"]


def test_the_size_is_the_number_of_entries() -> None:
    word = train_tokenizer("word", text("b a c c\nb a c\n"), 4)
    char = train_tokenizer("char", text("b a c c\nb a c\n"), 4)
    assert isinstance(word, WordTokenizer)
    assert isinstance(char, CharTokenizer)
    assert word.tokens == ["<unk>", "<eos>", "c", "a"]
    assert char.tokens == ["<unk>", "\n", " ", "c"]
    assert len(train_tokenizer("subword", text(PROSE), 310)) == 310
    assert len(train_tokenizer("bpe", text(PROSE), 310)) == 310


@pytest.mark.parametrize(("name", "size"), [("ptb", 10_000), ("wikitext-2", 33_278)])
def test_word_level_sets_have_their_published_vocabulary(
    real_data: Callable[[str], Path], name: str, size: int
) -> None:
    (train,) = real_data(name).glob("*train.txt")
    assert len(train_tokenizer("word", Text.of(train))) == size


@pytest.mark.parametrize("kind", ["subword", "bpe"])
def test_indentation_is_one_token(kind: str) -> None:
    tokenizer = train_tokenizer(kind, text("def f():\n        return x\n" * 50))
    assert len(tokenizer.encode("        ")) <= 2


@pytest.mark.parametrize("kind", ["subword", "bpe"])
def test_too_many_subwords_are_refused_with_the_most_there_are(kind: str) -> None:
    with pytest.raises(ValueError, match=r"vocabulary_size 5000 is more subwords than .*the largest possible is \d+\."):
        train_tokenizer(kind, text(PROSE), 5000)


@pytest.mark.parametrize("kind", ["subword", "bpe"])
def test_without_a_size_a_short_text_yields_what_it_can(kind: str) -> None:
    assert 258 < len(train_tokenizer(kind, text("ab ba\n"))) < 300


def test_rare_characters_leave_room_for_words() -> None:
    many = "".join(chr(0x4E00 + index % 3000) for index in range(9000))
    tokenizer = train_tokenizer("subword", text(f"{many}\n{PROSE}"), 320)
    assert len(tokenizer) == 320
    assert tokenizer.decode(tokenizer.encode(many)) == many


def test_a_text_without_words_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"Subwords can't be trained on the training part.*Tokenizer byte"):
        train_tokenizer("subword", text("\n" * 50))
    assert capfd.readouterr() == ("", "")


def test_training_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    train_tokenizer("subword", text(PROSE), 300)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["word", "subword", "bpe", "char"])
def test_a_tokenizer_is_trained_once(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    first = train_tokenizer(kind, text(PROSE))
    monkeypatch.setattr(tokenizer_training, "_train", None)
    assert train_tokenizer(kind, text(PROSE)).state() == first.state()


def test_another_text_size_or_kind_is_another_tokenizer() -> None:
    hashes = {
        train_tokenizer(kind, text(content), size).sha256
        for kind in ("subword", "bpe")
        for content in (PROSE, PROSE.upper())
        for size in (320, 330)
    }
    assert len(hashes) == 8


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"sha256": "", "state": {"kind": "byte"}}', b"\xff", b"[]"])
def test_a_damaged_cache_is_made_again(cache: Path, damage: bytes) -> None:
    first = train_tokenizer("subword", text(PROSE))
    (path,) = (cache / "vocabularies").iterdir()
    path.write_bytes(damage)
    assert train_tokenizer("subword", text(PROSE)).state() == first.state()
    assert path.stat().st_size > len(damage)


def test_a_sample_is_spread_over_the_text() -> None:
    lines = text("".join(f"line {number}\n" for number in range(10_000)))
    sample = tokenizer_training._sample(lines, size=4_000, runs=8)
    assert sample.size == pytest.approx(4_000, rel=0.1)
    numbers = [int(line.split()[1]) for line in "".join(sample.chunks()).splitlines()]
    assert numbers == sorted(numbers)
    assert max(b - a for a, b in pairwise(numbers)) < 1_500
    assert numbers[0] < 1_500
    assert numbers[-1] > 8_500
    assert tokenizer_training._sample(lines) is lines


def test_long_lines_are_cut_before_words() -> None:
    cut = [line.decode() for line in tokenizer_training._sentences(text("word " * 5_000 + "\n" + "x" * 5_000), {})]
    assert max(len(line.encode()) for line in cut) <= tokenizer_training.SENTENCE
    assert all(line.strip().split(" ") == ["word"] * line.count("word") for line in cut if "w" in line)
    assert "".join(cut) == "word " * 5_000 + "x" * 5_000


@pytest.mark.parametrize("character", ["x", "ü", "ก", "天", "😀", "\t", "\u3000"])
@pytest.mark.parametrize("length", [1, 31, 33, 1397, 1398, 4192, 4193, 9000])
def test_no_sentence_is_longer_than_sentencepiece_reads(character: str, length: int) -> None:
    cut = list(tokenizer_training._sentences(text(character * length), {}))
    assert max(map(len, cut)) <= tokenizer_training.SENTENCE == 4192
    assert "".join(line.decode() for line in cut) == character * length


THOUSAND = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰馀成岁律吕调阳"


@pytest.mark.parametrize("kind", ["subword", "bpe"])
def test_chinese_on_one_line_has_subwords(capfd: pytest.CaptureFixture[str], kind: str) -> None:
    tokenizer = train_tokenizer(kind, text(THOUSAND * 200))
    ids = tokenizer.encode(THOUSAND * 200)
    assert tokenizer.decode(ids) == THOUSAND * 200
    assert len(ids) < 0.6 * len(THOUSAND * 200)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "letters", ["กขคงจชซญดตถทนบปผพมยรลวสหอาเแโไ", "abcdefghijklmnopqrstuvwxyz"], ids=["thai", "latin"]
)
def test_words_are_found_in_documents_without_spaces(letters: str) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices(letters, k=draw.randint(2, 6))) for _ in range(200)]
    documents = "\n".join("".join(draw.choices(words, k=5000)) for _ in range(6))
    tokens = {kind: len(train_tokenizer(kind, text(documents), 800).encode(documents)) for kind in ("subword", "bpe")}
    assert tokens["subword"] < tokens["bpe"] < len(documents) / 3


def test_a_text_without_spaces_is_sampled_by_its_different_words(monkeypatch: pytest.MonkeyPatch) -> None:
    dna = text("\n".join("".join(random.choices("ACGT", k=5000)) for _ in range(20)))
    prose = text("the same words again and again\n" * 3000)
    assert tokenizer_training._bytes_by_distinct_words(dna, 10_000) == pytest.approx(10_000, rel=0.01)
    assert tokenizer_training._bytes_by_distinct_words(prose, 10_000) == prose.size
    seen: list[int] = []
    sentences = tokenizer_training._sentences
    monkeypatch.setattr(tokenizer_training, "DISTINCT", 1000)
    monkeypatch.setattr(tokenizer_training, "DISTINCT_OF_PIECE", 20)
    monkeypatch.setattr(
        tokenizer_training, "_sentences", lambda sample, breaks: seen.append(sample.size) or sentences(sample, breaks)
    )
    for kind in ("subword", "bpe"):
        train_tokenizer(kind, dna, 400)
    assert seen == [pytest.approx(8000, rel=0.1), dna.size]


def test_another_torchtext_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name.startswith("torchtext"):
                raise OSError("Could not load this library: libtorchtext.so")

    for name in [name for name in sys.modules if name.split(".")[0] == "torchtext"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ImportError, match=r'pip install "torchtext==0\.6\.\*".*libtorchtext\.so'):
        train_tokenizer("word", text(PROSE))


def test_rare_entries_are_left_out() -> None:
    word, char = (train_tokenizer(kind, text("b a c c\nb a c a\n"), None, "blank", 3) for kind in ("word", "char"))
    assert isinstance(word, WordTokenizer)
    assert isinstance(char, CharTokenizer)
    assert word.tokens == ["<unk>", "<eos>", "a", "c"]
    assert char.tokens == ["<unk>", " ", "a", "c"]


def test_words_apart_from_punctuation_have_entries_of_their_own() -> None:
    word = train_tokenizer("word", text("one, two, three\n"), None, "punctuation")
    assert isinstance(word, WordTokenizer)
    assert word.tokens == ["<unk>", "<eos>", ",", "one", "three", "two"]
    assert word.encode("one , two") == word.encode("one, two")
