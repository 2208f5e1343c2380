"""Training a tokenizer on a text of any length. It is cached."""

import io
import json
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from wnseq._files import atomic_write
from wnseq.data._files import cache_folder, read_cached
from wnseq.data.text.stream import Text
from wnseq.data.text.tokenizer import (
    LINE_END,
    SPACE,
    UNKNOWN,
    ByteTokenizer,
    CharTokenizer,
    SubwordTokenizer,
    Tokenizer,
    WordTokenizer,
)
from wnseq.data.text.words import BLANK, word_splitter
from wnseq.errors import FileFormatError

SUBWORDS = 2000  # default size
SAMPLE = 8 << 20  # bytes that sentencepiece sees of a longer text: 15 seconds and 400 MB
DISTINCT = 1 << 19  # bytes of different words that the unigram model sees: its time is that of these, 40 seconds
DISTINCT_OF_PIECE = 256  # the same for each piece of a large vocabulary
SENTENCE = 4192  # bytes; sentencepiece skips longer lines
# Characters; longer runs without white space are cut. In long runs of characters of several bytes sentencepiece finds
# few pieces: it looks for byte strings that recur, and most of those end inside of a character.
RUN = 32
FORMAT = 3  # of the cached file; changes with everything that changes the tokenizer


def train_tokenizer(
    kind: str, text: Text, size: int | None = None, words: str = BLANK, min_count: int = 1
) -> Tokenizer:
    """Return a tokenizer trained on a text, now or found in the cache.

    Args:
        kind: ``word``, ``subword`` (sentencepiece's unigram model), ``bpe``, ``char`` or ``byte``.
        text: The training part.
        size: Entries at most, the most frequent; None for all words or characters, 2000 subwords.
        words: What a word is, of the kind ``word``.
        min_count: Times that a word or character must be in the text to be an entry.

    Raises:
        ValueError: The size does not suit the kind or the text.
    """
    if kind == "byte":
        return ByteTokenizer()
    key = sha256(f"{FORMAT} {kind} {size} {words} {min_count} {text.sha256()}".encode()).hexdigest()
    path = cache_folder() / "vocabularies" / f"{key}.json"
    if stored := read_cached(path, _stored):
        return stored
    tokenizer = _train(kind, text, size, words, min_count)
    state = tokenizer.state()
    if "model" in state:
        state["model"] = b64encode(state["model"]).decode()
    with atomic_write(path) as file:
        file.write(json.dumps({"sha256": tokenizer.sha256, "state": state}).encode())
    return tokenizer


def _stored(path: Path) -> Tokenizer:
    """Return the tokenizer in a cached file.

    Raises:
        FileFormatError: It has another hash than it was written with.
    """
    stored = json.loads(path.read_text("utf-8"))
    state = stored["state"]
    if "model" in state:
        state["model"] = b64decode(state["model"])
    tokenizer = Tokenizer.from_state(state)
    if tokenizer.sha256 != stored["sha256"]:
        raise FileFormatError(f"{path} has another hash than it was written with")
    return tokenizer


def _train(kind: str, text: Text, size: int | None, words: str, min_count: int) -> Tokenizer:
    if kind == "word":
        return _words(text, size, words, min_count)
    if kind == "char":
        return _characters(text, size, min_count)
    return _subwords(text, size, "unigram" if kind == "subword" else "bpe")


def _words(text: Text, size: int | None, words: str, min_count: int) -> WordTokenizer:
    counts: Counter[str] = Counter()
    split = word_splitter(words)
    for chunk in text.chunks():
        for line in chunk.split("\n"):
            counts.update(split(line))
    return WordTokenizer(_vocabulary(counts, size, [UNKNOWN, LINE_END], min_count), words)


def _characters(text: Text, size: int | None, min_count: int) -> CharTokenizer:
    unknown, *characters = _vocabulary(_count_characters(text), size, [UNKNOWN], min_count)
    return CharTokenizer([unknown, *sorted(characters)])


