"""Token ids of a text, encoded once, cached on the disk and mapped into memory."""

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from wnseq._files import atomic_write
from wnseq.data._files import cache_folder, checksum, read_cached, read_json, write_json
from wnseq.data.text.stream import Text
from wnseq.data.text.tokenizer import UNKNOWN, Tokenizer
from wnseq.errors import FileFormatError

FORMAT = 5  # of the cached files; changes with everything that changes their content
# Runs of characters whose words no spaces separate: Thai, Lao, Burmese, Khmer, Japanese, Chinese.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
COUNTED = 1 << 22  # tokens that are counted at once
PATIENCE = 2.0  # seconds after which a progress bar appears
Ids = np.ndarray[tuple[int], np.dtype[np.integer]]


@dataclass(frozen=True)
class Counts:
    """Sizes of a text, by which a loss per token becomes one per word, character or byte.

    Args:
        tokens: Number of ids.
        words: Words, whitespace-separated except for a word tokenizer with others, plus one for each line's end: the
            tokens of a word tokenizer.
        characters: Unicode characters.
        bytes: Bytes of UTF-8.
        unknown: Tokens outside the vocabulary (a ``<unk>`` in the text itself not counted).
        written: Words of the text that are ``<unk>`` themselves.
        spelling: Bytes that spell the unknown tokens.
        unspaced: Characters of scripts without spaces between words.
    """

    tokens: int
    words: int
    characters: int
    bytes: int
    unknown: int
    written: int
    spelling: int
    unspaced: int

    def bits(self, nats: float) -> float:
        """Return the bits of the whole text: those of its tokens, and 8 for each byte that spells an unknown one.

        So it is an upper bound, as long as a code for the text: what a model predicts as ``<unk>`` can be any word.

        Args:
            nats: Negative log-likelihood of all tokens.

        Note:
            White space is that of the tokens: a word text's is one space or line end each.
        """
        return nats / math.log(2) + 8 * self.spelling

    def units(self, nats_per_token: float, tokenizer: Tokenizer) -> dict[str, float]:
        """Return a loss in the units in which language models are compared, those that make sense for the text.

        ``word_perplexity`` is left out for characters and bytes, and where white space does not separate words
        (Chinese); ``bits_per_character`` and ``bits_per_byte`` for words that do not keep the text.
        """
        nats = nats_per_token * self.tokens
        values = {"nats_per_token": nats_per_token, "perplexity": exp(nats_per_token)}
        if tokenizer.kind in ("word", "subword") and self.unspaced < self.characters / 10:
            values["word_perplexity"] = exp(nats / self.words)
        if tokenizer.keeps_text:
            values["bits_per_character"] = self.bits(nats) / self.characters
            values["bits_per_byte"] = self.bits(nats) / self.bytes
        return values


def exp(x: float) -> float:
    """Return e to the power of x; infinity where a float overflows, as an untrained model's perplexity may."""
    return math.exp(x) if x < 709 else math.inf


@dataclass(frozen=True)
class Split:
    """One part of a corpus, encoded.

    Args:
        tokens: The ids, mapped from the disk, read-only.
        counts: Sizes of the text.
    """

    tokens: Ids
    counts: Counts

    def token_counts(self, entries: int) -> Ids:
        """Return how often each of so many entries of the vocabulary occurs, ``(V,)``."""
        total = np.zeros(entries, np.int64)
        for first in range(0, len(self.tokens), COUNTED):  # a part at a time: bincount makes a copy of 8 bytes a token
            total += np.bincount(self.tokens[first : first + COUNTED], minlength=entries)
        return total


def encode(text: Text, tokenizer: Tokenizer, content: str, name: str = "") -> Split:
    """Return a text's ids, encoded now, in bounded memory, or found in the cache.

    Args:
        text: One part of a corpus.
        tokenizer: The tokenizer.
        content: A hash of the text.
        name: Label of the progress bar.

    Raises:
        ValueError: The text is not UTF-8.
        OSError: The disk is full; no file is left.
    """
    key = sha256(f"{FORMAT} {content} {tokenizer.sha256}".encode()).hexdigest()
    path = cache_folder() / "tokens" / f"{key}.bin"
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<i4")
    counts = read_cached(path, lambda path: _stored(path, dtype))
    if counts is None:
        counts = _encode(text, tokenizer, path, dtype, name)
    if not counts.tokens:  # an empty file can't be mapped
        return Split(np.empty(0, dtype), counts)
    return Split(np.memmap(path, dtype, "r", shape=(counts.tokens,)), counts)


def _stored(path: Path, dtype: np.dtype[np.integer]) -> Counts:
    """Return the counts of a cached file.

    Raises:
        FileFormatError: It is not what was written.
    """
    stored = read_json(path.with_suffix(".json"))
    counts = Counts(**stored["counts"])
    if path.stat().st_size != counts.tokens * dtype.itemsize or checksum(path) != stored["crc32"]:
        raise FileFormatError(f"{path} has another length or checksum than it was written with")
    return counts


def encode_text(text: str, tokenizer: Tokenizer) -> Split:
    """Return the ids of a text in memory, and its sizes.

    Raises:
        ValueError: The text has no token: it is empty, or blanks to a tokenizer of words.
    """
    tokens = np.asarray(tokenizer.encode(text))
    if not len(tokens):
        what = "has no token" if text else "is empty"
        raise ValueError(f"the text {what}: there is nothing to measure")
    return Split(tokens, _counts([_count(text, tokens, tokenizer)]))


def _encode(text: Text, tokenizer: Tokenizer, path: Path, dtype: np.dtype[np.integer], name: str) -> Counts:
    bar = tqdm(total=text.size, desc=f"encoding {name}".strip(), unit="B", unit_scale=True, delay=PATIENCE, leave=False)
    path.with_suffix(".json").unlink(missing_ok=True)
    counted = []
    with atomic_write(path) as file, contextlib.closing(bar):
        for chunk in text.chunks():
            ids = np.asarray(tokenizer.encode(chunk), dtype)
            file.write(ids.tobytes())
            counted.append(_count(chunk, ids, tokenizer))
            bar.update(counted[-1].bytes)
    counts = _counts(counted)
    # last: without it the ids are not trusted
    write_json(path.with_suffix(".json"), {"counts": asdict(counts), "crc32": checksum(path)})
    return counts


def _count(chunk: str, ids: Ids, tokenizer: Tokenizer) -> Counts:
    """Return the sizes of a chunk of a text, in which what is written as <unk> needs no spelling."""
    words = len(ids) if tokenizer.kind == "word" else len(chunk.split()) + chunk.count("\n")
    unknown = written = spelling = 0
    if tokenizer.unknown is not None and (found := int((ids == tokenizer.unknown).sum())):
        unknown, spelling = tokenizer.spelling(chunk)
        written = found - unknown
    unspaced = 0 if chunk.isascii() else sum(map(len, UNSPACED.findall(chunk)))
    return Counts(len(ids), words, len(chunk), len(chunk.encode()), unknown, written, spelling, unspaced)


def _counts(chunks: Sequence[Counts]) -> Counts:
    """Return the sizes of a whole text; if it has unknown words, a written <unk> has to be spelled as well."""
    total = Counts(*(sum(sizes) for sizes in zip(*map(astuple, chunks), strict=True)) if chunks else (0,) * 8)
    extra = total.written * (len(UNKNOWN) + 1) if total.unknown else 0
    return replace(total, spelling=total.spelling + extra)
