import errno
import json
import lzma
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wnseq.data.text import encoding, stream
from wnseq.data.text.encoding import Counts, encode, encode_text, exp
from wnseq.data.text.stream import Text
from wnseq.data.text.tokenizer import KINDS, ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer
from wnseq.data.text.tokenizer_training import train_tokenizer

PROSE = "the cat sat\non the <unk> mat — naïve\n\n" * 50
TEXT = Text.of(PROSE.encode())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_tokens_are_the_encoded_text(monkeypatch: pytest.MonkeyPatch, kind: str, block: int) -> None:
    monkeypatch.setattr(stream, "BLOCK", block)
    tokenizer = train_tokenizer(kind, TEXT)
    split = encode(TEXT, tokenizer, "prose")
    assert isinstance(split.tokens, np.memmap)
    assert split.tokens.tolist() == tokenizer.encode(PROSE)
    written = 50 if kind == "word" else 0
    assert split.counts == Counts(len(split.tokens), 600, len(PROSE), len(PROSE.encode()), 0, written, 0, 0)


def test_the_counts_of_tokens_are_those_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "COUNTED", 7)
    split = encode(TEXT, train_tokenizer("word", TEXT), "prose")
    expected = [split.tokens.tolist().count(index) for index in range(100)]
    assert split.token_counts(100).tolist() == expected and 0 in expected


def test_the_counts_of_words_are_those_of_a_word_tokenizer() -> None:
    split = encode(TEXT, train_tokenizer("word", TEXT), "prose")
    assert split.counts.words == split.counts.tokens


def test_unknown_counts_what_the_vocabulary_lacks_not_what_the_text_calls_unknown() -> None:
    word = encode(TEXT, WordTokenizer(["<unk>", "<eos>", "the", "cat"]), "prose")
    assert word.counts.unknown == 50 * 5  # sat, on, mat, — and naïve
    char = encode(TEXT, train_tokenizer("char", Text.of(PROSE.replace("c", "").encode())), "prose")
    assert char.counts.unknown == 50


@pytest.mark.parametrize("words", ["blank", "punctuation", "basic_english"])
def test_a_written_unknown_is_counted_as_the_words_are(words: str) -> None:
    text = "the <unk> , the <unk> . the rat <unk>\n" if words == "blank" else "the <unk>, the <unk>. the rat <unk>\n"
    counts = encode_text(text, WordTokenizer(["<unk>", "<eos>", "the", ",", "."], words)).counts
    assert (counts.tokens, counts.unknown, counts.written) == (10, 1, 3)
    assert counts.spelling == len("rat ") + 3 * len("<unk> ")


@pytest.mark.parametrize("kind", ["word", "char"])
def test_unknown_tokens_cost_their_spelling(kind: str) -> None:
    """A text in which all is unknown, as random words are, costs at least as many bits as it has bytes to spell."""
    draw = random.Random(0)
    text = "".join("".join(draw.choices("abcdefgh", k=8)) + " \n"[n % 9 == 8] for n in range(900))
    tokenizer = WordTokenizer(["<unk>", "<eos>"]) if kind == "word" else CharTokenizer(["<unk>", "\n"])
    counts = encode(Text.of(text.encode()), tokenizer, "random").counts
    assert counts.spelling == (900 * 9 if kind == "word" else len(text) - 100)
    assert counts.bits(0.0) == 8 * counts.spelling
    assert counts.bits(math.log(2)) == 8 * counts.spelling + 1
    assert counts.bits(0.0) / counts.bytes > 8 * len(lzma.compress(text.encode())) / len(text)


def test_the_spelling_is_in_utf8() -> None:
    tokenizer = WordTokenizer(["<unk>", "<eos>", "the"])
    counts = encode(Text.of("the naïve 漢\n".encode()), tokenizer, "utf8").counts
    assert (counts.unknown, counts.spelling) == (2, len("naïve ".encode()) + len("漢 ".encode()))
    counts = encode(Text.of(b"the <unk> x\n"), tokenizer, "both").counts
    assert (counts.unknown, counts.written, counts.spelling) == (1, 1, len(b"<unk> x "))
    counts = encode(Text.of(b"the <unk> the\n"), tokenizer, "written").counts
    assert (counts.unknown, counts.written, counts.spelling) == (0, 1, 0)


