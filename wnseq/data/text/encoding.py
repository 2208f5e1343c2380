"""Token ids of a text, encoded once, cached on the disk and mapped into memory."""

import contextlib
import json
import math
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from wnseq.data._files import atomic_write, cache_folder
from wnseq.data.text.stream import Text
from wnseq.data.text.tokenizer import UNKNOWN, Tokenizer

FORMAT = 2  # of the cached files; changes with everything that changes their content
PATIENCE = 2.0  # seconds after which a progress bar appears
Ids = np.ndarray[tuple[int], np.dtype[np.integer]]


@dataclass(frozen=True)
class Counts:
    """Sizes of a text, by which a loss per token becomes one per word, character or byte.

    Args:
        tokens: Number of ids.
        words: Whitespace-separated words, plus one for each line's end: the tokens of a word tokenizer.
        characters: Unicode characters.
        bytes: Bytes of UTF-8.
        unknown: Tokens outside the vocabulary (a ``<unk>`` in the text itself not counted).
        written: Words of the text that are ``<unk>`` themselves.
        spelling: Bytes that spell the unknown tokens.
    """

    tokens: int
    words: int
    characters: int
    bytes: int
    unknown: int
    written: int
    spelling: int

    def bits(self, nats: float) -> float:
        """Return the bits of the whole text: those of its tokens, and 8 for each byte that spells an unknown one.

        So it is an upper bound, as long as a code for the text: what a model predicts as ``<unk>`` can be any word.

        Args:
            nats: Negative log-likelihood of all tokens.

        Note:
            White space is that of the tokens: a word text's is one space or line end each.
        """
        return nats / math.log(2) + 8 * self.spelling


@dataclass(frozen=True)
class Split:
    """One part of a corpus, encoded.

    Args:
        tokens: The ids, mapped from the disk, read-only.
        counts: Sizes of the text.
    """

    tokens: Ids
    counts: Counts


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
    counts = _stored(path, dtype)
    if counts is None:
        counts = _encode(text, tokenizer, path, dtype, name)
    if not counts.tokens:  # an empty file can't be mapped
        return Split(np.empty(0, dtype), counts)
    return Split(np.memmap(path, dtype, "r", shape=(counts.tokens,)), counts)


def _stored(path: Path, dtype: np.dtype[np.integer]) -> Counts | None:
    """Return the counts of a cached file, None where it is missing or damaged."""
    try:
        counts = Counts(**json.loads(path.with_suffix(".json").read_text("utf-8")))
        whole = path.stat().st_size == counts.tokens * dtype.itemsize
    except Exception:  # a damaged file raises nearly anything
        return None
    return counts if whole else None


def _encode(text: Text, tokenizer: Tokenizer, path: Path, dtype: np.dtype[np.integer], name: str) -> Counts:
    tokens = words = characters = unknown = written = spelling = 0
    literal = tokenizer.kind == "word"  # only there is "<unk>" in the text the same entry
    bar = tqdm(total=text.size, desc=f"encoding {name}".strip(), unit="B", unit_scale=True, delay=PATIENCE, leave=False)
    path.with_suffix(".json").unlink(missing_ok=True)
    with atomic_write(path) as file, contextlib.closing(bar):
        for chunk in text.chunks():
            ids = np.asarray(tokenizer.encode(chunk), dtype)
            file.write(ids.tobytes())
            seen = chunk.split()
            tokens += len(ids)
            words += len(seen) + chunk.count("\n")
            characters += len(chunk)
            if tokenizer.unknown is not None and (found := int((ids == tokenizer.unknown).sum())):
                said = seen.count(UNKNOWN) if literal else 0
                unknown += found - said
                written += said
                spelling += tokenizer.spelling_bytes(chunk)
            bar.update(len(chunk.encode()))
    if unknown:  # then a written <unk> has to be spelled as well
        spelling += written * (len(UNKNOWN) + 1)
    counts = Counts(tokens, words, characters, text.size, unknown, written, spelling)
    with atomic_write(path.with_suffix(".json")) as file:  # last: without it the ids are not trusted
        file.write(json.dumps(asdict(counts)).encode())
    return counts