def _vocabulary(counts: Counter[str], size: int | None, specials: list[str], min_count: int) -> list[str]:
    """Return ``specials`` and then the most frequent entries, equal counts in alphabetical order."""
    try:
        from torchtext.vocab import Vocab
    except (ImportError, OSError) as error:  # OSError: a release with a binary for another torch
        raise ImportError(
            "Word and char tokenizers need torchtext 0.6, its last release that runs beside any torch: "
            f'pip install "torchtext==0.6.*" (what is installed failed with: {error}).'
        ) from error
    most = None if size is None else size - len(specials)
    entries: list[str] = Vocab(counts, max_size=most, min_freq=min_count, specials=specials).itos
    return entries


def _subwords(text: Text, size: int | None, model_type: str) -> SubwordTokenizer:
    from sentencepiece import SentencePieceTrainer

    wanted = size or SUBWORDS
    sample = _sample(text)
    if model_type == "unigram":
        sample = _sample(text, _bytes_by_distinct_words(sample, max(DISTINCT, DISTINCT_OF_PIECE * wanted)))
    # Of the pieces, 256 are bytes, one is <unk>, one the newline. Characters may take half of the rest; the rarer ones
    # become bytes (Chinese has more characters than a small vocabulary has pieces).
    counts = _count_characters(sample)
    rare = [character for character, _ in counts.most_common()[(wanted - 258) // 2 :]]
    breaks = dict.fromkeys(map(ord, [*rare, SPACE]), "\n")
    while True:
        model = io.BytesIO()
        try:
            SentencePieceTrainer.train(
                sentence_iterator=_sentences(sample, breaks),
                model_writer=model,
                model_type=model_type,
                vocab_size=wanted,
                character_coverage=1.0,
                byte_fallback=True,
                user_defined_symbols=["\n"],
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,  # indentation is one token
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=4,  # fixed: sums in another order could give other pieces
                max_sentence_length=SENTENCE,
                minloglevel=2 if model_type == "bpe" else 1,  # BPE warns where a text has no more pieces to give
            )
        except RuntimeError as error:
            if (limit := re.search(r"value <= (\d+)", str(error))) is None:
                raise ValueError(
                    "Subwords can't be trained on the training part: it has hardly anything but line ends. "
                    "Tokenizer byte takes any text."
                ) from error
            if size is not None:
                raise ValueError(
                    f"vocabulary_size {size} is more subwords than the text yields: the largest possible is {limit[1]}."
                ) from None
            wanted = int(limit[1])
        else:
            return SubwordTokenizer(model.getvalue())


def _count_characters(text: Text) -> Counter[str]:
    counts: Counter[str] = Counter()
    for chunk in text.chunks():
        counts.update(chunk)
    return counts


def _sample(text: Text, size: int = SAMPLE, runs: int = 32) -> Text:
    """Return the text, or evenly spread runs of it, ``size`` bytes in all."""
    if text.size <= size:
        return text
    sample = Text(())
    for run in range(runs):
        start = text.boundary(run * text.size // runs)
        stop = start + size // runs
        line = text.boundary(stop)
        sample += text.slice(start, line if line <= stop + size // runs else text.character_boundary(stop))
    return sample


def _bytes_by_distinct_words(sample: Text, most: int) -> int:
    """Return how many bytes of a sample have about ``most`` bytes of different words: all, where words recur."""
    words: set[str] = set()
    for chunk in sample.chunks():
        words.update(chunk.split())
    distinct = sum(len(word.encode()) for word in words)
    return sample.size if distinct <= most else sample.size * most // distinct


def _sentences(text: Text, breaks: dict[int, str]) -> Iterator[bytes]:
    """Yield lines in UTF-8, ended by some other characters as well; long ones are cut, before a space if possible."""
    for chunk in text.chunks():
        cut_runs = re.sub(rf"(\S{{{RUN}}})(?=\S)", r"\1\n", chunk.translate(breaks))
        for line in cut_runs.encode().split(b"\n"):
            while len(line) > SENTENCE:
                cut = line.rfind(b" ", 1, SENTENCE)
                if cut < 0:
                    cut = next(end for end in range(SENTENCE, 0, -1) if line[end] & 0xC0 != 0x80)  # between characters
                yield line[:cut]
                line = line[cut:]
            if line:
                yield line