def test_the_word_of_a_lines_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The text has the word <eos>, which is the entry for a line's end.*sed"):
        encode(Text.of(b"the end <eos>\nthe\n"), WordTokenizer(["<unk>", "<eos>", "the"]), "eos")
    assert encode(Text.of(b"<eos>\n"), ByteTokenizer(), "eos").counts.tokens == 6
    assert encode(Text.of(b"a<eos>\n"), WordTokenizer(["<unk>", "<eos>"]), "inside").counts.unknown == 1


def test_ids_are_as_narrow_as_the_vocabulary_allows() -> None:
    many = WordTokenizer(["<unk>", "<eos>", *(f"w{index}" for index in range(1 << 16))])
    assert encode(TEXT, train_tokenizer("word", TEXT), "prose").tokens.dtype == np.uint16
    wide = encode(Text.of(b"w65535 w0\n"), many, "wide").tokens
    assert wide.dtype == np.int32
    assert wide.tolist() == [65537, 2, 1]


def test_a_text_is_encoded_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first = encode(TEXT, ByteTokenizer(), "prose")
    monkeypatch.setattr(encoding, "_encode", None)
    again = encode(TEXT, ByteTokenizer(), "prose")
    assert again.counts == first.counts
    assert np.array_equal(again.tokens, first.tokens)
    assert sorted(path.suffix for path in cache.iterdir()) == [".bin", ".json"]


def test_another_text_or_tokenizer_is_another_file(cache: Path) -> None:
    for content in ("one", "two"):
        for tokenizer in (ByteTokenizer(), train_tokenizer("char", TEXT)):
            encode(TEXT, tokenizer, content)
    assert len(list(cache.glob("*.bin"))) == 4


@pytest.mark.parametrize("suffix", [".bin", ".json"])
@pytest.mark.parametrize("damage", ["missing", "short", "empty", "long", "digit"])
def test_a_damaged_cache_is_made_again(
    cache: Path, suffix: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = encode(TEXT, ByteTokenizer(), "prose").tokens.tolist()
    (path,) = cache.glob(f"*{suffix}")
    content = path.read_bytes()
    place = content.rindex(b"words") + 8 if suffix == ".json" else 5
    digit = content[:place] + (b"7" if content[place : place + 1] == b"9" else b"9") + content[place + 1 :]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"short": content[:-1], "empty": b"", "long": content + b"0", "digit": digit}[damage])
    assert encode(TEXT, ByteTokenizer(), "prose").tokens.tolist() == whole
    assert path.read_bytes() == content
    assert ("is damaged, and made again" in capsys.readouterr().err) == (damage != "missing")


@pytest.mark.parametrize("nth", [1, 2])  # of the two files: the ids, and the counts without which they aren't trusted
def test_a_full_disk_leaves_nothing_that_is_trusted(monkeypatch: pytest.MonkeyPatch, cache: Path, nth: int) -> None:
    calls = iter(range(1, 100))
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if next(calls) >= (nth if nth == 1 else 3):  # each file is followed by its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"the disk is full.*WNSEQ_CACHE"):
            encode(TEXT, ByteTokenizer(), "prose")
    assert not list(cache.glob("*.json"))
    assert not list(cache.glob(".*"))
    assert encode(TEXT, ByteTokenizer(), "prose").tokens.tolist() == list(PROSE.encode())


def test_what_is_not_utf8_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(PROSE.encode("cp1252", "replace"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text"):
        encode(Text.of(tmp_path / "latin.txt"), ByteTokenizer(), "latin")
    assert list(cache.iterdir()) == []


def test_an_empty_text_has_no_tokens() -> None:
    split = encode(Text(()), ByteTokenizer(), "empty")
    assert split.counts == Counts(*[0] * 8) and len(split.tokens) == 0


class Slow(ByteTokenizer):
    def encode(self, text: str) -> list[int]:
        time.sleep(0.03)
        return super().encode(text)


@pytest.mark.parametrize(("tokenizer", "shown"), [(ByteTokenizer(), False), (Slow(), True)])
def test_a_bar_appears_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tokenizer: Tokenizer, shown: bool
) -> None:
    monkeypatch.setattr(stream, "BLOCK", 100)
    monkeypatch.setattr(encoding, "PATIENCE", 0.05 if shown else 9)
    encode(TEXT, tokenizer, "prose", "train")
    assert ("encoding train" in capsys.readouterr().err) is shown


LIMITED = """
import resource, sys
from pathlib import Path
from wnseq.data.text import stream
from wnseq.data.text.corpora import open_corpus
from wnseq.data.text.tokenizer_training import train_tokenizer
from wnseq.data.text.encoding import encode
from wnseq.data.text.bptt import Streams

def prepare(path, kind):
    corpus = open_corpus(path)
    tokenizer = train_tokenizer(kind, corpus.parts["train"])
    split = encode(corpus.parts["train"], tokenizer, corpus.part_sha256("train"))
    Streams(split.tokens, 8, tokenizer.start).batch(1000, 1064, reset_state=True)
    return split.counts.bytes

stream.BLOCK >>= 3  # so that what a block takes is a small part of the limit
small, large, megabytes = sys.argv[1:]
print(prepare(small, "word"), prepare(small, "byte"))  # so that everything is loaded
status = Path("/proc/self/status").read_text().splitlines()
limit = 1024 * next(int(line.split()[1]) for line in status if "VmData" in line) + (int(megabytes) << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(prepare(large, "word"), prepare(large, "byte"))
try:
    open_corpus(large).parts["train"].read()
except MemoryError:
    print("the limit is one")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit and /proc are Linux's")
def test_a_corpus_larger_than_memory_is_encoded(tmp_path: Path) -> None:
    line = "".join(f"word{number} and so on to the end of the line\n" for number in range(1000))
    (tmp_path / "small.txt").write_text(line * 20)
    (tmp_path / "large.txt").write_text(line * 150)
    megabytes = (tmp_path / "large.txt").stat().st_size >> 21  # half of it: 2; a file of any size takes less than 0.5
    arguments = [str(tmp_path / "small.txt"), str(tmp_path / "large.txt"), str(megabytes)]
    done = subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *encoded, last = done.stdout.splitlines()
    assert [int(each) / len(line) for each in encoded[1].split()] == pytest.approx([135, 135], rel=0.01)
    assert last == "the limit is one"


def test_the_counts_beside_the_ids_can_be_read(cache: Path) -> None:
    encode(TEXT, ByteTokenizer(), "prose")
    (path,) = cache.glob("*.json")
    assert json.loads(path.read_text())["values"]["counts"]["bytes"] == len(PROSE.encode())


# ---- units


def units(kind: str, content: str, **options: str) -> dict[str, float]:
    tokenizer = train_tokenizer(kind, Text.of(content.encode()), None, **options)
    return encode_text(content, tokenizer).counts.units(2.0, tokenizer)


BY_TEXT = {"bits_per_character", "bits_per_byte"}


@pytest.mark.parametrize(
    ("kind", "content", "options", "expected"),
    [
        ("word", PROSE, {}, {"word_perplexity", *BY_TEXT}),
        ("subword", PROSE, {}, {"word_perplexity", *BY_TEXT}),
        ("char", PROSE, {}, BY_TEXT),
        ("byte", PROSE, {}, BY_TEXT),
        ("subword", "权重的方向与长度彼此独立而因此训练得更快。\n" * 99, {}, BY_TEXT),
        ("word", PROSE, {"words": "punctuation"}, {"word_perplexity"}),  # which loses spaces
        ("word", PROSE, {"words": "basic_english"}, {"word_perplexity"}),
    ],
)
def test_the_units_are_those_that_make_sense(
    kind: str, content: str, options: dict[str, str], expected: set[str]
) -> None:
    assert set(units(kind, content, **options)) == {"nats_per_token", "perplexity", *expected}


def test_the_units_of_words_agree() -> None:
    for words in ("blank", "punctuation"):
        found = units("word", PROSE, words=words)
        assert found["word_perplexity"] == pytest.approx(found["perplexity"]) == pytest.approx(math.exp(2))
    found = units("byte", PROSE)
    assert found["bits_per_byte"] == pytest.approx(2 / math.log(2))
    assert exp(1.0) == math.e and exp(1000.0) == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_memory_has_the_ids_and_the_sizes_of_a_file(kind: str) -> None:
    tokenizer = train_tokenizer(kind, Text.of(PROSE[:60].encode()))
    found, expected = encode_text(PROSE, tokenizer), encode(TEXT, tokenizer, "prose")
    assert found.tokens.tolist() == expected.tokens.tolist() and found.counts == expected.counts
    with pytest.raises(ValueError, match="the text is empty"):
        encode_text("", tokenizer)


def test_a_text_without_a_token_is_refused() -> None:
    tokenizer = train_tokenizer("word", Text.of(PROSE.encode()))
    with pytest.raises(ValueError, match="the text has no token: there is nothing to measure"):
        encode_text("   ", tokenizer)
